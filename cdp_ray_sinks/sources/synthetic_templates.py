"""What the synthetic kernel copies and fills in: the fixed parts of messages and payloads.

Layout as the C++ and Rust SDKs write it: each vtable right before its table, every offset
forward, everything on 4 bytes, each entry a buffer of its own inside the vector.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import PROTOCOL_VERSION, EventType, LogEventType
from cdp_ray_sinks.batch.kernels import synthetic as kernel
from cdp_ray_sinks.batch.kernels.cache import readonly

Table: TypeAlias = NDArray[np.int64]

_FILLS: Final = {
    "": kernel.FILL_END,
    "number": kernel.FILL_NUMBER,
    "random": kernel.FILL_RANDOM,
    "hex": kernel.FILL_HEX,
    "word": kernel.FILL_WORD,
    "device": kernel.FILL_DEVICE,
}
_HEX_DIGITS = np.frombuffer(b"".join(b"%02x" % value for value in range(256)), np.uint8)
_DECIMAL_PAIRS = np.frombuffer(b"".join(b"%02d" % value for value in range(100)), np.uint8)
_ID_COUNT: Final = struct.pack("<I16x", 16)


def envelope_bytes(schema_type: int, api_key: bytes) -> Bytes:
    """A message up to the count of its data: root, vtable, table, key."""
    vtable = struct.pack("<8H", 16, 32, 4, 24, 25, 0, 8, 0)
    table = struct.pack("<iII12xBB6x", 16, 28, 44, schema_type, PROTOCOL_VERSION)
    return _array(struct.pack("<I", 20) + vtable + table + struct.pack("<I", 16) + api_key)


def _event_block(event_type: EventType, has_name: bool) -> bytes:
    vtable = struct.pack("<9H2x", 18, 36, 28, 20, 0, 4, 8, 12 if has_name else 0, 16)
    table = struct.pack("<iIIII8xB7x", 20, 32, 48, 0, 0, event_type)
    return struct.pack("<I", 24) + vtable + table + _ID_COUNT + _ID_COUNT


def _log_block() -> bytes:
    vtable = struct.pack("<9H2x", 18, 32, 28, 4, 29, 20, 8, 12, 16)
    table = struct.pack("<iIIII8xB3x", 20, 28, 0, 0, 0, LogEventType.LOG)
    return struct.pack("<I", 24) + vtable + table + _ID_COUNT


def make_templates(
    payloads: Sequence[str],
    word_lists: Mapping[str, Sequence[str]],
    texts: Sequence[Sequence[str]],
    levels: Sequence[int],
    seed: int,
    device_count: int,
) -> kernel.Templates:
    """All that the kernel needs besides a job.

    `payloads` has one template per KIND_*: text with fills in angle brackets, `<number>`,
    `<random:N>`, `<hex>`, `<word:LIST>`, `<device>`. `texts` are event names, log sources
    and log services. Raises ValueError for a text or a word that is too long, or a payload
    that could become longer than PAYLOAD_BYTES_MAX.
    """
    device_ids = np.zeros(16 * device_count, np.uint8)
    session_ids = np.zeros(16 * device_count, np.uint8)
    kernel.fill_ids(np.uint64(seed), device_ids)
    kernel.fill_ids(np.uint64(kernel.mixed(np.uint64(seed), 1)), session_ids)
    blocks, block_facts = _blocks()
    cells, cell_facts = _cells(texts)
    starts, pieces, literals, words, lists = _pieces(payloads, word_lists)
    return kernel.Templates(
        blocks=blocks,
        block_facts=block_facts,
        cells=cells,
        cell_facts=cell_facts,
        levels=readonly(np.array(levels, np.uint8)),
        starts=starts,
        pieces=pieces,
        literals=literals,
        words=words,
        word_lists=lists,
        hex_digits=readonly(_HEX_DIGITS),
        pairs=readonly(_DECIMAL_PAIRS),
        device_ids=readonly(device_ids),
        session_ids=readonly(session_ids),
    )


def _blocks() -> tuple[Bytes, Table]:
    """The fixed part of each kind of entry, and what it says of itself (BLOCK_*)."""
    blocks = (
        _event_block(EventType.TRACK, True),
        _event_block(EventType.IDENTIFY, False),
        _event_block(EventType.CONTEXT, False),
        _log_block(),
    )
    facts = [(100, 64, 84, 1, 36, 0), *[(100, 64, 84, 0, 0, 0)] * 2, (76, 0, 60, 2, 32, 1)]
    joined = b"".join(block.ljust(kernel.BLOCK_BYTES, b"\0") for block in blocks)
    return _array(joined), _table(facts)


def _cells(groups: Sequence[Sequence[str]]) -> tuple[Bytes, Table]:
    """Texts in cells, and where each group begins, its count, and each cell's end."""
    cells = [_cell(text) for group in groups for text in group]
    joined = b"".join(cell.ljust(kernel.CELL_BYTES, b"\0") for cell in cells)
    return _array(joined), _group_table(groups, [len(cell) for cell in cells])


def _group_table(groups: Sequence[Sequence[str]], ends: Sequence[int]) -> Table:
    facts = np.zeros((max(len(ends), len(groups)), 3), np.int64)
    first = 0
    for place, group in enumerate(groups):
        facts[place, :2] = first, len(group)
        first += len(group)
    facts[: len(ends), kernel.CELL_END] = ends
    return readonly(facts.reshape(-1))


def _cell(text: str) -> bytes:
    content = text.encode()
    cell = struct.pack("<I", len(content)) + content + b"\0"
    cell += bytes(-len(cell) % 4)
    if len(cell) > kernel.CELL_BYTES:
        raise ValueError(f"too long a text: {text!r}")
    return cell


def _pieces(
    payloads: Sequence[str], word_lists: Mapping[str, Sequence[str]]
) -> tuple[Table, Table, Bytes, Bytes, Table]:
    """`starts`, `pieces`, `literals`, `words` and `word_lists` of the kernel's templates."""
    places = {name: place for place, name in enumerate(word_lists)}
    words = [word.encode() for group in word_lists.values() for word in group]
    literals: list[bytes] = []
    pieces: list[tuple[int, int, int]] = []
    starts: list[int] = []
    for payload in payloads:
        starts.append(len(pieces))
        parsed = _parse(payload, places)
        if len(parsed) * 2 * kernel.PIECE_BYTES > kernel.PAYLOAD_BYTES_MAX:
            raise ValueError(f"too long a payload: {payload!r}")
        for literal, fill, argument in parsed:
            literals.append(literal)
            pieces.append((len(literal), fill, argument))
    return (
        readonly(np.array(starts, np.int64)),
        _table(pieces),
        _in_pieces(literals),
        _in_pieces(words),
        _group_table(list(word_lists.values()), [len(word) for word in words]),
    )


def _parse(payload: str, places: Mapping[str, int]) -> list[tuple[bytes, int, int]]:
    """(literal, FILL_* behind it, argument), literals of at most PIECE_BYTES."""
    parsed = []
    for part in payload.split(">"):
        text, _, fill = part.partition("<")
        literal = text.encode()
        while len(literal) > kernel.PIECE_BYTES:
            parsed.append((literal[: kernel.PIECE_BYTES], kernel.FILL_NOTHING, 0))
            literal = literal[kernel.PIECE_BYTES :]
        name, _, argument = fill.partition(":")
        place = places[argument] if name == "word" else int(argument or 0)
        parsed.append((literal, _FILLS[name], place))
    return parsed


def _in_pieces(texts: Sequence[bytes]) -> Bytes:
    """Each text in PIECE_BYTES of its own, one behind the other."""
    too_long = [text for text in texts if len(text) > kernel.PIECE_BYTES]
    if too_long:
        raise ValueError(f"more than {kernel.PIECE_BYTES} bytes: {too_long[0]!r}")
    return _array(b"".join(text.ljust(kernel.PIECE_BYTES, b" ") for text in texts))


def _table(rows: Sequence[tuple[int, ...]]) -> Table:
    return readonly(np.array(rows, np.int64).reshape(-1))


def _array(content: bytes) -> Bytes:
    return readonly(np.frombuffer(content, np.uint8))
