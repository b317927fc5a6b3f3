"""Write messages of invented events and log entries, fast and the same every time.

What entry `n` looks like depends on the seed and `n` alone, whatever batch it is in.
Every payload begins `{"n":<n>` with a running number, so that what landed somewhere can be
checked against what was sent (see running_number.py).

A payload is a template: literals of at most 32 bytes with a fill behind each. Literals
are copied 32 bytes at a time, so the output has SLACK_BYTES behind its last payload.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    copy_16,
    copy_32,
    copy_bytes,
    load_u8,
    load_u16,
    load_u64,
    store_u8,
    store_u16,
    store_u32,
    store_u32_big,
    store_u64,
)

FILL_END: Final = 0
"""Nothing: the template ends."""
FILL_NUMBER: Final = 1
"""The running number, decimal."""
FILL_RANDOM: Final = 2
"""A random number below the argument, decimal."""
FILL_HEX: Final = 3
"""16 random hex digits."""
FILL_WORD: Final = 4
"""A random word of word list `argument`."""
FILL_DEVICE: Final = 5
"""The index of the entry's device, decimal."""
FILL_NOTHING: Final = 6
"""Nothing yet: the literal goes on in the next piece."""

PIECE_BYTES: Final = 32
SLACK_BYTES: Final = 64
PAYLOAD_BYTES_MAX: Final = 1024

KIND_TRACK: Final = 0
KIND_IDENTIFY: Final = 1
KIND_CONTEXT: Final = 2
KIND_LOG: Final = 3

BLOCK_BYTES: Final = 128
"""What an entry begins with is copied as a block; per kind, it says:"""
BLOCK_END: Final = 0
"""bytes of it that are used,"""
BLOCK_DEVICE: Final = 1
"""where the device id goes, 0 for none,"""
BLOCK_SESSION: Final = 2
"""where the session id goes,"""
BLOCK_TEXTS: Final = 3
"""how many texts follow,"""
BLOCK_FIRST_SLOT: Final = 4
"""where the first text's offset goes, the next 4 bytes behind,"""
BLOCK_FIRST_GROUP: Final = 5
"""and the first text's group of cells."""
BLOCK_COLUMNS: Final = 6
TIME_OFFSET: Final = 44
TYPE_OFFSET: Final = 52
LEVEL_OFFSET: Final = 53
PAYLOAD_SLOT: Final = 40

CELL_BYTES: Final = 64
"""A text as it is on the wire, count first, padded."""
CELL_FIRST: Final = 0
"""Per group: its first cell,"""
CELL_COUNT: Final = 1
"""and how many it has."""
CELL_END: Final = 2
"""Per cell: bytes of it that are used."""
ENTRY_BYTES_MAX: Final = BLOCK_BYTES + 2 * CELL_BYTES + PAYLOAD_BYTES_MAX + SLACK_BYTES


class Job(NamedTuple):
    """What to write: `entry_count` entries from `first_number` on, and how.

    `identify_limit` and `context_limit` are the shares of IDENTIFY and of IDENTIFY +
    CONTEXT, of 2**32. Times rise by `step_us`, the last is `time_ms`.
    """

    first_number: int
    entry_count: int
    events_per_message: int
    seed: np.uint64
    identify_limit: int
    context_limit: int
    is_log: bool
    is_frame: bool
    device_count: int
    time_ms: int
    step_us: int


class Templates(NamedTuple):
    """What is copied and filled in; see the constants above for the int64 tables."""

    blocks: NDArray[np.uint8]
    block_facts: NDArray[np.int64]
    cells: NDArray[np.uint8]
    cell_facts: NDArray[np.int64]
    levels: NDArray[np.uint8]
    starts: NDArray[np.int64]
    pieces: NDArray[np.int64]
    literals: NDArray[np.uint8]
    words: NDArray[np.uint8]
    word_lists: NDArray[np.int64]
    hex_digits: NDArray[np.uint8]
    pairs: NDArray[np.uint8]
    device_ids: NDArray[np.uint8]
    session_ids: NDArray[np.uint8]


class _Addresses(NamedTuple):
    """Where they are: references of arrays would be counted for every entry."""

    out: int
    blocks: int
    block_facts: int
    cells: int
    cell_facts: int
    levels: int
    starts: int
    pieces: int
    literals: int
    words: int
    word_lists: int
    hex_digits: int
    pairs: int
    device_ids: int
    session_ids: int


@njit(nogil=True, cache=True, forceinline=True)
def mixed(seed, value):  # type: ignore[no-untyped-def]
    """64 random bits for (seed, value): splitmix64, https://prng.di.unimi.it/splitmix64.c."""
    bits = np.uint64(seed) + np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@njit(nogil=True, cache=True, forceinline=True)
def below(bits, limit):  # type: ignore[no-untyped-def]
    """A number in [0, limit) from the upper 32 of 64 random bits; limit below 2**31."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@njit(nogil=True, cache=True, forceinline=True)
def _at(table: int, place: int) -> int:
    """Value `place` of the int64 table at an address."""
    return np.int64(load_u64(table, 8 * place))  # type: ignore[return-value]


@njit(nogil=True, cache=True, forceinline=True)
def _write_decimal(out: int, position: int, value: int, pairs: int) -> int:
    """The digits of `value` at `position`; returns the end. No leading zeros."""
    rest: Any = np.uint64(value)  # unsigned: division by a constant is a multiplication then
    hundred, ten = np.uint64(100), np.uint64(10)
    end = position + 1
    limit: Any = ten
    while rest >= limit and end - position < 19:
        end += 1
        limit *= ten
    place = end
    while rest >= hundred:
        place -= 2
        store_u16(out, place, load_u16(pairs, int(rest % hundred) << 1))
        rest //= hundred
    if rest >= ten:
        store_u16(out, place - 2, load_u16(pairs, int(rest) << 1))
    else:
        store_u8(out, place - 1, 48 + int(rest))
    return end


@njit(nogil=True, cache=True, forceinline=True)
def _write_payload(
    at: _Addresses, position: int, kind: int, number: int, device: int, bits: Any
) -> int:
    """One payload at `position`; returns its end. `bits` are the entry's random bits."""
    piece = _at(at.starts, kind)
    while True:
        copy_32(at.out, position, at.literals, PIECE_BYTES * piece)
        position += _at(at.pieces, 3 * piece)
        fill = _at(at.pieces, 3 * piece + 1)
        argument = _at(at.pieces, 3 * piece + 2)
        if fill == FILL_END:
            return position
        if fill == FILL_NOTHING:
            pass
        elif fill == FILL_NUMBER:
            position = _write_decimal(at.out, position, number, at.pairs)
        elif fill == FILL_DEVICE:
            position = _write_decimal(at.out, position, device, at.pairs)
        else:
            bits = bits * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            if fill == FILL_RANDOM:
                position = _write_decimal(at.out, position, below(bits, argument), at.pairs)
            elif fill == FILL_HEX:
                rest = bits
                for _ in range(8):
                    digits = load_u16(at.hex_digits, int(rest & np.uint64(255)) << 1)
                    store_u16(at.out, position, digits)
                    position += 2
                    rest >>= np.uint64(8)
            else:
                count = _at(at.word_lists, 3 * argument + 1)
                word = _at(at.word_lists, 3 * argument) + below(bits, count)
                copy_32(at.out, position, at.words, PIECE_BYTES * word)
                position += _at(at.word_lists, 3 * word + 2)
        piece += 1


@njit(nogil=True, cache=True)
def fill_ids(seed: Any, ids: NDArray[np.uint8]) -> None:
    """Fill `ids` (16 B each, back to back) with random (version 4) UUIDs."""
    for place in range(len(ids) // 16):
        low = mixed(seed, 2 * place)
        high = mixed(seed, 2 * place + 1)
        low = (low & np.uint64(0xFF0FFFFFFFFFFFFF)) | np.uint64(0x0040000000000000)
        high = (high & np.uint64(0xFFFFFFFFFFFFFF3F)) | np.uint64(0x0000000000000080)
        store_u64(ids, 16 * place, low)
        store_u64(ids, 16 * place + 8, high)


@njit(nogil=True, cache=True, forceinline=True)
def _write_text(at: _Addresses, end: int, group: int, slot: int, bits: Any) -> int:
    """One of the texts of `group` at `end`, its offset at `slot`; returns its end."""
    count = _at(at.cell_facts, 3 * group + CELL_COUNT)
    # A product of two: a few are common and most are rare, as in real streams.
    place = below(bits, count) * (1 + below(bits << np.uint64(12), count)) // count
    cell = _at(at.cell_facts, 3 * group + CELL_FIRST) + place
    store_u32(at.out, slot, end - slot)
    copy_32(at.out, end, at.cells, CELL_BYTES * cell)
    copy_32(at.out, end + 32, at.cells, CELL_BYTES * cell + 32)
    return end + _at(at.cell_facts, 3 * cell + CELL_END)


@njit(nogil=True, cache=True, forceinline=True)
def _write_entry(
    at: _Addresses, entry: int, kind: int, number: int, device: int, bits: Any, time_ms: int
) -> int:
    """One Event or LogEntry at `entry`, 4-byte root offset first; returns its end."""
    out = at.out
    block = at.block_facts + 8 * BLOCK_COLUMNS * kind
    for part in range(4):
        copy_32(out, entry + 32 * part, at.blocks, BLOCK_BYTES * kind + 32 * part)
    if _at(block, BLOCK_DEVICE) > 0:
        copy_16(out, entry + _at(block, BLOCK_DEVICE), at.device_ids, 16 * device)
    copy_16(out, entry + _at(block, BLOCK_SESSION), at.session_ids, 16 * device)
    store_u64(out, entry + TIME_OFFSET, time_ms)
    end = entry + _at(block, BLOCK_END)
    for text in range(_at(block, BLOCK_TEXTS)):
        slot = entry + _at(block, BLOCK_FIRST_SLOT) + 4 * text
        group = _at(block, BLOCK_FIRST_GROUP) + text
        end = _write_text(at, end, group, slot, bits << np.uint64(11 + text))
    store_u32(out, entry + PAYLOAD_SLOT, end - entry - PAYLOAD_SLOT)
    payload_end = _write_payload(at, end + 4, kind, number, device, bits)
    store_u32(out, end, payload_end - end - 4)
    store_u32(out, payload_end, 0)
    return (payload_end + 3) & -4


@njit(nogil=True, cache=True, forceinline=True)
def _write_data(at: _Addresses, data: int, count: int) -> int:
    """EventData or LogData: root, vtable of one slot, table; where its vector begins."""
    store_u32(at.out, data, 12)
    store_u32(at.out, data + 4, 6 | 8 << 16)
    store_u32(at.out, data + 8, 4)
    store_u32(at.out, data + 12, 8)
    store_u32(at.out, data + 16, 4)
    store_u32(at.out, data + 20, count)
    return data + 24


@njit(nogil=True, cache=True, forceinline=True)
def _kind_of(job: Job, bits: Any) -> int:
    if job.is_log:
        return KIND_LOG
    share = int(bits & np.uint64(0xFFFFFFFF))
    if share >= job.context_limit:
        return KIND_TRACK
    return KIND_IDENTIFY if share < job.identify_limit else KIND_CONTEXT


@njit(nogil=True, cache=True)
def write_messages(
    job: Job, head: Any, envelope: Any, templates: Templates, out: Any, offsets: Any
) -> tuple[int, int]:
    """The job's entries as records or, without their heads, as frames, into `out`.

    `head` is what stands before a record's size (24 B), `envelope` a message up to its
    data's count. Fills `offsets` (one more than messages) and returns (end of the last
    message, mask of KIND_* seen); the end is -1 if `out` was too small.
    """
    t = templates
    at = _Addresses(
        address_of(out), address_of(t.blocks), address_of(t.block_facts), address_of(t.cells),
        address_of(t.cell_facts), address_of(t.levels), address_of(t.starts),
        address_of(t.pieces), address_of(t.literals), address_of(t.words),
        address_of(t.word_lists), address_of(t.hex_digits), address_of(t.pairs),
        address_of(t.device_ids), address_of(t.session_ids),
    )  # fmt: skip
    position, kinds = 0, 0
    offsets[0] = 0
    head_bytes = 0 if job.is_frame else len(head)
    for first in range(0, job.entry_count, job.events_per_message):
        entry_count = min(job.events_per_message, job.entry_count - first)
        if position + 256 + 4 * entry_count > len(out):
            return -1, 0
        copy_bytes(out, position, head, 0, head_bytes)
        message = position + head_bytes + 4
        copy_bytes(out, message, envelope, 0, len(envelope))
        data = message + len(envelope) + 4
        slots = _write_data(at, data, entry_count)
        entry = slots + 4 * entry_count
        for row in range(first, first + entry_count):
            if entry + ENTRY_BYTES_MAX > len(out):
                return -1, 0
            bits = mixed(job.seed, job.first_number + row)
            kind = _kind_of(job, bits)
            kinds |= 1 << kind
            slot = slots + 4 * (row - first)
            store_u32(at.out, slot, entry + 24 - slot)
            level = load_u8(at.levels, below(bits << np.uint64(5), len(t.levels)))
            time_ms = job.time_ms - (job.entry_count - 1 - row) * job.step_us // 1000
            device = below(bits, job.device_count)
            end = _write_entry(at, entry, kind, job.first_number + row, device, bits, time_ms)
            if job.is_log:
                store_u8(at.out, entry + LEVEL_OFFSET, level)
            entry = end
        store_u32(at.out, data - 4, entry - data)
        store_u32_big(at.out, message - 4, entry - message)
        position = entry
        offsets[first // job.events_per_message + 1] = position
    return position, kinds


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    nothing, numbers = readonly(np.zeros(64, np.uint8)), readonly(np.zeros(8, np.int64))
    templates = Templates(
        nothing, numbers, nothing, numbers, nothing, numbers, numbers, nothing, nothing,
        numbers, nothing, nothing, nothing, nothing,
    )  # fmt: skip
    job = Job(0, 0, 1, np.uint64(1), 0, 0, False, False, 1, 0, 1)
    offsets = np.zeros(1, np.uint64)
    write_messages(job, nothing, nothing, templates, np.zeros(64, np.uint8), offsets)
    fill_ids(np.uint64(1), np.zeros(16, np.uint8))
    mixed(np.uint64(1), 1)
