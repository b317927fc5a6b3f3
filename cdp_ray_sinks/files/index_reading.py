"""Read a commit index for its segment's readers: as much as holds, whatever is damaged.

Recovery needs the index up to the first record that is torn (`parse_index`). A reader
wants what lies behind a damaged record too: later records prove themselves by their own
checksums, and the range that the lost one described lies between its neighbours'.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import (
    HEADER_BYTES,
    INDEX_SUFFIX,
    KIND_COMMIT,
    KIND_SEAL,
    KIND_SNAPSHOT,
    LZ4,
    RANGE_CHECKSUM,
    RECORD_BYTES_MAX,
    RECORDS,
    Commit,
    IndexHeader,
    Seal,
    next_record,
    parse_commit,
    parse_seal,
    xxh3,
)
from cdp_ray_sinks.files.partition import WORKSPACE_ID_MAX

Report: TypeAlias = Callable[[CorruptSegmentError], None]
"""Called with each damage found; reading goes on when it returns."""

Wanted: TypeAlias = Callable[[np.void, int], bool]
"""Whether a batch is wanted, by its entry in the index and when it was committed."""

INDEX_BYTES_MAX: Final = 1 << 30
PLAIN_SUFFIX: Final = ".bin"
"""Of segments that hold the batches' own records."""
LZ4_SUFFIX: Final = ".lz4"
"""Behind the suffix of what is compressed."""

_HEAD = struct.Struct("<II")
_TAIL = struct.Struct("<Q")
_ENDS_BYTES: Final = _HEAD.size + _TAIL.size


class Range(NamedTuple):
    """A part of a segment; `commit` is None where the record that described it is lost."""

    start: int
    end: int
    commit: Commit | None


class Slice(NamedTuple):
    """The bytes of one batch, or of a range without entries (`entry` is None then)."""

    start: int
    end: int
    entry: np.void | None
    committed_at_ms: int


@dataclass(slots=True)
class SegmentIndex:
    """What an index says. `ranges` lie one after the other and end at `end_offset`.

    `header` is None if it is damaged. `damage` holds (offset in the index, reason); a
    record that a crash cut short at the very end is none. `is_serialised` if each commit's
    range checksum proves its bytes, and not its batches' own; `is_compressed` if each is an
    LZ4 frame, `holds_records` if what is in them, or in the file itself, is records.
    """

    path: Path
    header: IndexHeader | None = None
    is_serialised: bool = False
    is_compressed: bool = False
    holds_records: bool = True
    ranges: list[Range] = field(default_factory=list)
    seal: Seal | None = None
    end_offset: int = 0
    damage: list[tuple[int, str]] = field(default_factory=list)


def index_path_of(path: Path) -> Path:
    """Where the index of a segment is."""
    return path.with_name(path.name + INDEX_SUFFIX)


def load_index(path: Path) -> SegmentIndex | None:
    """The index of the segment at `path`, None if it has none.

    Raises OSError, or CorruptSegmentError for one above INDEX_BYTES_MAX.
    """
    index_path = index_path_of(path)
    try:
        with index_path.open("rb") as file:
            data = file.read(INDEX_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > INDEX_BYTES_MAX:
        raise CorruptSegmentError(str(index_path), INDEX_BYTES_MAX, "index is too large")
    return read_index(data, index_path)


def read_index(data: bytes, path: Path) -> SegmentIndex:
    """Read an index from its bytes; never raises, see `SegmentIndex.damage`."""
    index = SegmentIndex(path)
    try:
        header = IndexHeader.from_bytes(data, str(path))
        if 0 < header.workspace_id <= WORKSPACE_ID_MAX:
            index.header = header
        else:
            index.damage.append((0, f"there is no workspace {header.workspace_id}"))
    except CorruptSegmentError as error:
        index.damage.append((error.offset, error.reason))
    if index.header is None:
        name = path.name.removesuffix(INDEX_SUFFIX)
        index.is_serialised = not name.endswith(PLAIN_SUFFIX)
        index.is_compressed = name.endswith(LZ4_SUFFIX)
        index.holds_records = name.removesuffix(LZ4_SUFFIX).endswith(PLAIN_SUFFIX)
    else:
        flags = index.header.flags
        index.is_serialised = bool(flags & RANGE_CHECKSUM)
        index.is_compressed = bool(flags & LZ4)
        index.holds_records = not flags & RANGE_CHECKSUM or bool(flags & RECORDS)
    search = _Search(data)
    position = HEADER_BYTES
    while index.seal is None and position < len(data):
        record = next_record(data, position)
        if isinstance(record, str):
            behind = search.record_behind(position)
            if behind is not None or not _is_torn(data, position):
                index.damage.append((position, record))
            if behind is None:
                break
            position = behind
            continue
        kind, payload, end = record
        try:
            _take(index, kind, payload)
        except (struct.error, ValueError) as error:
            index.damage.append((position, str(error)))
        position = end
    return index


def _take(index: SegmentIndex, kind: int, payload: bytes) -> None:
    """Add what a valid record says; ValueError if it contradicts those before it."""
    if kind == KIND_COMMIT:
        commit = parse_commit(payload, ())
        described = int(sum(commit.entries["record_bytes"].tolist()))
        if not index.is_serialised and described != commit.end_offset - commit.start_offset:
            raise ValueError(
                f"commit of {commit.start_offset}..{commit.end_offset} lists batches of "
                f"{described} bytes"
            )
        _reach(index, commit.start_offset)
        index.ranges.append(Range(commit.start_offset, commit.end_offset, commit))
        index.end_offset = commit.end_offset
    elif kind == KIND_SEAL:
        seal = parse_seal(payload)
        _reach(index, seal.end_offset)
        index.seal = seal


def _reach(index: SegmentIndex, offset: int) -> None:
    """Cover the bytes up to where the next record goes on by a range without a commit."""
    if offset < index.end_offset:
        raise ValueError(f"record goes on at {offset} but the last ended at {index.end_offset}")
    if offset > index.end_offset:
        if not index.damage:
            raise ValueError(f"nothing describes bytes {index.end_offset}..{offset}")
        index.ranges.append(Range(index.end_offset, offset, None))
        index.end_offset = offset


def _is_torn(data: bytes, position: int) -> bool:
    """Whether the end of an index looks as a crash may leave it: cut short, or zeros.

    A last record whose only fault is its length field is not torn but damaged: with the
    length that reaches exactly to the end its checksum holds.
    """
    rest = memoryview(data)[position:]
    if len(rest) < _ENDS_BYTES or not any(rest[:_ENDS_BYTES]):
        return not any(rest) or len(rest) < _ENDS_BYTES
    kind, payload_bytes = _HEAD.unpack_from(rest)
    if not KIND_SNAPSHOT <= kind <= KIND_SEAL or payload_bytes > RECORD_BYTES_MAX:
        return False
    if payload_bytes + _ENDS_BYTES <= len(rest):
        return False
    whole = _HEAD.pack(kind, len(rest) - _ENDS_BYTES) + bytes(rest[_HEAD.size : -_TAIL.size])
    return xxh3(whole) != int(_TAIL.unpack_from(rest, len(rest) - _TAIL.size)[0])


class _Search:
    """Looks for valid records behind damaged ones, within a budget for the whole index."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget_bytes = 4 * len(data) + (1 << 20)

    def record_behind(self, position: int) -> int | None:
        """Where the next valid commit or seal behind a damaged record begins, if there is one.

        Usually that is right behind it, by its own length. Else every place that looks
        like the beginning of one is tried.
        """
        data = self._data
        if position + _ENDS_BYTES <= len(data):
            skipped = position + _ENDS_BYTES + int(_HEAD.unpack_from(data, position)[1])
            if self._is_record(skipped):
                return skipped
        heads = [_HEAD.pack(kind, 0)[:4] for kind in (KIND_COMMIT, KIND_SEAL)]
        places = [data.find(head, position + 1) for head in heads]
        while any(place >= 0 for place in places) and self._budget_bytes > 0:
            nearest = min(place for place in places if place >= 0)
            if self._is_record(nearest):
                return nearest
            places = [
                data.find(head, place + 1) if place == nearest else place
                for head, place in zip(heads, places, strict=True)
            ]
        return None

    def _is_record(self, position: int) -> bool:
        self._budget_bytes -= 4 * _ENDS_BYTES
        if position + _ENDS_BYTES > len(self._data):
            return False
        claimed = int(_HEAD.unpack_from(self._data, position)[1])
        if claimed > len(self._data) - position - _ENDS_BYTES:
            return False
        self._budget_bytes -= claimed
        return self._budget_bytes > 0 and not isinstance(next_record(self._data, position), str)


def slices(index: SegmentIndex, segment_bytes: int, report: Report, path: Path) -> Iterator[Slice]:
    """The slices of a segment's ranges, one per batch, as far as the file reaches.

    `path` is the data file, for the report of committed bytes that it does not have.
    """
    for start, end, commit in index.ranges:
        if commit is None:
            yield Slice(start, min(end, segment_bytes), None, 0)
        else:
            position = start
            for row, batch_bytes in zip(
                commit.entries, commit.entries["record_bytes"].tolist(), strict=True
            ):
                if position + batch_bytes > segment_bytes:
                    break
                yield Slice(position, position + batch_bytes, row, commit.committed_at_ms)
                position += batch_bytes
        if end > segment_bytes:
            missing = index.end_offset - segment_bytes
            reason = f"{missing} committed bytes are missing, the file ends"
            report(CorruptSegmentError(str(path), segment_bytes, reason))
            return


def header_of(entry: np.void, workspace_id: int) -> BatchHeader:
    """The header of the batch that an entry describes; its source is not stored."""
    return BatchHeader(
        producer=entry["producer"].tobytes(),
        epoch=int(entry["epoch"]),
        sequence=int(entry["sequence"]),
        schema_type=int(entry["schema_type"]),
        event_types=int(entry["event_types"]),
        workspace_id=workspace_id,
        source_id="",
        received_at_ms=int(entry["received_at_ms"]),
        message_count=int(entry["message_count"]),
        event_count=int(entry["event_count"]),
        record_bytes=int(entry["record_bytes"]),
        checksum=int(entry["checksum"]),
        time_min_ms=int(entry["time_min_ms"]),
        time_max_ms=int(entry["time_max_ms"]),
    )
