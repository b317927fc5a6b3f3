"""A segment mapped into memory, read as the batches that were written into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.files.index_reading import (
    Report,
    SegmentIndex,
    Slice,
    header_of,
    load_index,
    slices,
)
from cdp_ray_sinks.files.mapping import is_readable, map_file
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX, RecordScan, frame
from cdp_ray_sinks.files.segment_path import parse_place


class MappedSegment:
    """One plain segment: its bytes, and what its index says of them.

    With an index, `end_offset` is the last commit's end: what lies behind it was never
    acknowledged and is not read. Damage goes to `report` and reading goes on behind it.
    """

    def __init__(
        self, path: Path, records: Bytes, index: SegmentIndex | None, report: Report
    ) -> None:
        self.path = path
        self.records = records
        self.index = index
        self._report = report
        self.workspace_id = parse_place(path).workspace_id or 0
        if index is None:
            self.end_offset = len(records)
            return
        if index.header is not None:
            self.workspace_id = index.header.workspace_id
        if index.is_serialised and index.ranges:
            raise CorruptSegmentError(str(path), 0, "segment does not hold plain records")
        self.end_offset = min(index.end_offset, len(records))
        for offset, reason in index.damage:
            report(CorruptSegmentError(str(index.path), offset, reason))
        if index.header is None and not index.ranges:
            self.end_offset = len(records)  # that is no index: the records speak for themselves

    @classmethod
    def open(cls, path: Path, report: Report) -> MappedSegment:
        """Map the segment at `path`; raises OSError or CorruptSegmentError."""
        # The index first: what it describes is in the file by then.
        index = load_index(path)
        return cls(path, map_file(path), index, report)

    def slices(self) -> Iterator[Slice]:
        """The parts of the segment in the order of its bytes."""
        if self.index is None or (self.index.header is None and not self.index.ranges):
            if self.end_offset:
                yield Slice(0, self.end_offset, None, 0)
            return
        yield from slices(self.index, len(self.records), self._report, self.path)

    def batches(self, records_bytes_max: int = RECORDS_BYTES_MAX) -> Iterator[Batch]:
        """Every good batch, zero-copy, in the order of the bytes.

        Those that the index lists come whole, under their ids and with their checksum
        proven. Where no index tells, batches have no id and at most `records_bytes_max`.
        """
        for part in self.slices():
            yield from self.batches_in(part, records_bytes_max)

    def batches_in(
        self, part: Slice, records_bytes_max: int = RECORDS_BYTES_MAX
    ) -> Iterator[Batch]:
        """The batch of a slice, none if it is damaged; several if no index lists them."""
        if part.entry is None:
            yield from self.scan().batches(part.start, part.end, records_bytes_max)
            return
        batch = self._listed(part)
        if batch is not None:
            yield batch

    def scan(self) -> RecordScan:
        """A walk over the records that asks no index."""
        return RecordScan(self.records, self.path, self.workspace_id, self._report)

    def _listed(self, part: Slice) -> Batch | None:
        assert part.entry is not None
        header = header_of(part.entry, self.workspace_id)
        own = self.records[part.start : part.end]
        if not is_readable(own):
            self.complain(part.start, f"bytes of batch {header.batch_id} can't be read")
            return None
        if xxh3(own) != header.checksum:
            self.complain(part.start, f"checksum of batch {header.batch_id} does not hold")
            return None
        starts, problem = frame(own, header.message_count)
        if problem is not None:
            self.complain(part.start, f"batch {header.batch_id}: {problem}")
            return None
        return Batch(header, own, starts.view(np.uint64))

    def complain(self, offset: int, reason: str) -> None:
        """Report a damage of the data file."""
        self._report(CorruptSegmentError(str(self.path), offset, reason))
