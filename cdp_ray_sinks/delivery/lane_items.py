"""What a lane keeps about batches between their arrival and their answer."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.delivery.push import DURABLE, PENDING
from cdp_ray_sinks.errors import SinkError

TOGETHER_S: Final = 0.002
"""How long an answer waits for outcomes that come with the first."""


class RefusedEntry(NamedTuple):
    """A message of a batch, or with `entry` just that of all the batch's entries."""

    message: int
    entry: int | None
    reason: str


class DeadLetters(Protocol):
    """Where refused messages go."""

    def put(self, batch: Batch, failed_messages: tuple[int, ...] | None, error: SinkError) -> None:
        """Keep those messages (None = all) durably with the reason; raises TransientError."""
        ...

    def put_entries(self, batch: Batch, refusals: Sequence[RefusedEntry]) -> None:
        """Keep those entries durably, each with its reason; raises TransientError."""
        ...

    def close(self) -> None:
        """Release what is open. Safe to call twice."""
        ...


class PushAnswer:
    """One call being answered: PENDING outcomes become others as its batches settle."""

    __slots__ = (
        "_complete",
        "future",
        "has_known",
        "has_news",
        "is_retried",
        "outcomes",
        "remaining",
    )

    def __init__(self, count: int) -> None:
        self.outcomes = [PENDING] * count
        self.remaining = count
        self.has_news = self.has_known = False
        """Whether it brought a batch that the lane had not; one that it has already."""
        self.is_retried = False
        """Whether the sink could not take one of its batches and is being asked again."""
        self.future: Future[None] = Future()
        """Done once there is something to answer; `wait` says when that is."""
        self._complete = threading.Event()

    @property
    def is_question(self) -> bool:
        """Whether it only asks what became of batches."""
        return self.has_known and not self.has_news

    def settle(self, place: int, outcome: str) -> None:
        """One batch of the call has its outcome."""
        is_first = self.remaining == len(self.outcomes)
        self.outcomes[place] = outcome
        self.remaining -= 1
        if not self.remaining:
            self._complete.set()
            self.release()
        elif is_first and self.is_question:
            self.release()  # who asks wants to know what there is to know

    def wait(self, wait_s: float, *, is_patient: bool) -> list[str]:
        """The outcomes once all are known; after `wait_s` those that are.

        With `is_patient` only if the sink is being asked again. Who only asks is told as soon
        as one is known, and of what settles with it. Raises what broke the lane.
        """
        while True:
            try:
                self.future.result(wait_s)
            except TimeoutError:
                if not (self.is_retried or self.is_question) and is_patient:
                    continue
            else:
                if self.is_question:
                    self._complete.wait(TOGETHER_S)
            return list(self.outcomes)

    def release(self) -> None:
        """Answer with what is known by now."""
        with contextlib.suppress(InvalidStateError):  # it was answered at this very moment
            self.future.set_result(None)


@dataclass(slots=True)
class LaneItem:
    """A batch on its way into the sink, and the places in pushes that wait for it."""

    batch: Batch
    waiting: list[tuple[PushAnswer, int]]
    is_known_new: bool = False
    written: bool = False
    outcome: str = DURABLE


@dataclass(slots=True)
class LaneStream:
    """The batches of one workspace (or of all, where the sink has no workspaces)."""

    items: deque[LaneItem] = field(default_factory=deque)
    error: str | None = None
