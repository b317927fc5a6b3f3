"""Which part of an archive is wanted: a time range, workspaces, kinds of batches.

What the commit index says of a batch tells whether it can hold anything wanted, so that
the others are never read, nor decompressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.enums import NO_TIME_MS
from cdp_ray_sinks.files.record_scan import received_times

CLOCK_SLACK_MS: Final = 60_000
"""How far the clocks of a source and of a file's writer may lie apart when seeking."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted; None wants all.

    `start_ms` to `end_ms`, both included, in Unix ms: of the `time` messages were received,
    or that their events happened. `event_types` has bit t set if events of EventType t are
    wanted; it says nothing about batches of other schemas.
    """

    start_ms: int | None = None
    end_ms: int | None = None
    time: Literal["received", "event"] = "received"
    workspaces: frozenset[int] | None = None
    schema_types: frozenset[int] | None = None
    event_types: int | None = None

    @property
    def has_range(self) -> bool:
        """Whether a time range is asked for."""
        return self.start_ms is not None or self.end_ms is not None

    def holds_time(self, time_ms: int) -> bool:
        """Whether a time is in the range."""
        return self._overlaps(time_ms, time_ms)

    def may_hold(self, entry: np.void, committed_at_ms: int) -> bool:
        """Whether the batch of an index entry can hold what is wanted.

        An entry's received time is that of its first message, and nothing is received after
        it is committed. Where the clocks tell otherwise the batch is looked into.
        """
        if not self._is_kind(int(entry["schema_type"]), int(entry["event_types"])):
            return False
        if self.time == "event":
            return self._may_have_happened(int(entry["time_min_ms"]), int(entry["time_max_ms"]))
        received_at_ms = int(entry["received_at_ms"])
        if received_at_ms > committed_at_ms:
            return self._overlaps(received_at_ms - CLOCK_SLACK_MS, None)
        return self._overlaps(received_at_ms - CLOCK_SLACK_MS, committed_at_ms + CLOCK_SLACK_MS)

    def may_hold_batch(self, header: BatchHeader) -> bool:
        """The same of a batch that is there, but for the time it was received."""
        if not self._is_kind(header.schema_type, header.event_types):
            return False
        if self.time == "received":
            return True
        return self._may_have_happened(header.time_min_ms, header.time_max_ms)

    def may_hold_partition(self, starts_at_ms: int, ends_at_ms: int) -> bool:
        """Whether a partition can hold anything; event times say nothing about that."""
        return self.time == "event" or self._overlaps(starts_at_ms, ends_at_ms - 1)

    def runs_in(self, batch: Batch) -> Iterator[tuple[int, int]]:
        """The messages of a batch that were received in the range, as runs [first, end)."""
        count = len(batch.offsets) - 1
        if self.time == "event" or not self.has_range:
            yield 0, count
            return
        received = received_times(batch.records, batch.offsets.astype(np.int64))
        # As Python sees the numbers: a range may reach beyond what 64 bits hold.
        inside: Any = np.ones(count, bool)
        if self.start_ms is not None:
            low = min(max(self.start_ms, 0), 2**64 - 1)
            inside &= (received >= np.uint64(low)) & (self.start_ms < 2**64)
        if self.end_ms is not None:
            high = min(max(self.end_ms, 0), 2**64 - 1)
            inside &= (received <= np.uint64(high)) & (self.end_ms >= 0)
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)).tolist()
        yield from zip(edges[::2], edges[1::2], strict=True)

    def _is_kind(self, schema_type: int, event_types: int) -> bool:
        if self.schema_types is not None and schema_type not in self.schema_types:
            return False
        is_mask = self.event_types is not None and event_types != 0
        return not is_mask or bool(event_types & (self.event_types or 0))

    def _may_have_happened(self, time_min_ms: int, time_max_ms: int) -> bool:
        return time_min_ms == NO_TIME_MS or self._overlaps(time_min_ms, time_max_ms)

    def _overlaps(self, low_ms: int, high_ms: int | None) -> bool:
        if self.end_ms is not None and low_ms > self.end_ms:
            return False
        return self.start_ms is None or high_ms is None or high_ms >= self.start_ms
