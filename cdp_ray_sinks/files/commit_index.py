"""The commit index beside a segment: `data.bin` has `data.bin.idx`.

Little-endian. A 64-byte header, then records: u32 kind, u32 payload bytes, the payload,
u64 xxh3-64 of all that. Kinds: a snapshot of the ledger (first in every index), a commit,
the seal (last; anything after it is not ours). A commit covers a range of the segment and
lists its batches. In a segment that holds the batches' own bytes each batch entry's
checksum proves its slice of the range, one after the other; in one that holds serialised
bytes (text, LZ4; flag RANGE_CHECKSUM) the commit's `range_checksum` proves the range.
With the flag LZ4 a commit's range is one LZ4 frame of independent blocks, each but its last
as long as the frame's block size; with RECORDS the frame's content is the batches' own bytes.

Data and index may reach the disk in either order, so a commit counts only when its own
checksum and those of the bytes hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.batch.enums import NO_TIME_MS
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.ledger import LedgerEntry

INDEX_SUFFIX: Final = ".idx"
MAGIC: Final = b"CDPIDX1\0"
VERSION: Final = 1
RANGE_CHECKSUM: Final = 1
"""Flag: the commit's `range_checksum` proves the bytes, not the entries' own."""
LZ4: Final = 2
"""Flag: each commit is one LZ4 frame."""
RECORDS: Final = 4
"""Flag: what the frames hold is the batches' records, in the order of the entries."""

HEADER_BYTES: Final = 64
_HEADER = struct.Struct("<8sHHIQQQq8x")
_RECORD = struct.Struct("<II")
_CHECKSUM = struct.Struct("<Q")
_COMMIT = struct.Struct("<QQQq")
_SEAL = struct.Struct("<QQQq")
_LEDGER = struct.Struct("<16sQQqI4x")
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024

KIND_SNAPSHOT: Final = 1
KIND_COMMIT: Final = 2
KIND_SEAL: Final = 3

ENTRY: Final = np.dtype(
    [
        ("producer", "V16"),
        ("epoch", "<u8"),
        ("sequence", "<u8"),
        ("low", "<u8"),
        ("record_bytes", "<u8"),
        ("checksum", "<u8"),
        ("received_at_ms", "<i8"),
        ("time_min_ms", "<i8"),
        ("time_max_ms", "<i8"),
        ("message_count", "<u4"),
        ("event_count", "<u4"),
        ("schema_type", "<u2"),
        ("event_types", "<u2"),
        ("reserved", "<u4"),
    ]
)
"""One batch of a commit, 96 bytes. `low` is the producer's lowest unsettled sequence."""


def xxh3(data: Any) -> int:
    """xxh3-64 of any buffer."""
    return int(xxhash.xxh3_64_intdigest(data))


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """Whose segment this is. `segment_number` rises by one per segment of a lane."""

    segment_number: int
    writer_epoch: int
    workspace_id: int
    created_at_ms: int
    flags: int = 0

    @property
    def journal_id(self) -> str:
        """Names the segment for ever, whatever becomes of its path."""
        numbers = (self.workspace_id, self.writer_epoch, self.segment_number, self.created_at_ms)
        return ".".join(map(str, numbers))

    def to_bytes(self) -> bytes:
        """The 64 bytes at the start of the index."""
        body = _HEADER.pack(
            MAGIC,
            VERSION,
            self.flags,
            0,
            self.segment_number,
            self.writer_epoch,
            self.workspace_id,
            self.created_at_ms,
        )
        return body + _CHECKSUM.pack(xxh3(body))

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> IndexHeader:
        """Read it back; raises CorruptSegmentError."""
        if len(data) < HEADER_BYTES or data[:8] != MAGIC:
            raise CorruptSegmentError(path, 0, "not a commit index")
        body = data[: HEADER_BYTES - 8]
        if _CHECKSUM.unpack_from(data, HEADER_BYTES - 8)[0] != xxh3(body):
            raise CorruptSegmentError(path, 0, "index header checksum does not hold")
        _, version, flags, _, number, epoch, workspace, created = _HEADER.unpack(body)
        if version != VERSION:
            raise CorruptSegmentError(path, 8, f"index version {version} is not known")
        return cls(number, epoch, workspace, created, flags)


@dataclass(frozen=True, slots=True)
class Commit:
    """A range of the segment that became durable at once, and the batches in it."""

    start_offset: int
    end_offset: int
    range_checksum: int
    committed_at_ms: int
    entries: NDArray[np.void]
    """Array of ENTRY, in the order of the bytes."""

    @property
    def event_count(self) -> int:
        """Events in the commit."""
        return int(self.entries["event_count"].sum())

    @property
    def message_count(self) -> int:
        """Messages in the commit."""
        return int(self.entries["message_count"].sum())


@dataclass(frozen=True, slots=True)
class Seal:
    """The end of a segment that is complete."""

    end_offset: int
    message_count: int
    event_count: int
    sealed_at_ms: int


def entries_of(headers: Sequence[BatchHeader], lows: Sequence[int]) -> NDArray[np.void]:
    """Commit entries for batches in write order; `lows` one per header."""
    rows = [
        (
            h.producer,
            h.epoch,
            h.sequence,
            low,
            h.record_bytes,
            h.checksum,
            h.received_at_ms,
            h.time_min_ms,
            h.time_max_ms,
            h.message_count,
            h.event_count,
            h.schema_type,
            h.event_types & 0xFFFF,
            0,
        )
        for h, low in zip(headers, lows, strict=True)
    ]
    return np.array(rows, dtype=ENTRY)


def time_range_ms(commit: Commit) -> tuple[int, int]:
    """Lowest and highest event time of a commit, NO_TIME_MS twice when unknown."""
    known = commit.entries["time_min_ms"] != NO_TIME_MS
    if not known.any():
        return NO_TIME_MS, NO_TIME_MS
    entries = commit.entries[known]
    return int(entries["time_min_ms"].min()), int(entries["time_max_ms"].max())


def encode_commit(commit: Commit) -> bytes:
    """A commit record."""
    head = _COMMIT.pack(
        commit.start_offset, commit.end_offset, commit.range_checksum, commit.committed_at_ms
    )
    return _record(KIND_COMMIT, head + commit.entries.tobytes())


def encode_seal(seal: Seal) -> bytes:
    """A seal record."""
    body = _SEAL.pack(seal.end_offset, seal.message_count, seal.event_count, seal.sealed_at_ms)
    return _record(KIND_SEAL, body)


def encode_snapshot(entries: Iterable[LedgerEntry]) -> bytes:
    """A ledger snapshot record."""
    parts = []
    for e in entries:
        parts.append(_LEDGER.pack(e.producer, e.epoch, e.low, e.last_seen_ms, len(e.durable)))
        parts.append(np.fromiter(e.durable.keys(), "<u8", len(e.durable)).tobytes())
        parts.append(np.fromiter(e.durable.values(), "<u8", len(e.durable)).tobytes())
    return _record(KIND_SNAPSHOT, b"".join(parts))


def _record(kind: int, payload: bytes) -> bytes:
    body = _RECORD.pack(kind, len(payload)) + payload
    return body + _CHECKSUM.pack(xxh3(body))


@dataclass(frozen=True, slots=True)
class IndexContents:
    """What an index says, as far as its own checksums hold.

    `valid_bytes` is where the first torn or damaged record begins, or the end; `damage`
    names what is wrong there, None when nothing is.
    """

    header: IndexHeader
    ledger: list[LedgerEntry]
    commits: list[Commit]
    seal: Seal | None
    valid_bytes: int
    damage: str | None


def parse_index(data: bytes, path: str) -> IndexContents:
    """Read a whole index; damage behind the header ends it instead of raising.

    Raises CorruptSegmentError if the 64-byte header itself is unreadable.
    """
    header = IndexHeader.from_bytes(data, path)
    ledger: list[LedgerEntry] = []
    commits: list[Commit] = []
    seal: Seal | None = None
    position, damage = HEADER_BYTES, None
    while seal is None and position < len(data):
        record = next_record(data, position)
        if isinstance(record, str):
            damage = record
            break
        kind, payload, end = record
        try:
            if kind == KIND_SNAPSHOT:
                ledger.extend(parse_snapshot(payload))
            elif kind == KIND_COMMIT:
                commits.append(parse_commit(payload, commits))
            else:
                seal = parse_seal(payload)
        except (struct.error, ValueError) as error:
            damage = str(error)
            break
        position = end
    return IndexContents(header, ledger, commits, seal, position, damage)


def next_record(data: bytes, position: int) -> tuple[int, bytes, int] | str:
    """Kind, payload and end of the record at `position`, or what is wrong with it."""
    if len(data) - position < _RECORD.size + _CHECKSUM.size:
        return "torn index record"
    kind, length = _RECORD.unpack_from(data, position)
    if kind not in (KIND_SNAPSHOT, KIND_COMMIT, KIND_SEAL) or length > RECORD_BYTES_MAX:
        return "not an index record"
    body_end = position + _RECORD.size + length
    if body_end + _CHECKSUM.size > len(data):
        return "torn index record"
    if _CHECKSUM.unpack_from(data, body_end)[0] != xxh3(memoryview(data)[position:body_end]):
        return "index record checksum does not hold"
    return kind, data[position + _RECORD.size : body_end], body_end + _CHECKSUM.size


def parse_commit(payload: bytes, before: Sequence[Commit]) -> Commit:
    """A commit from its payload; ValueError if it does not go on where the last one ended."""
    start, end, checksum, committed_at_ms = _COMMIT.unpack_from(payload)
    if (len(payload) - _COMMIT.size) % ENTRY.itemsize:
        raise ValueError("commit record has a broken entry")
    expected = before[-1].end_offset if before else start
    if start != expected or end < start:
        raise ValueError(f"commit covers {start}..{end} but should begin at {expected}")
    entries = np.frombuffer(payload, ENTRY, offset=_COMMIT.size)
    return Commit(start, end, checksum, committed_at_ms, entries)


def parse_seal(payload: bytes) -> Seal:
    """A seal from its payload; struct.error if it has not its bytes."""
    return Seal(*_SEAL.unpack(payload))


def parse_snapshot(payload: bytes) -> Iterator[LedgerEntry]:
    """The ledger entries of a snapshot; struct.error or ValueError if it is cut short."""
    position = 0
    while position < len(payload):
        producer, epoch, low, seen, count = _LEDGER.unpack_from(payload, position)
        position += _LEDGER.size
        if position + 16 * count > len(payload):
            raise ValueError("ledger snapshot is cut short")
        sequences = np.frombuffer(payload, "<u8", count, position).tolist()
        checksums = np.frombuffer(payload, "<u8", count, position + 8 * count).tolist()
        position += 16 * count
        yield LedgerEntry(producer, epoch, low, seen, dict(zip(sequences, checksums, strict=True)))


def commit_ledger(commits: Iterable[Commit]) -> list[LedgerEntry]:
    """What commits say of the ledger, to be merged with the snapshot before them."""
    found: dict[tuple[bytes, int], LedgerEntry] = {}
    for commit in commits:
        for row in commit.entries:
            key = (row["producer"].tobytes(), int(row["epoch"]))
            entry = found.setdefault(key, LedgerEntry(*key))
            entry.durable[int(row["sequence"])] = int(row["checksum"])
            entry.low = max(entry.low, int(row["low"]))
            entry.last_seen_ms = max(entry.last_seen_ms, commit.committed_at_ms)
    return list(found.values())
