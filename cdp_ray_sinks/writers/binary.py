"""disk_binary files: what writes them, and the three that read them.

Each message is stored as `[u64 received ms][16 B source ip][u32 size][message]`, integers
big-endian: exactly a batch's `records`, so writing one is handing over its own bytes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, NamedTuple, Self

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.enums import METADATA_BYTES, RECORD_PREFIX_BYTES
from cdp_ray_sinks.errors import CorruptSegmentError, MalformedMessageError
from cdp_ray_sinks.files.commit_index import LZ4, RANGE_CHECKSUM, RECORDS
from cdp_ray_sinks.files.encoded import Chunks
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX
from cdp_ray_sinks.files.segment_opening import RecordSegment, open_segment
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.writers.lz4_frames import Lz4Settings, frame_chunks

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


class BinaryLz4Writer:
    """Writes batches as `BinaryWriter` does, each commit compressed into one LZ4 frame.

    Segments are named `{prefix}.bin.lz4`.
    """

    suffix: ClassVar[str] = BinaryWriter.suffix + LZ4_SUFFIX
    index_flags: ClassVar[int] = RANGE_CHECKSUM | LZ4 | RECORDS

    def __init__(self, prefix: str = "data", settings: Lz4Settings | None = None) -> None:
        self.prefix = prefix
        self.settings = settings or Lz4Settings()

    def stream_of(self, header: BatchHeader) -> str:
        """All batches go into one stream, whatever their schema."""
        return self.prefix

    def encode(self, batches: Sequence[Batch]) -> Chunks:
        """One LZ4 frame of the batches' records."""
        content_bytes = sum(batch.records.nbytes for batch in batches)
        return frame_chunks((b.records.data for b in batches), self.settings, content_bytes)

    def release(self) -> None:
        """Nothing is held."""


class _Reader:
    """Opens a file and keeps what is found wrong with it."""

    def __init__(self, segment: RecordSegment, damaged: list[CorruptSegmentError]) -> None:
        self._segment = segment
        self.damaged = damaged
        """Damage found so far, in the order of finding; the first DAMAGED_MAX places."""

    @classmethod
    def open(
        cls, path: str | Path, on_damage: Callable[[CorruptSegmentError], None] | None = None
    ) -> Self:
        """Open a `.bin` or `.bin.lz4` file, written by us (with an index) or other software.

        `on_damage` is called with each damage too, when it is found. Raises OSError,
        CorruptSegmentError for what is no file or holds something else.
        """
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

        return cls(open_segment(Path(path), report), damaged)

    @property
    def is_compressed(self) -> bool:
        """Whether the file is LZ4."""
        return self._segment.is_compressed

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

    def __init__(self, segment: RecordSegment, damaged: list[CorruptSegmentError]) -> None:
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
        """The rest of the messages at once; of a plain file they are views of the mapped file."""
        return list(self.messages())

    def batches(self, records_bytes_max: int = RECORDS_BYTES_MAX) -> Iterator[Batch]:
        """All batches of the file from its beginning; of a plain file as views of it.

        Those that the index lists come under their ids, their checksums proven. From a
        file without an index they have no id, one schema and UTC hour each, and at most
        `records_bytes_max` unless one record is larger.
        """
        located = self._segment.located(records_bytes_max=records_bytes_max)
        return (batch for _, batch in located)

    def _all_messages(self) -> Iterator[Message]:
        for start, batch in self._segment.located():
            yield from _messages_of(batch, start)


class SeekableBinaryReader(_Reader):
    """Reads from any record of a file on, and by received time.

    Places are byte offsets in the records: in the file, or in what an LZ4 file decompresses
    to. By its index an LZ4 file is decompressed only around the place.
    """

    def __init__(self, segment: RecordSegment, damaged: list[CorruptSegmentError]) -> None:
        super().__init__(segment, damaged)
        self._position = 0
        self._records: Iterator[tuple[int, memoryview]] | None = None

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
        self._records = None
        self._position = position

    def read_message(self) -> Message | None:
        """The message at `position`, which moves behind it; None at the end."""
        found = self._next_record()
        return None if found is None else _message_at(found[1], found[0])

    def skip_message(self) -> bool:
        """Move behind the message at `position`; False at the end."""
        return self._next_record() is not None

    def scan_time_range(self, start_ms: int, end_ms: int) -> Iterator[Message]:
        """The messages received from `start_ms` to `end_ms`, both included, in file order.

        Starts at the file's beginning and leaves `position` alone. With an index it looks
        only at batches whose time can match; without one it walks every record.
        """
        selection = Selection(start_ms, end_ms)
        for place, batch in self._segment.located(wanted=selection.may_hold):
            for first, end in selection.runs_in(batch):
                yield from _messages_of(batch, place, first, end)

    def _next_record(self) -> tuple[int, memoryview] | None:
        """The record at `position`, or the first good one behind it; moves behind it."""
        if self._records is None:
            self._records = self._records_from(self._position)
        found = next(self._records, None)
        if found is None:
            self._position = max(self._position, self._segment.end_offset)
        else:
            self._position = found[0] + found[1].nbytes
        return found

    def _records_from(self, position: int) -> Iterator[tuple[int, memoryview]]:
        for begin, batch in self._segment.located(position):
            starts = batch.offsets.tolist()
            if begin < position and position - begin not in starts:
                self._segment.complain(position, "no record begins here")
                continue
            view = batch.records.data
            for start, end in pairwise(starts):
                if begin + start >= position:
                    yield begin + start, view[start:end]


def _messages_of(
    batch: Batch, offset: int, first: int = 0, end: int | None = None
) -> Iterator[Message]:
    view = batch.records.data
    for start, stop in pairwise(batch.offsets[first : None if end is None else end + 1].tolist()):
        yield _message_at(view[start:stop], offset + start)


def _message_at(record: memoryview, offset: int) -> Message:
    return Message(MessageMetadata.from_bytes(record), record[RECORD_PREFIX_BYTES:], offset)
