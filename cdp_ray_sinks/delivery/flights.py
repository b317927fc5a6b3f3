"""Batches on their way: tickets, what they weigh, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.push import (
    DEAD_LETTERED,
    DROPPED,
    DURABLE,
    REFUSED,
    SPOOLED,
    Outcomes,
    Payload,
)
from cdp_ray_sinks.errors import BatchConflictError

if TYPE_CHECKING:
    from cdp_ray_sinks.delivery.streams import Stream


class BatchTicket:
    """The promise about one batch, kept once every required sink has settled it."""

    __slots__ = ("_done", "_outcomes")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._outcomes: Outcomes = ()

    def done(self) -> bool:
        """Whether every required sink has settled the batch."""
        return self._done.is_set()

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        """Wait for it; sink name to outcome.

        Raises TimeoutError, or BatchConflictError if a sink refused the batch's id.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"not settled within {timeout_s} s")
        found = dict(self._outcomes)
        refused = [sink for sink, outcome in found.items() if outcome == REFUSED]
        if refused:
            raise BatchConflictError(f"same id, other content, refused by {', '.join(refused)}")
        return found

    def settle(self, outcomes: Outcomes) -> None:
        """Keep the promise; later calls may add optional sinks' outcomes."""
        self._outcomes = outcomes
        self._done.set()


@dataclass(slots=True)
class Hold:
    """One object's weight in the window, given back when its last batch settles."""

    held_bytes: int
    batches_left: int


@dataclass(slots=True)
class Flight:
    """A batch under its final id between submission and its last settlement.

    `number` is its sequence, unless another node gave it that, in a `stream`.
    """

    header: BatchHeader
    payload: Payload
    hold: Hold
    ticket: BatchTicket
    number: int
    stream: Stream | None = None
    state: int = 0
    queued_ms: int = 0


class Window:
    """What a producer may have in flight, in bytes and batches; the caller holds its lock.

    While several workspaces are in flight no one of them may hold more than a quarter of the
    bytes, so that a stuck workspace leaves room for the others.
    """

    def __init__(self, window_bytes: int, window_batches: int) -> None:
        self._window_bytes = window_bytes
        self._window_batches = window_batches
        self._batches = 0
        self._by_workspace: dict[int, int] = {}
        self.used_bytes = 0

    def admits(self, hold: Hold, headers: Sequence[BatchHeader]) -> bool:
        """Whether there is room. An empty window admits anything, however large."""
        if not self._batches:
            return True
        if self.used_bytes + hold.held_bytes > self._window_bytes:
            return False
        if self._batches + len(headers) > self._window_batches:
            return False
        workspace_id = headers[0].workspace_id
        held = self._by_workspace.get(workspace_id, 0)
        others = len(self._by_workspace) - (1 if held else 0)
        if not held or not others or any(h.workspace_id != workspace_id for h in headers):
            return True  # an object of several workspaces goes whole or not at all
        more_bytes = sum(header.record_bytes for header in headers)
        return held + more_bytes <= self._window_bytes // 4

    def take(self, hold: Hold, headers: Sequence[BatchHeader]) -> None:
        """Account for an object and the batches in it."""
        self.used_bytes += hold.held_bytes
        self._batches += len(headers)
        for header in headers:
            held = self._by_workspace.get(header.workspace_id, 0)
            self._by_workspace[header.workspace_id] = held + header.record_bytes

    def settle(self, flight: Flight) -> None:
        """Give back one batch, and its object's bytes when it was the last of it."""
        flight.hold.batches_left -= 1
        self._release(flight.header)
        if not flight.hold.batches_left:
            self.used_bytes -= flight.hold.held_bytes

    def give_back(self, hold: Hold, headers: Sequence[BatchHeader]) -> None:
        """Undo `take` for something that never left."""
        for header in headers:
            self._release(header)
        self.used_bytes -= hold.held_bytes

    def _release(self, header: BatchHeader) -> None:
        self._batches -= 1
        left = self._by_workspace[header.workspace_id] - header.record_bytes
        if left > 0:
            self._by_workspace[header.workspace_id] = left
        else:
            del self._by_workspace[header.workspace_id]


@dataclass(slots=True)
class SinkTally:
    """What one sink settled: counted from its answers, so it survives any actor's death.

    `events` are durable at the sink, `spooled` those that it was to get from its spool.
    """

    batches: int = 0
    messages: int = 0
    events: int = 0
    record_bytes: int = 0
    dropped: int = 0
    dead_letters: int = 0
    refused: int = 0
    spooled: int = 0

    def add(self, other: SinkTally) -> None:
        """Add another producer's tally of the same sink."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Tallies:
    """A tally per sink."""

    def __init__(self) -> None:
        self._by_sink: dict[str, SinkTally] = {}

    def add(self, header: BatchHeader, outcomes: Outcomes) -> None:
        """Count one batch's final outcomes."""
        for sink, outcome in outcomes:
            tally = self._by_sink.setdefault(sink, SinkTally())
            if outcome == DURABLE:
                tally.batches += 1
                tally.messages += header.message_count
                tally.events += header.event_count
                tally.record_bytes += header.record_bytes
            elif outcome == SPOOLED:
                tally.batches += 1
                tally.messages += header.message_count
                tally.record_bytes += header.record_bytes
                tally.spooled += header.event_count
            elif outcome == DROPPED:
                tally.dropped += header.event_count
            elif outcome == DEAD_LETTERED:
                tally.dead_letters += header.message_count
            else:
                tally.refused += 1

    def copy(self) -> dict[str, SinkTally]:
        """A snapshot by sink name."""
        return {name: replace(tally) for name, tally in self._by_sink.items()}
