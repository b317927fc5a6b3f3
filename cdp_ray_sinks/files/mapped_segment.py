"""A segment mapped into memory, read as the batches that were written into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.index_reading import (
    Report,
    SegmentIndex,
    Slice,
    Wanted,
    header_of,
    slices,
)
from cdp_ray_sinks.files.mapping import is_readable
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX, RecordScan, listed_batch
from cdp_ray_sinks.files.segment_path import parse_place


class MappedSegment:
    """One plain segment: its bytes, and what its index says of them.

    With an index, `end_offset` is the last commit's end: what lies behind it was never
    acknowledged and is not read. Damage goes to `report` and reading goes on behind it.
    """

    is_compressed: Final = False

    def __init__(
        self, path: Path, records: Bytes, index: SegmentIndex | None, report: Report
    ) -> None:
        self.path = path
        self.records = records
        self.index = index
        self._report = report
        self.read_offset = 0
        """How far into the file `located` has come."""
        self.workspace_id = parse_place(path).workspace_id or 0
        if index is None:
            self.end_offset = len(records)
            return
        if index.header is not None:
            self.workspace_id = index.header.workspace_id
        if index.is_serialised and index.ranges:
            raise CorruptSegmentError(str(path), 0, "segment does not hold plain records")
        self.end_offset = min(index.end_offset, len(records))
        if index.header is None and not index.ranges:
            self.end_offset = len(records)  # that is no index: the records speak for themselves

    def slices(self) -> Iterator[Slice]:
        """The parts of the segment in the order of its bytes."""
        if self.index is None or (self.index.header is None and not self.index.ranges):
            if self.end_offset:
                yield Slice(0, self.end_offset, None, 0)
            return
        yield from slices(self.index, len(self.records), self._report, self.path)

    def located(
        self,
        position: int = 0,
        wanted: Wanted | None = None,
        records_bytes_max: int = RECORDS_BYTES_MAX,
    ) -> Iterator[tuple[int, Batch]]:
        """Every good batch and where it begins, zero-copy, in the order of the bytes.

        Begins with the batch that holds `position`. Those that the index lists come whole,
        under their ids and with their checksum proven, unless they are not `wanted`. Where
        no index tells all come, at `position` if it is among them; they have no id and at
        most `records_bytes_max`.
        """
        for part in self.slices():
            if part.end <= position:
                continue
            if part.entry is None:
                offset = max(position, part.start)
                for batch in self.scan().batches(offset, part.end, records_bytes_max):
                    self.read_offset = offset + len(batch.records)
                    yield offset, batch
                    offset += len(batch.records)
            elif wanted is None or wanted(part.entry, part.committed_at_ms):
                self.read_offset = part.end
                listed = self._listed(part)
                if listed is not None:
                    yield part.start, listed

    def scan(self) -> RecordScan:
        """A walk over the records that asks no index."""
        return RecordScan(self.records, self.path, self.workspace_id, self._report)

    def _listed(self, part: Slice) -> Batch | None:
        assert part.entry is not None
        header = header_of(part.entry, self.workspace_id)
        own = self.records[part.start : part.end]
        batch = listed_batch(header, own) if is_readable(own) else "its bytes can't be read"
        if isinstance(batch, str):
            self.complain(part.start, f"batch {header.batch_id}: {batch}")
            return None
        return batch

    def complain(self, offset: int, reason: str) -> None:
        """Report a damage of the data file."""
        self._report(CorruptSegmentError(str(self.path), offset, reason))
