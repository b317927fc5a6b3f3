"""What a crash left: look at a segment, then cut it to its last good commit and seal it.

Looking changes nothing, so a successor on a shared file system may look at once and settle
only when the last writer's lease is over; it then cuts at what it saw, because a commit
that came later was never acknowledged.

A commit is good if its index record's checksum holds and the checksums of its bytes hold.
A bad commit with good ones behind it is decay, not a torn write: the good ones are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import (
    INDEX_SUFFIX,
    RANGE_CHECKSUM,
    Commit,
    IndexContents,
    IndexHeader,
    commit_ledger,
    encode_seal,
    parse_index,
)
from cdp_ray_sinks.files.file_system import FileSystem, append_fully, error_text, opened
from cdp_ray_sinks.files.index_reading import read_index
from cdp_ray_sinks.files.ledger import LedgerEntry
from cdp_ray_sinks.files.segment import seal_of

READ_BYTES: Final = 4 * 1024 * 1024
_COMMIT_OVERHEAD_BYTES: Final = 8 + 32 + 8


class Damage(NamedTuple):
    """Something on disk that is not as it was written."""

    path: str
    offset: int
    reason: str


@dataclass(slots=True)
class Inspection:
    """What a segment holds. `good_commits` are those whose bytes hold, in order.

    Unless `is_settled`, the index is to be cut to `index_bytes` and the data to
    `end_offset`. `header` is None when there is no index to trust.
    """

    path: Path
    header: IndexHeader | None = None
    ledger: list[LedgerEntry] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    good_commits: list[Commit] = field(default_factory=list)
    index_bytes: int = 0
    end_offset: int = 0
    is_settled: bool = True
    is_empty: bool = False
    damage: list[Damage] = field(default_factory=list)

    @property
    def index_path(self) -> Path:
        """The commit index beside the segment."""
        return self.path.with_name(self.path.name + INDEX_SUFFIX)

    def forget_commits(self) -> None:
        """Cut it to nothing when it is settled."""
        self.index_bytes -= sum(map(record_bytes_of, self.commits))
        self.commits, self.good_commits, self.end_offset = [], [], 0

    def report(self, offset: int, reason: str, *, index: bool = False) -> None:
        """Note a damage of the segment, or of its index."""
        self.damage.append(Damage(str(self.index_path if index else self.path), offset, reason))


def inspect_segment(path: Path) -> Inspection:
    """Look at a segment that may have been left open; verifies its bytes unless sealed.

    Raises OSError if a file is there but can't be read.
    """
    found = Inspection(path)
    try:
        index = found.index_path.read_bytes()
    except FileNotFoundError:
        index = b""
    data_bytes = path.stat().st_size if path.exists() else None
    try:
        contents = parse_index(index, str(found.index_path))
    except CorruptSegmentError as error:
        found.is_empty = not data_bytes
        if data_bytes:
            found.report(error.offset, f"{error.reason}; its segment is left as it is", index=True)
        return found
    found.header, found.ledger = contents.header, [*contents.ledger]
    found.commits = contents.commits
    if data_bytes is None:
        found.ledger += commit_ledger(contents.commits)
        if contents.commits:
            found.report(0, "the segment is gone but its index is there")
        return found
    if contents.seal is not None:
        found.good_commits = contents.commits
        found.end_offset = contents.seal.end_offset
        found.ledger += commit_ledger(contents.commits)
        return found
    _inspect_unsealed(found, contents, index)
    return found


def _inspect_unsealed(found: Inspection, contents: IndexContents, index: bytes) -> None:
    with opened(found.path) as fd:
        bad = [commit_damage(fd, c, contents.header.flags) for c in contents.commits]
    keep = max((place + 1 for place, why in enumerate(bad) if why is None), default=0)
    found.good_commits = [c for c, why in zip(contents.commits, bad, strict=True) if why is None]
    found.commits = contents.commits[:keep]
    found.ledger += commit_ledger(found.good_commits)
    found.end_offset = found.commits[-1].end_offset if keep else 0
    found.index_bytes = contents.valid_bytes - sum(map(record_bytes_of, contents.commits[keep:]))
    found.is_settled = False
    for why in bad:
        if why is not None:
            found.report(*why)
    if contents.damage is None:
        return
    found.report(contents.valid_bytes, contents.damage, index=True)
    ranges = read_index(index, found.index_path).ranges
    later = [r.commit for r in ranges if r.commit is not None][len(contents.commits) :]
    if later:
        # A torn write is the last thing in an index; this one has decayed in its middle.
        # Cutting there would throw acknowledged bytes away, so both files stay as they are.
        found.ledger += commit_ledger(later)
        found.is_settled = True


def settle_segment(fs: FileSystem, found: Inspection, now_ms: int) -> bool:
    """Cut a segment to what `inspect_segment` found good, and seal it.

    Returns whether it is settled; if not (a full disk, say), the damage list says why and
    it may be tried again. An empty segment is removed.
    """
    if found.is_settled and not found.is_empty:
        return True
    try:
        if found.is_empty:
            found.path.unlink(missing_ok=True)
            found.index_path.unlink(missing_ok=True)
        else:
            _cut_and_seal(fs, found, now_ms)
    except OSError as error:
        found.report(found.end_offset, f"can't be sealed: {error_text(error)}")
        return False
    found.is_settled = True
    return True


def _cut_and_seal(fs: FileSystem, found: Inspection, now_ms: int) -> None:
    with opened(found.path, os.O_RDWR) as data_fd:
        if os.fstat(data_fd).st_size > found.end_offset:
            fs.truncate(data_fd, found.end_offset)
        fs.sync(data_fd)
    with opened(found.index_path, os.O_RDWR | os.O_APPEND) as index_fd:
        fs.truncate(index_fd, found.index_bytes)
        append_fully(fs, index_fd, encode_seal(seal_of(found.commits, now_ms)))
        fs.sync(index_fd)


def commit_damage(fd: int, commit: Commit, index_flags: int) -> tuple[int, str] | None:
    """Whether the bytes of a commit hold: None, or the offset and what is wrong there.

    Raises OSError if they can't be read.
    """
    held = commit.end_offset - commit.start_offset
    if index_flags & RANGE_CHECKSUM:
        lengths, sums = [held], [commit.range_checksum]
        what = "commit"
    else:
        lengths = commit.entries["record_bytes"].tolist()
        sums = commit.entries["checksum"].tolist()
        what = "batch"
        if sum(lengths) != held:
            return commit.start_offset, f"commit of {held} bytes lists batches of {sum(lengths)}"
    offset = commit.start_offset
    for length, expected, actual in zip(
        lengths, sums, _checksums(fd, offset, lengths), strict=True
    ):
        if actual is None:
            return offset, f"{what} of {length} bytes is cut short"
        if actual != expected:
            return offset, f"{what} of {length} bytes does not match its checksum"
        offset += length
    return None


def _checksums(fd: int, offset: int, lengths: Sequence[int]) -> Iterator[int | None]:
    """xxh3-64 of consecutive slices, read in large steps; None once the file ends."""
    window, used = b"", 0
    for length in lengths:
        hasher, left = xxhash.xxh3_64(), length
        while left:
            if used == len(window):
                window, used = os.pread(fd, READ_BYTES, offset), 0
                offset += len(window)
                if not window:
                    yield None
                    break
            taken = min(left, len(window) - used)
            hasher.update(memoryview(window)[used : used + taken])
            used += taken
            left -= taken
        else:
            yield hasher.intdigest()


def record_bytes_of(commit: Commit) -> int:
    """How many bytes the commit's index record has."""
    return _COMMIT_OVERHEAD_BYTES + int(commit.entries.nbytes)
