"""The file of a generation: the blocks of rows that go to a server together.

Little-endian. A 64-byte header, then records: u32 kind, u32 block number, u64 payload bytes,
the payload, u64 xxh3-64 of all that. The first records are the batches (commit index entries)
and what was refused of them so far, then come the blocks; so far it is written as a whole,
synced, and only then given its name. What is appended later tells what became of the blocks.

A block's payload: u32 rows, u32 bytes of the table's name and of the token, u32 flags, the two
texts, per row the place of its batch, of its message in the batch, and of its entry among
those of the batch (u32 each), and the bytes to be inserted.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import ENTRY, xxh3

MAGIC: Final = b"CDPGEN1\0"
VERSION: Final = 1
HEADER_BYTES: Final = 64
_HEADER = struct.Struct("<8sI4xQQQ16x")
_RECORD = struct.Struct("<IIQ")
_CHECKSUM = struct.Struct("<Q")
_BLOCK = struct.Struct("<IIII")
_NO_BLOCK: Final = 0xFFFFFFFF
_ONE_PARTITION: Final = 1
WHOLE_MESSAGE: Final = 0xFFFFFFFF
"""Stands for "all entries of the message"."""


RefusedMessages: TypeAlias = dict[BatchId, list[tuple[int, int, str]]]
"""Per batch: message, entry (see `Refusal`) and reason."""


class RecordKind(IntEnum):
    """What a record tells."""

    BATCHES = 1
    REFUSALS = 2
    BLOCK = 3
    LANDED = 4
    SPLIT = 5
    REFUSED = 6


class BlockState(IntEnum):
    """What became of a block. SPLIT: others took its place."""

    OPEN = 0
    LANDED = 1
    SPLIT = 2
    REFUSED = 3


class Refusal(NamedTuple):
    """An entry that its destination will never take, or a whole message.

    `batch` is a place among the generation's batches, `message` one in that batch, `entry`
    one among all entries of that batch, or WHOLE_MESSAGE.
    """

    batch: int
    message: int
    entry: int
    reason: str


@dataclass(slots=True, eq=False)
class Block:
    """Rows of one table as they are inserted, always the same bytes under the same token.

    `batches`, `messages` and `entries` say for each row where it comes from, see `Refusal`.
    `has_one_partition`: the rows lie in one partition of the table, as far as is known.
    """

    number: int
    table: str
    token: str
    batches: NDArray[np.uint32]
    messages: NDArray[np.uint32]
    entries: NDArray[np.uint32]
    payload: Any
    has_one_partition: bool = True
    state: BlockState = BlockState.OPEN
    attempts: int = 0
    is_unsure: bool = False
    """Whether an attempt ended without an answer, so that the rows may be there."""

    @property
    def row_count(self) -> int:
        """Rows in the block."""
        return len(self.batches)


@dataclass(slots=True, eq=False)
class Generation:
    """Blocks that go out together, and the batches they were made of.

    `entries` is an array of the commit index's ENTRY. `refusals` grows while blocks are
    refused.
    """

    number: int
    entries: NDArray[np.void]
    blocks: list[Block] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_number(self) -> int:
        """A number for one more block; any thread may ask."""
        return next(self._numbers)

    def count_from(self, number: int) -> None:
        """The next number is this one; for reading."""
        self._numbers = itertools.count(number)

    def batch_ids(self) -> list[BatchId]:
        """The batches it was made of."""
        return [
            BatchId(row["producer"].tobytes(), int(row["epoch"]), int(row["sequence"]))
            for row in self.entries
        ]

    @property
    def open_blocks(self) -> list[Block]:
        """The blocks whose rows are not yet known to be there."""
        return [block for block in self.blocks if block.state == BlockState.OPEN]


def encode_generation(generation: Generation, created_at_ms: int) -> list[memoryview]:
    """The file as it is written as a whole, in pieces; the blocks' payloads are not copied."""
    pieces = _record(RecordKind.BATCHES, _NO_BLOCK, [generation.entries.tobytes()])
    if generation.refusals:
        text = json.dumps(generation.refusals).encode()
        pieces += _record(RecordKind.REFUSALS, _NO_BLOCK, [text])
    for block in generation.blocks:
        pieces += _encode_block(block)
        if block.state == BlockState.LANDED:
            pieces += encode_landed(block)
        elif block.state == BlockState.REFUSED:
            pieces += encode_refused(block, "")  # why is told by the refusals
    first_bytes = HEADER_BYTES + sum(piece.nbytes for piece in pieces)
    head = _HEADER.pack(MAGIC, VERSION, generation.number, created_at_ms, first_bytes)
    return [memoryview(head + _CHECKSUM.pack(xxh3(head))), *pieces]


def encode_landed(block: Block) -> list[memoryview]:
    """A record that says that a block's rows are there."""
    return _record(RecordKind.LANDED, block.number, [])


def encode_refused(block: Block, reason: str) -> list[memoryview]:
    """A record that says that a block's rows will never be taken."""
    return _record(RecordKind.REFUSED, block.number, [reason.encode()])


def encode_split(block: Block, parts: Sequence[Block]) -> list[memoryview]:
    """Records of blocks that take another's place, and the one that says so, which is last."""
    pieces = [piece for part in parts for piece in _encode_block(part)]
    numbers = struct.pack(f"<{len(parts)}I", *(part.number for part in parts))
    return pieces + _record(RecordKind.SPLIT, block.number, [numbers])


def _encode_block(block: Block) -> list[memoryview]:
    table, token = block.table.encode(), block.token.encode()
    flags = _ONE_PARTITION if block.has_one_partition else 0
    head = _BLOCK.pack(block.row_count, len(table), len(token), flags) + table + token
    columns = [
        np.ascontiguousarray(column, "<u4").tobytes()
        for column in (block.batches, block.messages, block.entries)
    ]
    return _record(RecordKind.BLOCK, block.number, [head, *columns, block.payload])


def _record(kind: RecordKind, number: int, parts: Sequence[Any]) -> list[memoryview]:
    views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
    head = memoryview(_RECORD.pack(kind, number, sum(view.nbytes for view in views)))
    digest = xxhash.xxh3_64()
    for view in (head, *views):
        digest.update(view)
    return [head, *views, memoryview(_CHECKSUM.pack(digest.intdigest()))]


def parse_generation(data: memoryview, path: str) -> tuple[Generation, int]:
    """The generation of a file, and the bytes of it that hold: an append may be torn.

    Payloads are views of `data`. Blocks without an answer are unsure: they may have been
    sent. Raises CorruptSegmentError if what was there from the beginning is damaged.
    """
    if len(data) < HEADER_BYTES or bytes(data[:8]) != MAGIC:
        raise CorruptSegmentError(path, 0, "not a generation")
    body = data[: HEADER_BYTES - _CHECKSUM.size]
    if _CHECKSUM.unpack_from(data, len(body))[0] != xxh3(body):
        raise CorruptSegmentError(path, 0, "header checksum does not hold")
    _, version, number, _, first_bytes = _HEADER.unpack(body)
    if version != VERSION:
        raise CorruptSegmentError(path, 8, f"generation version {version} is not known")
    reading = _Reading(Generation(number, np.zeros(0, ENTRY)), first_bytes)
    position = HEADER_BYTES
    for kind, block_number, payload, end in _records(data):
        try:
            reading.take(kind, block_number, payload, position)
        except (struct.error, ValueError, KeyError) as error:
            raise CorruptSegmentError(path, position, f"broken record: {error}") from error
        position = end
    if position < first_bytes:
        raise CorruptSegmentError(path, position, "record checksum does not hold")
    return reading.generation, position


def _records(data: memoryview) -> Iterator[tuple[int, int, memoryview, int]]:
    """Kind, block number, payload and end of each record, up to the first that is torn."""
    position = HEADER_BYTES
    while position + _RECORD.size + _CHECKSUM.size <= len(data):
        kind, number, payload_bytes = _RECORD.unpack_from(data, position)
        end = position + _RECORD.size + payload_bytes
        if end + _CHECKSUM.size > len(data):
            return
        if _CHECKSUM.unpack_from(data, end)[0] != xxh3(data[position:end]):
            return
        yield kind, number, data[position + _RECORD.size : end], end + _CHECKSUM.size
        position = end + _CHECKSUM.size


class _Reading:
    """Records applied one after the other."""

    def __init__(self, generation: Generation, first_bytes: int) -> None:
        self.generation = generation
        self._first_bytes = first_bytes
        self._blocks: dict[int, Block] = {}

    def take(self, kind: int, number: int, payload: memoryview, position: int) -> None:
        """Apply a record that begins at `position`."""
        generation = self.generation
        if kind == RecordKind.BATCHES:
            generation.entries = np.frombuffer(payload, ENTRY)
        elif kind == RecordKind.REFUSALS:
            generation.refusals += [Refusal(*one) for one in json.loads(bytes(payload))]
        elif kind == RecordKind.BLOCK:
            self._blocks[number] = _parse_block(number, payload)
            generation.count_from(number + 1)
            if position < self._first_bytes:  # one that came later waits for its SPLIT
                generation.blocks.append(self._blocks[number])
        elif kind == RecordKind.LANDED:
            self._blocks[number].state = BlockState.LANDED
        elif kind == RecordKind.REFUSED:
            refuse(generation, self._blocks[number], bytes(payload).decode())
        elif kind == RecordKind.SPLIT:
            parts = [self._blocks[int(part)] for part in np.frombuffer(payload, "<u4")]
            split(generation, self._blocks[number], parts)
        else:
            raise ValueError(f"kind {kind} is not known")


def split(generation: Generation, block: Block, parts: Sequence[Block]) -> None:
    """Put other blocks in a block's place."""
    block.state = BlockState.SPLIT
    place = next(p for p, one in enumerate(generation.blocks) if one is block)
    generation.blocks[place : place + 1] = parts


def refuse(generation: Generation, block: Block, reason: str) -> None:
    """Note all rows of a block as refused; entries that have several are noted once."""
    block.state = BlockState.REFUSED
    places = np.unique(
        np.stack([block.batches, block.messages, block.entries], axis=1).astype(np.int64), axis=0
    )
    known = {refusal[:3] for refusal in generation.refusals}
    generation.refusals += [
        Refusal(batch, message, entry, reason)
        for batch, message, entry in places.tolist()
        if (batch, message, entry) not in known
    ]


def _parse_block(number: int, payload: memoryview) -> Block:
    rows, table_bytes, token_bytes, flags = _BLOCK.unpack_from(payload)
    position = _BLOCK.size
    table = bytes(payload[position : position + table_bytes]).decode()
    position += table_bytes
    token = bytes(payload[position : position + token_bytes]).decode()
    position += token_bytes
    columns = np.frombuffer(payload, "<u4", 3 * rows, position).reshape(3, rows)
    position += 12 * rows
    return Block(
        number, table, token, columns[0], columns[1], columns[2], payload[position:],
        has_one_partition=bool(flags & _ONE_PARTITION), is_unsure=True,
    )  # fmt: skip


def refused_of(path: Path) -> tuple[RefusedMessages, dict[BatchId, int]]:
    """What such a file tells, and the batches' checksums. Raises CorruptSegmentError."""
    try:
        found: RefusedMessages = {}
        checksums: dict[BatchId, int] = {}
        for producer, epoch, sequence, checksum, refused in json.loads(path.read_bytes()):
            batch_id = BatchId(bytes.fromhex(producer), epoch, sequence)
            found[batch_id] = [(message, entry, reason) for message, entry, reason in refused]
            checksums[batch_id] = checksum
    except (ValueError, TypeError) as error:
        reason = f"not a list of refused messages: {error}"
        raise CorruptSegmentError(str(path), 0, reason) from None
    return found, checksums
