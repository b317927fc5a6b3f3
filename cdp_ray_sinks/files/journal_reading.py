"""Read a journal segment back as batches, while it is being written and after a crash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import (
    HEADER_BYTES,
    KIND_COMMIT,
    KIND_SEAL,
    Commit,
    IndexHeader,
    next_record,
    parse_commit,
)
from cdp_ray_sinks.files.index_reading import header_of, index_path_of
from cdp_ray_sinks.files.mapping import is_readable, map_file
from cdp_ray_sinks.files.record_scan import listed_batch
from cdp_ray_sinks.files.segment import Totals


class JournalReader:
    """Reads one segment from its begin on; each batch once, in the order of the bytes.

    Damage goes to `report` and reading goes on behind it; `has_damage` then.
    """

    def __init__(self, path: Path, report: Callable[[int, str], None]) -> None:
        self.path = path
        self.has_damage = False
        self.is_sealed = False
        """The seal has been read: there is no more than what is known."""
        self.header: IndexHeader | None = None
        self.commits: list[Commit] = []
        self.taken = Totals()
        """End offset and events of what `take` has given."""
        self._report = report
        self._index_bytes = 0
        self._entries: deque[tuple[int, np.void]] = deque()

    @property
    def journal_id(self) -> str:
        """Names the segment for ever, whatever becomes of its path; needs `read_index`."""
        assert self.header is not None
        return self.header.journal_id

    def read_index(self, index_bytes: int | None = None) -> None:
        """Learn of the commits up to that byte of the index, or of all up to the seal.

        Raises OSError, and CorruptSegmentError if the index is damaged.
        """
        if self.is_sealed or (index_bytes is not None and index_bytes <= self._index_bytes):
            return
        index_path = index_path_of(self.path)
        with index_path.open("rb") as file:
            if self.header is None:
                head = file.read(HEADER_BYTES)
                self.header = IndexHeader.from_bytes(head, str(index_path))
                self._index_bytes = HEADER_BYTES
            file.seek(self._index_bytes)
            data = file.read(-1 if index_bytes is None else index_bytes - self._index_bytes)
        position = 0
        while position < len(data) and not self.is_sealed:
            record = next_record(data, position)
            if isinstance(record, str):
                raise CorruptSegmentError(str(index_path), self._index_bytes + position, record)
            kind, payload, position = record
            if kind == KIND_COMMIT:
                self._add(parse_commit(payload, self.commits[-1:]))
            self.is_sealed = kind == KIND_SEAL
        self._index_bytes += position

    def _add(self, commit: Commit) -> None:
        offset = commit.start_offset
        for entry in commit.entries:
            self._entries.append((offset, entry))
            offset += int(entry["record_bytes"])
        self.commits.append(commit)

    def take(self, rows_max: int, bytes_max: int) -> list[Batch]:
        """The next batches, as many as have no more rows and bytes, one at least; [] at the end.

        They are mapped from the file and hold while they are referred to. Raises OSError.
        """
        wanted: list[tuple[int, np.void]] = []
        rows, end = 0, self.taken.end_offset
        while self._entries:
            offset, entry = self._entries[0]
            rows += int(entry["event_count"])
            end = offset + int(entry["record_bytes"])
            if wanted and (rows > rows_max or end - self.taken.end_offset > bytes_max):
                rows -= int(entry["event_count"])
                end = offset
                break
            wanted.append(self._entries.popleft())
        if not wanted:
            return []
        self.taken = Totals(end, event_count=self.taken.event_count + rows)
        data = map_file(self.path)
        batches = [self._batch(data, offset, entry) for offset, entry in wanted]
        return [batch for batch in batches if batch is not None]

    def _batch(self, data: Bytes, offset: int, entry: np.void) -> Batch | None:
        assert self.header is not None
        header = header_of(entry, self.header.workspace_id)
        records = data[offset : offset + header.record_bytes]
        if len(records) < header.record_bytes or not is_readable(records):
            found: Batch | str = "its bytes can't be read"
        else:
            found = listed_batch(header, records)
        if isinstance(found, str):
            self.has_damage = True
            self._report(offset, f"batch {header.batch_id}: {found}")
            return None
        return found

    @property
    def is_at_end(self) -> bool:
        """Whether all batches known so far were taken."""
        return not self._entries
