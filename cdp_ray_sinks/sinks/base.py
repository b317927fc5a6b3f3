"""What a sink is: a plain class that speaks to its destination and nothing else.

Retries, acknowledgements, deduplication, counters and timing stand around it, in
`delivery`; Ray stands around those, in `actors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.files.landed import Landed, Wanted
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.placement import PlacementConfig


class Sink(Protocol):
    """A destination. One thread at a time calls it, in this order.

    `open` once; then `write` for each batch and `flush` when the lane has taken all
    that is queued; `tick` about once a second between those; `close` last.
    """

    def open(self) -> None:
        """Connect, create directories, recover what a crash left. Raises ConfigError."""
        ...

    def write(self, batch: Batch) -> None:
        """Accept a batch; it may be buffered. The batch's buffers stay valid until the
        next `flush` returns. Raises TransientError (nothing of it was taken),
        TerminalError (it never will be) or PartialWriteError."""
        ...

    def flush(self) -> None:
        """On return all accepted batches are durable. After a TransientError, calling it
        again sends the same bytes; after a PartialFlushError only the named workspaces
        are still owed. With nothing accepted it does nothing."""
        ...

    def due_in_ms(self, now_ms: int) -> int:
        """How long the sink would rather wait for more batches before `flush`; 0 = now."""
        ...

    def tick(self, now_ms: int) -> None:
        """Time-driven work, such as sealing an idle segment. Must not block for long."""
        ...

    def close(self) -> None:
        """Flush, release everything. Safe to call twice."""
        ...


@runtime_checkable
class KeepsLedger(Protocol):
    """A sink that stores, with its data, which batches are durable in it."""

    def ledger_for(self, workspace_id: int) -> Ledger:
        """The recovered ledger of a workspace; opens its files. Raises as `write` does."""
        ...


@runtime_checkable
class CommitsInTurn(Protocol):
    """A sink in which batches become durable without a flush, while others are being written."""

    def committed(self) -> Sequence[BatchId]:
        """The batches that have become durable since this was last asked; never waits.

        A `flush` that returns makes all others durable. Raises as `flush` does.
        """
        ...


@runtime_checkable
class HasCounters(Protocol):
    """A sink that counts more than its lane can."""

    def counters(self) -> dict[str, int]:
        """What it counted since it was opened, for `status`. Any thread may ask."""
        ...


@runtime_checkable
class HasNotes(Protocol):
    """A sink that looks at its destination while it is opened."""

    notes: Sequence[str]
    """What somebody should know of it, a sentence each; known once it is open."""


@runtime_checkable
class RefusesLate(Protocol):
    """A sink that finds out only in a flush what it will never take."""

    def refusals_kept(self) -> None:
        """What the last RefusedMessagesError named is kept, its batches count as durable.

        Raises TransientError if that could not be noted.
        """
        ...


class LineOut(Protocol):
    """Takes lines that are to be printed where a person is, in order."""

    def put(self, lines: Sequence[str], timeout_ms: int) -> bool:
        """Hand over lines, each with its end; False if there was no room in time for them."""
        ...

    def settle(self, timeout_ms: int) -> bool:
        """Wait until all that was handed over is printed; False if that took too long."""
        ...


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What surrounds a sink when it is built on its node.

    `line_out` is there for sinks whose config says `prints_lines`. A sink whose `due_in_ms`
    holds back may hold no more than `held_bytes_max` and `held_batches_max`: what sources
    may have unsettled ends there, so it would wait for what waits for it.
    """

    name: str
    clock: Clock = SystemClock()  # noqa: RUF009 - stateless
    state_dir: Path | None = None
    line_out: LineOut | None = None
    held_bytes_max: int = 64 * 1024 * 1024
    held_batches_max: int = 1024


class SinkConfig(BaseModel):
    """The keys that every sink has. Plain data, picklable, no I/O."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    one_lane_per_workspace: ClassVar[bool] = False
    """True for sinks that write files: each workspace has a chain of its own."""
    reads_bytes: ClassVar[bool] = False
    """True for sinks that read all they are given: the store's pages are mapped beforehand."""
    prints_lines: ClassVar[bool] = False
    """True for sinks whose lines the driver prints."""
    schemas: ClassVar[frozenset[int]] = frozenset()
    """The schemas of which the sink keeps something; empty for all."""

    type: str = ""
    """One of ours; "module:Class" of a sink that has no name."""
    enabled: bool = True
    required: bool = True
    on_full: Literal["block", "spool", "drop"] = "block"
    max_in_flight_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    spool_after_ms: int = Field(default=2000, ge=100)
    spool_bytes_max: int = Field(default=10 * 1024**3, ge=1024 * 1024)
    spool_age_h_max: int = Field(default=168, ge=1)
    spool_full: Literal["block", "drop_oldest", "drop_newest"] = "block"
    placement: PlacementConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_the_class(cls, options: Any) -> Any:
        if isinstance(options, dict) and not cls.model_fields["type"].default:
            return {"type": f"{cls.__module__}:{cls.__qualname__}", **options}
        return options

    @model_validator(mode="after")
    def _can_be_placed(self) -> Self:
        wanted = self.placement or PlacementConfig()
        is_many = wanted.per_node or wanted.replicas > 1
        if self.one_lane_per_workspace and wanted.replicas > 1:
            raise ValueError(
                "placement.replicas: a file sink has a chain for each workspace; "
                "say per_node = true to have them on all nodes"
            )
        if wanted.per_node and wanted.replicas > 1:
            raise ValueError("placement: write either per_node or replicas")
        if self.prints_lines and is_many:
            raise ValueError("placement: what prints lines has one lane")
        if wanted.per_node and self.on_full == "spool" and not self.one_lane_per_workspace:
            raise ValueError(
                "placement.per_node: the spool would not know which lane has had a batch; "
                "write replicas = N, or on_full = 'block'"
            )
        return self

    def warnings(self) -> list[str]:
        """Options that are allowed and yet probably not meant: key, and why."""
        return []

    def place(self) -> str | None:
        """Where its data goes, for people; None if it goes nowhere."""
        path = getattr(self, "path", None)
        return None if path is None else str(path)

    def owned_folders(self) -> Sequence[str]:
        """Folders no other sink may write to: two that do fence each other."""
        return ()

    def build(self, context: SinkContext) -> Sink:
        """The live sink; nothing is opened yet."""
        raise TypeError(f"sink type {self.type!r} has no implementation")

    def count_landed(self, wanted: Wanted, state_dir: Path) -> Landed | None:
        """What the destination holds, read from there; None if that can't be told.

        `state_dir` is the sink's own; of several lanes it is the first one's, and the others'
        are beside it, see `files.lane_folders`. Placeholders are resolved. May be called while
        the sink is at work. Raises OSError.
        """
        return None
