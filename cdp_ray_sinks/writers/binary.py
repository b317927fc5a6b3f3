"""disk_binary files: what writes them, and the three that read them.

Each message is stored as `[u64 received ms][16 B source ip][u32 size][message]`, integers
big-endian: exactly a batch's `records`, so writing one is handing over its own bytes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, NamedTuple, Self

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.enums import METADATA_BYTES, RECORD_PREFIX_BYTES
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError, MalformedMessageError
from cdp_ray_sinks.files.index_reading import Slice
from cdp_ray_sinks.files.mapped_segment import MappedSegment
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX, received_times

LZ4_SUFFIX: Final = ".lz4"
CLOCK_SLACK_MS: Final = 60_000
"""How far the clocks of a source and of a file's writer may lie apart when seeking."""
DAMAGED_MAX: Final = 10_000

_METADATA = struct.Struct(">Q16s")


@dataclass(frozen=True, slots=True)
class MessageMetadata:
    """The 24 bytes before each message: when it was received, in Unix ms, and from whom.

    `source_ip` is 16 bytes in IPv6 form, an IPv4 address mapped as ::ffff:a.b.c.d.
    """

    batch_timestamp: int
    source_ip: bytes

    METADATA_BYTES: ClassVar[int] = METADATA_BYTES
    """How many bytes `to_bytes` makes."""

    def to_bytes(self) -> bytes:
        """The 24 bytes; ValueError if the time is no u64 or the address not 16 bytes."""
        if not 0 <= self.batch_timestamp < 2**64 or len(self.source_ip) != 16:
            raise ValueError(f"no metadata can hold {self}")
        return _METADATA.pack(self.batch_timestamp, self.source_ip)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> MessageMetadata:
        """Read the first 24 bytes; MalformedMessageError if there are fewer."""
        if len(data) < METADATA_BYTES:
            raise MalformedMessageError("metadata is cut short", len(data))
        return cls(*_METADATA.unpack_from(data))

    def source_ip_string(self) -> str:
        """The address as people write it: dotted if it is IPv4, else compressed IPv6."""
        address = ipaddress.IPv6Address(self.source_ip)
        return str(address.ipv4_mapped or address)


class Message(NamedTuple):
    """One message of a file; `offset` is where its record begins there."""

    metadata: MessageMetadata
    message: memoryview
    offset: int


class BinaryWriter:
    """Writes batches as they are: the segment's bytes are the batches' own records.

    Segments are named `{prefix}.bin`.
    """

    suffix: ClassVar[str] = ".bin"
    index_flags: ClassVar[int] = 0

    def __init__(self, prefix: str = "data") -> None:
        self.prefix = prefix

    def stream_of(self, header: BatchHeader) -> str:
        """All batches go into one stream, whatever their schema."""
        return self.prefix

    def encode(self, batches: Sequence[Batch]) -> list[memoryview]:
        """The batches' record buffers, nothing copied."""
        return [batch.records.data for batch in batches]

    def release(self) -> None:
        """Nothing is held."""


class _Reader:
    """Opens a file and keeps what is found wrong with it."""

    def __init__(self, segment: MappedSegment, damaged: list[CorruptSegmentError]) -> None:
        self._segment = segment
        self.damaged = damaged
        """Damage found so far, in the order of finding; the first DAMAGED_MAX places."""

    @classmethod
    def open(
        cls, path: str | Path, on_damage: Callable[[CorruptSegmentError], None] | None = None
    ) -> Self:
        """Open a `.bin` file, written by us (with a commit index) or by other software.

        `on_damage` is called with each damage too, when it is found. Raises OSError,
        ConfigError for a compressed file, CorruptSegmentError for what is no file.
        """
        path = Path(path)
        if path.suffix == LZ4_SUFFIX:
            raise ConfigError(f"{path}: compressed files can't be read yet")
        damaged: list[CorruptSegmentError] = []
        known: set[tuple[object, ...]] = set()

        def report(damage: CorruptSegmentError) -> None:
            if damage.args in known:
                return  # found again by another pass over the file
            if len(damaged) < DAMAGED_MAX:
                known.add(damage.args)
                damaged.append(damage)
            if on_damage is not None:
                on_damage(damage)

        return cls(MappedSegment.open(path, report), damaged)

    @property
    def is_compressed(self) -> bool:
        """Whether the file is LZ4."""
        return False

    @property
    def workspace_id(self) -> int:
        """The workspace that the index, or else the path, names; 0 if neither does."""
        return self._segment.workspace_id

    def close(self) -> None:
        """Read no more. Batches and messages handed out stay valid."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BinaryReader(_Reader):
    """Reads a file from its beginning to its last commit.

    A file without an index is read to its last good record. What is damaged is left out
    and noted in `damaged`; the rest goes on.
    """

    def __init__(self, segment: MappedSegment, damaged: list[CorruptSegmentError]) -> None:
        super().__init__(segment, damaged)
        self._rest: Iterator[Message] | None = None

    def read_message(self) -> Message | None:
        """The next message, None behind the last."""
        if self._rest is None:
            self._rest = self._all_messages()
        return next(self._rest, None)

    def messages(self) -> Iterator[Message]:
        """The messages that `read_message` has not given yet."""
        while (message := self.read_message()) is not None:
            yield message

    def read_all(self) -> list[Message]:
        """The rest of the messages at once; they are views of the mapped file."""
        return list(self.messages())

    def batches(self, records_bytes_max: int = RECORDS_BYTES_MAX) -> Iterator[Batch]:
        """All batches of the file from its beginning, as views of the mapped file.

        Those that the index lists come under their ids, their checksums proven. From a
        file without an index they have no id, one schema and UTC hour each, and at most
        `records_bytes_max` unless one record is larger.
        """
        return self._segment.batches(records_bytes_max)

    def _all_messages(self) -> Iterator[Message]:
        for part in self._segment.slices():
            offset = part.start
            for batch in self._segment.batches_in(part):
                yield from _messages_of(batch, offset)
                offset += len(batch.records)


class SeekableBinaryReader(_Reader):
    """Reads from any record of a plain file on, and by received time."""

    def __init__(self, segment: MappedSegment, damaged: list[CorruptSegmentError]) -> None:
        super().__init__(segment, damaged)
        self._position = 0
        self._parts = segment.slices()
        self._part: Slice | None = None
        self._messages: Iterator[tuple[int, int]] | None = None

    @property
    def position(self) -> int:
        """Byte offset of the record that is read next."""
        return self._position

    def seek(self, position: int) -> None:
        """Go on at the record that begins at `position`.

        Raises ValueError if that is outside of what can be read. That a record begins
        there is found out by the next read: if none does, it goes on at the next batch.
        """
        end = self._segment.end_offset
        if not 0 <= position <= end:
            raise ValueError(f"{self._segment.path}: {position} is not in 0..{end}")
        if position < self._position:
            self._parts = self._segment.slices()
            self._part = None
        self._messages = None
        self._position = position

    def read_message(self) -> Message | None:
        """The message at `position`, which moves behind it; None at the end."""
        place = self._next_place()
        if place is None:
            return None
        start, end = place
        self._position = end
        return _message_at(self._segment.records.data[start:end], start)

    def skip_message(self) -> bool:
        """Move behind the message at `position`; False at the end."""
        place = self._next_place()
        if place is None:
            return False
        self._position = place[1]
        return True

    def scan_time_range(self, start_ms: int, end_ms: int) -> Iterator[Message]:
        """The messages received from `start_ms` to `end_ms`, both included, in file order.

        Starts at the file's beginning and leaves `position` alone. With an index it looks
        only into commits whose time can match; without one it walks every record.
        """
        for part in self._segment.slices():
            if not _may_hold(part, start_ms, end_ms):
                continue
            offset = part.start
            for batch in self._segment.batches_in(part):
                yield from _messages_between(batch, offset, start_ms, end_ms)
                offset += len(batch.records)

    def _next_place(self) -> tuple[int, int] | None:
        """Start and end of the record at `position`, or of the first good one behind it."""
        while True:
            if self._messages is None and not self._enter_part():
                return None
            assert self._messages is not None
            for start, end in self._messages:
                if start >= self._position:
                    return start, end
            self._messages = None
            assert self._part is not None
            self._position = max(self._position, self._part.end)

    def _enter_part(self) -> bool:
        """Find the part that holds `position` and check it; False behind the last."""
        while self._part is None or self._part.end <= self._position:
            self._part = next(self._parts, None)
            if self._part is None:
                return False
        self._messages = self._places_in(self._part)
        return True

    def _places_in(self, part: Slice) -> Iterator[tuple[int, int]]:
        if part.entry is None:
            pieces: Iterable[list[int]] = (
                piece.tolist()
                for piece in self._segment.scan().pieces(max(self._position, part.start), part.end)
            )
        else:
            pieces = (
                (batch.offsets.astype(np.int64) + part.start).tolist()
                for batch in self._segment.batches_in(part)
            )
        for piece in pieces:
            if part.entry is not None and piece[0] < self._position not in piece:
                self._segment.complain(self._position, "no record begins here")
                return
            yield from pairwise(piece)


def _may_hold(part: Slice, start_ms: int, end_ms: int) -> bool:
    """Whether a part can hold a message received in that time.

    Its entry's time is that of its first message, and nothing is received after it is
    committed. Where the clocks tell otherwise the part is looked into.
    """
    if part.entry is None:
        return True
    received_at_ms = int(part.entry["received_at_ms"])
    if received_at_ms > end_ms + CLOCK_SLACK_MS:
        return False
    clocks_agree = received_at_ms <= part.committed_at_ms
    return not (clocks_agree and part.committed_at_ms + CLOCK_SLACK_MS < start_ms)


def _messages_of(batch: Batch, offset: int) -> Iterator[Message]:
    view = batch.records.data
    for start, end in pairwise(batch.offsets.tolist()):
        yield _message_at(view[start:end], offset + start)


def _messages_between(batch: Batch, offset: int, start_ms: int, end_ms: int) -> Iterator[Message]:
    starts = batch.offsets.astype(np.int64)
    received = received_times(batch.records, starts)
    if end_ms < 0 or start_ms >= 2**64:
        return
    low, high = np.uint64(max(start_ms, 0)), np.uint64(min(end_ms, 2**64 - 1))
    for place in np.flatnonzero((received >= low) & (received <= high)).tolist():
        start, end = int(starts[place]), int(starts[place + 1])
        yield _message_at(batch.records.data[start:end], offset + start)


def _message_at(record: memoryview, offset: int) -> Message:
    return Message(MessageMetadata.from_bytes(record), record[RECORD_PREFIX_BYTES:], offset)
