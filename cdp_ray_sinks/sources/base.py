"""What a source is, and what it hands its batches to."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, model_validator

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.placement import PlacementConfig


class Ticket(Protocol):
    """A promise about one submitted batch."""

    def done(self) -> bool:
        """Whether every required sink has settled the batch."""
        ...

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        """Wait until done; sink name to outcome (durable, dropped, dead_lettered).

        Raises TimeoutError after `timeout_s`, or the error that refused the batch.
        """
        ...


class BatchTaker(Protocol):
    """Takes batches from a source: the producer, or a list in a test."""

    def submit(self, batch: Batch) -> Ticket:
        """Take one batch; blocks while the window is full.

        On return the caller may reuse the batch's buffers. The taker gives the batch its
        id; the source leaves producer, epoch and sequence empty.
        """
        ...

    def submit_packed(self, batches: Sequence[Batch]) -> Sequence[Ticket]:
        """Take several small batches as one shared object; otherwise as `submit`."""
        ...


@runtime_checkable
class TakesNamed(Protocol):
    """A taker that also takes batches to which another node gave their ids."""

    def submit_as(self, batch: Batch, batch_id: BatchId, low: int) -> Ticket:
        """As `submit`, under that id; no batch of that producer and epoch below `low` will come.

        One that is under way already has one ticket. Raises BatchConflictError if it is and
        has other content.
        """
        ...


class Source(Protocol):
    """Where batches come from."""

    def run(self, taker: BatchTaker, stop: threading.Event) -> None:
        """Submit batches until exhausted or until `stop` is set.

        On return everything received has been submitted and every socket is closed.
        """
        ...

    def counters(self) -> dict[str, int]:
        """A snapshot, from any thread: at least events, messages, bytes, errors."""
        ...

    def progress(self) -> tuple[int, int | None]:
        """Events produced so far, and how many there will be if that is known."""
        ...


@runtime_checkable
class Listens(Protocol):
    """A source that clients connect to."""

    ready: threading.Event
    """Set once clients can."""
    address: str
    """`host:port` that is listened on, known once `ready` is set."""


@runtime_checkable
class HasProblem(Protocol):
    """A source that goes on although something is wrong that somebody should mend."""

    def problem(self) -> str:
        """One sentence, from any thread; empty while all is well."""
        ...


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What surrounds a source when it is built on its node."""

    name: str
    clock: Clock = SystemClock()  # noqa: RUF009 - stateless


class SourceConfig(BaseModel):
    """The keys that every source has. Plain data, picklable, no I/O."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    survives_restart: ClassVar[bool] = True
    """Whether a source whose process died may simply begin again."""

    type: str
    enabled: bool = True
    placement: PlacementConfig | None = None

    @model_validator(mode="after")
    def _can_be_placed(self) -> Self:
        if self.placement is not None and self.placement.replicas > 1:
            raise ValueError("placement.replicas: is for sinks; a source may be per_node")
        return self

    def warnings(self) -> list[str]:
        """Options that are allowed and yet probably not meant: key, and why."""
        return []

    def going_on_after(self, events: int) -> Self:
        """The options of one that takes up, elsewhere, where this one was after so many events."""
        return self

    def build(self, context: SourceContext) -> Source:
        """The live source; nothing is opened yet."""
        raise TypeError(f"source type {self.type!r} has no implementation")
