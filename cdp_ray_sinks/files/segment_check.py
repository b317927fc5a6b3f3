"""Prove one segment: every byte of its commits, its records, its index.

The file is read, not mapped: a sector that can't be read, or a file that gets shorter
meanwhile, is then an error to report and not the end of the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EFBIG, EIO
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from cdp_ray_sinks.batch.batch import Batch, BatchId, Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import Commit, xxh3
from cdp_ray_sinks.files.index_reading import Range, SegmentIndex, Slice, load_index, slices
from cdp_ray_sinks.files.lz4_segment import Lz4Segment
from cdp_ray_sinks.files.mapped_segment import MappedSegment
from cdp_ray_sinks.files.mapping import map_file
from cdp_ray_sinks.files.segment_opening import open_segment
from cdp_ray_sinks.files.segment_path import parse_place

WINDOW_BYTES: Final = 8 * 1024 * 1024
BATCH_BYTES_MAX: Final = 256 * 1024 * 1024
_STARTS_MAX: Final = 65_536


@dataclass(slots=True)
class SegmentCheck:
    """What was found in one segment. Events and messages of damaged batches don't count.

    `uncommitted_bytes` lie behind the last commit of a segment that is not sealed: a
    writer is at work, or recovery has not come by. `bytes_beyond_seal` were added behind
    the end; no reader looks at them. Neither is damage.
    """

    messages: int = 0
    events: int = 0
    held_bytes: int = 0
    uncommitted_bytes: int = 0
    bytes_beyond_seal: int = 0
    damaged: list[CorruptSegmentError] = field(default_factory=list)


class SegmentChecker:
    """Checks segments one after the other; its buffer is reused."""

    def __init__(self, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._on_bytes = on_bytes
        self._buffer: Bytes = np.empty(WINDOW_BYTES, np.uint8)
        self._starts = np.empty(_STARTS_MAX, np.int64)

    def check(self, path: Path) -> SegmentCheck:
        """Check the segment at `path`; what can't be read is damage too."""
        check = SegmentCheck()
        try:
            index = load_index(path)
            if index is None:
                self._check_records(path, check)
            else:
                self._check_commits(path, index, check)
        except CorruptSegmentError as error:
            check.damaged.append(error)
        except OSError as error:
            self._complain(check, Path(error.filename or path), 0, error.strerror or str(error))
        return check

    def _check_records(self, path: Path, check: SegmentCheck) -> None:
        """A file without an index: the records must frame to its end."""
        segment = open_segment(path, check.damaged.append)
        for _, batch in segment.located():
            self._count(batch, check)

    def _check_commits(self, path: Path, index: SegmentIndex, check: SegmentCheck) -> None:
        for offset, reason in index.damage:
            self._complain(check, index.path, offset, reason)
        named = parse_place(path).workspace_id
        if index.header is not None and named not in (None, index.header.workspace_id):
            reason = f"index is of workspace {index.header.workspace_id}"
            self._complain(check, index.path, 0, reason)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            file_bytes = os.fstat(fd).st_size
            if index.is_serialised:
                self._check_ranges(fd, path, index, check)
            else:
                for part in slices(index, file_bytes, check.damaged.append, path):
                    self._check_slice(fd, path, part, check)
        finally:
            os.close(fd)
        behind = max(0, file_bytes - index.end_offset)
        if index.seal is None:
            check.uncommitted_bytes = behind
        else:
            check.bytes_beyond_seal = behind
            self._check_totals(index, check)

    def _check_totals(self, index: SegmentIndex, check: SegmentCheck) -> None:
        """The seal's counts are the sums of the commits'."""
        assert index.seal is not None
        commits = [part.commit for part in index.ranges if part.commit is not None]
        messages = sum(commit.message_count for commit in commits)
        events = sum(commit.event_count for commit in commits)
        sealed = (index.seal.message_count, index.seal.event_count)
        if not index.damage and sealed != (messages, events):
            reason = (
                f"seal counts {sealed[0]} messages and {sealed[1]} events, the commits "
                f"{messages} and {events}"
            )
            self._complain(check, index.path, 0, reason)

    def _check_ranges(self, fd: int, path: Path, index: SegmentIndex, check: SegmentCheck) -> None:
        """A segment of serialised bytes: each commit's range has the checksum it says.

        Compressed records are decompressed too, and checked as batches.
        """
        file_bytes = os.fstat(fd).st_size
        content: Lz4Segment | None = None
        if index.is_compressed and index.holds_records:
            content = Lz4Segment(path, map_file(path), index, check.damaged.append)
        for part in index.ranges:
            if part.end > file_bytes:
                reason = f"{index.end_offset - file_bytes} committed bytes are missing"
                self._complain(check, path, file_bytes, f"{reason}, the file ends")
                return
            holds = part.commit is None or self._has_checksum(fd, part, part.commit)
            known = len(check.damaged)
            if content is not None:
                for _, batch in content.located_in(part):
                    check.messages += batch.header.message_count
                    check.events += batch.header.event_count
            elif part.commit is not None and holds:
                check.messages += part.commit.message_count
                check.events += part.commit.event_count
            if len(check.damaged) > known:
                continue
            if holds and (content is not None or part.commit is not None):
                check.held_bytes += part.end - part.start
            elif not holds:
                self._complain(check, path, part.start, "checksum of a commit does not hold")

    def _has_checksum(self, fd: int, part: Range, commit: Commit) -> bool:
        hasher = xxhash.xxh3_64()
        for position in range(part.start, part.end, WINDOW_BYTES):
            window = self._read(fd, position, min(position + WINDOW_BYTES, part.end))
            hasher.update(window.data)
        return hasher.intdigest() == commit.range_checksum

    def _check_slice(self, fd: int, path: Path, part: Slice, check: SegmentCheck) -> None:
        """One batch: its checksum holds and its records frame."""
        if part.entry is None:
            self._check_gap(path, part, check)
            return
        entry = part.entry
        batch_id = BatchId(entry["producer"].tobytes(), int(entry["epoch"]), int(entry["sequence"]))
        due = int(entry["message_count"])
        records = self._read(fd, part.start, part.end)
        message_count, framed_bytes = self._frame(records)
        problems = []
        if xxh3(records) != int(entry["checksum"]):
            problems.append("its checksum does not hold")
        if framed_bytes < len(records):
            problems.append(f"the record at {part.start + framed_bytes} does not frame")
        elif message_count != due:
            problems.append(f"it holds {message_count} records and should hold {due}")
        if problems:
            reason = f"batch {batch_id} of {len(records)} bytes: {', '.join(problems)}"
            self._complain(check, path, part.start, reason)
            return
        check.messages += message_count
        check.events += int(entry["event_count"])
        check.held_bytes += len(records)

    def _check_gap(self, path: Path, part: Slice, check: SegmentCheck) -> None:
        """A range whose index record is lost: that its records frame is all to be proven."""
        segment = MappedSegment(path, map_file(path), None, check.damaged.append)
        for batch in segment.scan().batches(part.start, part.end):
            self._count(batch, check)

    def _count(self, batch: Batch, check: SegmentCheck) -> None:
        check.messages += batch.header.message_count
        check.events += batch.header.event_count
        check.held_bytes += batch.header.record_bytes
        self._on_bytes(batch.header.record_bytes)

    def _frame(self, records: Bytes) -> tuple[int, int]:
        """How many records frame, and the bytes they take."""
        from cdp_ray_sinks.batch.kernels.cache import readonly
        from cdp_ray_sinks.batch.kernels.frames import INDEX_FULL, index_records

        total, position, status = 0, 0, INDEX_FULL
        while status == INDEX_FULL:
            count, position, status = index_records(
                readonly(records), position, len(records), self._starts
            )
            total += int(count)
        return total, int(position)

    def _read(self, fd: int, start: int, end: int) -> Bytes:
        """The file's bytes, valid until the next call; raises OSError."""
        wanted = end - start
        if wanted > BATCH_BYTES_MAX:
            raise OSError(EFBIG, f"batch of {wanted} bytes at {start} is larger than any we check")
        if wanted > len(self._buffer):
            self._buffer = np.empty(wanted, np.uint8)
        view = self._buffer[:wanted]
        filled = 0
        while filled < wanted:
            got = os.preadv(fd, [view[filled:].data], start + filled)
            if got == 0:
                raise OSError(EIO, f"file became shorter than {end} bytes")
            filled += got
        self._on_bytes(wanted)
        return view

    def _complain(self, check: SegmentCheck, path: Path, offset: int, reason: str) -> None:
        check.damaged.append(CorruptSegmentError(str(path), offset, reason))
