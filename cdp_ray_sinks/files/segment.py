"""One segment: a data file and its commit index, from made to sealed.

A write goes to the data file at an absolute offset and to the index by O_APPEND, so that a
writer which was fenced while it slept can only add behind a successor's seal, where readers
do not look. A segment has at most one write that is not yet confirmed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Protocol

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.files.commit_index import (
    INDEX_SUFFIX,
    RANGE_CHECKSUM,
    Commit,
    IndexHeader,
    Seal,
    encode_commit,
    encode_seal,
    encode_snapshot,
    parse_index,
)
from cdp_ray_sinks.files.encoded import Encoded, write_encoded
from cdp_ray_sinks.files.file_system import FileSystem, append_fully, sync_directory
from cdp_ray_sinks.files.ledger import LedgerEntry
from cdp_ray_sinks.files.open_marks import Mark
from cdp_ray_sinks.files.partition import Partition

_SEQUENCES_MAX: Final = 1 << 20
"""In one snapshot record: 16 bytes each, far below what an index record may have."""


class SegmentWriter(Protocol):
    """Turns batches into the bytes of one format. One thread at a time calls it."""

    suffix: ClassVar[str]
    """Ends a segment's name, such as `.bin`."""
    index_flags: ClassVar[int]
    """RANGE_CHECKSUM unless the segment holds the batches' own records unchanged."""

    def stream_of(self, header: BatchHeader) -> str:
        """The stream a batch belongs to: the segment's name before the suffix, no '~', '/'."""
        ...

    def encode(self, batches: Sequence[Batch]) -> Encoded:
        """The bytes of one commit, as 'B' views; the same batches give the same bytes.

        A list, if there is nothing to serialise: its views go to the file as they are, in
        gathered writes, and hold until `release`.

        A generator, if there is: it gives chunks of a few MB, and may run in a thread of
        its own, where chunks are made while the ones before are written. A chunk is no
        longer used once CHUNKS_HELD further ones have been asked for, so as many buffers are
        enough (`files.encoded.chunks_of`, which also gives them back to a pool). The
        generator is closed when the commit ends, in its middle too if a write fails; the
        next try encodes again. What it raises, the commit raises.

        Called several times before `release` when a commit reaches several segments, each
        time after the last one's generator is closed.
        """
        ...

    def release(self) -> None:
        """The views handed out so far are no longer used."""
        ...


@dataclass(frozen=True, slots=True)
class Totals:
    """How much a segment holds: end offset of its last commit, its index's, and counts."""

    end_offset: int = 0
    index_bytes: int = 0
    message_count: int = 0
    event_count: int = 0


class Segment:
    """An open segment. `lock` is held by whoever uses the descriptors off the write path."""

    def __init__(
        self, path: Path, mark: Mark, header: IndexHeader, partition: Partition, stream: str
    ) -> None:
        self.path = path
        self.mark = mark
        self.header = header
        self.partition = partition
        self.stream = stream
        self.lock = threading.Lock()
        self.confirmed = Totals()
        self.written = Totals()
        self.synced = Totals()
        self.last_write_ms = header.created_at_ms
        self.sync_failed = False
        self.is_sync_queued = False
        self.is_taken = False
        """A commit is planned for it, or written and not yet confirmed."""
        self._data_fd = -1
        self._index_fd = -1

    @property
    def index_path(self) -> Path:
        """The commit index beside the data file."""
        return Path(f"{self.path}{INDEX_SUFFIX}")

    @property
    def key(self) -> tuple[Partition, str]:
        """Partition and stream: what has at most one segment open for writing."""
        return self.partition, self.stream

    @property
    def has_files_open(self) -> bool:
        """Whether it holds two descriptors."""
        return self._data_fd >= 0

    @property
    def is_synced(self) -> bool:
        """Whether all that was written is known to be on the disk."""
        return self.synced == self.written

    @property
    def descriptors(self) -> tuple[int, int]:
        """Data and index descriptor, opened again if they were parked."""
        if self._data_fd < 0:
            self._open(0)
        return self._data_fd, self._index_fd

    def create(self, fs: FileSystem, ledger: Sequence[LedgerEntry]) -> None:
        """Make both files, with the index header and the ledger snapshot; not synced.

        Raises FileExistsError if the name is taken; any other OSError leaves no file.
        """
        self._open(os.O_CREAT | os.O_EXCL)
        try:
            start = self.header.to_bytes() + snapshot_records(ledger)
            append_fully(fs, self._index_fd, start)
        except OSError:
            self.remove()
            raise
        self.confirmed = self.written = self.synced = Totals(index_bytes=len(start))

    def write_data(
        self, fs: FileSystem, encoded: Encoded, *, ahead: bool, will_sync: bool
    ) -> tuple[int, int]:
        """Write a commit's bytes behind the last one's; returns their end and range checksum.

        With `ahead` they are serialised in a second thread. Not synced. Raises OSError;
        then call `take_back`.
        """
        return write_encoded(
            fs,
            self.descriptors[0],
            encoded,
            self.confirmed.end_offset,
            checksum=bool(self.header.flags & RANGE_CHECKSUM),
            ahead=ahead,
            will_sync=will_sync,
        )

    def add_commit(self, fs: FileSystem, commit: Commit, now_ms: int) -> None:
        """Write the index record of the bytes written last. Not synced.

        Raises OSError; then call `take_back`.
        """
        record = encode_commit(commit)
        append_fully(fs, self.descriptors[1], record)
        self.written = Totals(
            commit.end_offset,
            self.confirmed.index_bytes + len(record),
            self.confirmed.message_count + commit.message_count,
            self.confirmed.event_count + commit.event_count,
        )
        self.last_write_ms = now_ms

    def take_back(self, fs: FileSystem) -> None:
        """Cut both files back to the last confirmed commit; raises OSError."""
        data_fd, index_fd = self.descriptors
        fs.truncate(index_fd, self.confirmed.index_bytes)
        fs.truncate(data_fd, self.confirmed.end_offset)
        self.written = self.confirmed
        self.is_taken = False

    def sync(self, fs: FileSystem) -> None:
        """On return all that was written before the call is on the disk.

        Raises OSError; then its descriptors must never be synced again.
        """
        written = self.written
        try:
            for fd in self.descriptors:
                fs.sync(fd)
        except OSError:
            self.sync_failed = True
            raise
        self.synced = written

    def confirm(self) -> None:
        """What was written is the segment's last good commit now."""
        self.confirmed = self.written
        self.is_taken = False

    def sync_index(self, fs: FileSystem) -> None:
        """On return the index header and the ledger snapshot are on the disk; raises OSError."""
        fs.sync(self.descriptors[1])

    def remove(self) -> None:
        """Close and delete both files, which nobody has been told of; raises OSError."""
        self.close()
        self.index_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def seal(self, fs: FileSystem, now_ms: int, *, sync: bool) -> None:
        """Append the seal record behind the last confirmed commit.

        With `sync` the commits are synced before it is written, because it vouches for
        them, and the seal itself after. Raises OSError; it may be tried again, by
        `seal_anew` if `sync_failed` is set.
        """
        if sync and not self.is_synced:
            self.sync(fs)
        good = self.confirmed
        record = encode_seal(Seal(good.end_offset, good.message_count, good.event_count, now_ms))
        index_fd = self.descriptors[1]
        try:
            append_fully(fs, index_fd, record)
        except OSError:
            self.take_back(fs)
            raise
        if not sync:
            return
        try:
            fs.sync(index_fd)
        except OSError:
            self.sync_failed = True
            raise

    def seal_anew(self, fs: FileSystem, now_ms: int) -> None:
        """Seal at the last confirmed commit after a failed sync, in a new index file.

        The failed descriptors are closed unsynced. The new index replaces the old one by
        a rename, so the commit whose sync failed is gone whatever of it reached the disk.
        Raises OSError.
        """
        data_fd, index_fd = self.descriptors
        good = os.pread(index_fd, self.confirmed.index_bytes, 0)
        contents = parse_index(good, str(self.index_path))
        end = contents.commits[-1].end_offset if contents.commits else 0
        with suppress(OSError):  # what lies behind the seal is not ours; cutting is tidiness
            fs.truncate(data_fd, end)
        self.close()
        seal = seal_of(contents.commits, now_ms)
        replace_index(fs, self.index_path, good[: contents.valid_bytes] + encode_seal(seal))

    def close(self) -> None:
        """Close the descriptors; nothing is synced. The segment may be written again."""
        for fd in (self._data_fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._data_fd = self._index_fd = -1

    def _open(self, flags: int) -> None:
        flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        data_fd = os.open(self.path, flags, 0o644)
        try:
            self._index_fd = os.open(f"{self.path}{INDEX_SUFFIX}", flags | os.O_APPEND, 0o644)
        except OSError:
            os.close(data_fd)
            if flags & os.O_EXCL:
                self.path.unlink(missing_ok=True)
            raise
        self._data_fd = data_fd


def snapshot_records(ledger: Iterable[LedgerEntry]) -> bytes:
    """A ledger in as many snapshot records as it takes for none to be over the limit."""
    records: list[bytes] = []
    group: list[LedgerEntry] = []
    held = 0
    for entry in (part for whole in ledger for part in _split(whole)):
        if group and held + len(entry.durable) > _SEQUENCES_MAX:
            records.append(encode_snapshot(group))
            group, held = [], 0
        group.append(entry)
        held += len(entry.durable) + 3  # the entry itself weighs as much as three sequences
    return b"".join([*records, encode_snapshot(group)])


def _split(entry: LedgerEntry) -> Iterator[LedgerEntry]:
    if len(entry.durable) <= _SEQUENCES_MAX:
        yield entry
        return
    left = iter(entry.durable.items())
    while part := dict(islice(left, _SEQUENCES_MAX)):
        yield replace(entry, durable=part)


def seal_of(commits: Sequence[Commit], now_ms: int) -> Seal:
    """The seal of a segment that holds these commits."""
    return Seal(
        commits[-1].end_offset if commits else 0,
        sum(commit.message_count for commit in commits),
        sum(commit.event_count for commit in commits),
        now_ms,
    )


def replace_index(fs: FileSystem, index_path: Path, contents: bytes) -> None:
    """Put a whole new index in the place of one, durably and at once; raises OSError."""
    fresh = index_path.with_name(index_path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(fresh, flags, 0o644)
    try:
        append_fully(fs, fd, contents)
        fs.sync(fd)
    finally:
        os.close(fd)
    fresh.replace(index_path)
    sync_directory(index_path.parent)
