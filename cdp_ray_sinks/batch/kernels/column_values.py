"""Decoded columns made ready for a columnar file: dictionaries, texts of ids, rows moved.

Offsets are int32, one more than rows, the first of them 0; text i is
text[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    copy_16,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    prefetch_read,
    store_u32,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX, PROBES_MAX, SLOTS, name_index
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES, copy_text
from cdp_ray_sinks.batch.kernels.text_fields import put_ip
from cdp_ray_sinks.batch.kernels.utf8 import sequence_at
from cdp_ray_sinks.batch.kernels.vectors import store_id_text

ADDRESSES_MAX: Final = NAMES_MAX
ADDRESS_TEXT_BYTES: Final = 40
"""One more than the longest address has."""
ID_TEXT_BYTES: Final = 36
TOO_MANY: Final = -1

_AHEAD: Final = 16
_TESTED_BYTES: Final = 8192
_SHIFT: Final = np.uint64(64 - 12)
_HEAD: Final = np.uint64(0x9E3779B97F4A7C15)
_END: Final = np.uint64(0xC2B2AE3D27D4EB4F)


@njit(nogil=True, cache=True, forceinline=True)
def _is_known(known: int, number: int, head: int, end: int) -> bool:
    at = ID_BYTES * number
    return load_i64(known, at) == head and load_i64(known, at + 8) == end


@njit(nogil=True, cache=True)
def _slot_of(known: int, table: int, head: int, end: int) -> int:
    """The slot that an address has or gets; -1 after so many steps in vain."""
    slot: Any = np.int64((np.uint64(head) * _HEAD + np.uint64(end) * _END) >> _SHIFT)
    for _ in range(PROBES_MAX):
        number = load_u32(table, 4 * slot) - 1
        if number < 0 or _is_known(known, number, head, end):
            return int(slot)
        slot = (slot + 1) & (SLOTS - 1)
    return -1


@njit(nogil=True, cache=True)
def number_addresses(addresses: Any, rows: int, numbers: Any, found: Any, slots: Any) -> int:
    """A dictionary of `rows` values of 16 bytes: how many there are, or TOO_MANY.

    Gives each row its number in `numbers` (int32[rows]) and puts the values in `found`
    (uint64[2 * ADDRESSES_MAX]); `slots` is int32[SLOTS], zeroed.
    """
    source, known, table = address_of(addresses), address_of(found), address_of(slots)
    count, last = 0, -1
    for row in range(rows):
        head, end = load_i64(source, ID_BYTES * row), load_i64(source, ID_BYTES * row + 8)
        if last < 0 or not _is_known(known, last, head, end):
            slot = _slot_of(known, table, head, end)
            if slot < 0:
                return TOO_MANY
            last = load_u32(table, 4 * slot) - 1
            if last < 0:
                if count == ADDRESSES_MAX:
                    return TOO_MANY
                store_u64(known, ID_BYTES * count, head)
                store_u64(known, ID_BYTES * count + 8, end)
                last = count
                count += 1
                store_u32(table, 4 * slot, count)
        numbers[row] = last
    return count


@njit(nogil=True, cache=True)
def put_addresses(addresses: Any, count: int, offsets: Any, text: Any) -> None:
    """The texts of `count` values of 16 bytes; `text` needs ADDRESS_TEXT_BYTES for each."""
    source, out = address_of(addresses), address_of(text)
    at = 0
    for place in range(count):
        offsets[place] = at
        at = put_ip(out, at, source, ID_BYTES * place)
    offsets[count] = at


@njit(nogil=True, cache=True)
def put_ids(ids: Any, rows: int, offsets: Any, text: Any) -> None:
    """The texts of 16-byte ids, null or not; `text` needs ID_TEXT_BYTES for each, and slack."""
    source, out = address_of(ids), address_of(text)
    for row in range(rows):
        offsets[row] = ID_TEXT_BYTES * row
        store_id_text(out, ID_TEXT_BYTES * row, source, ID_BYTES * row)
    offsets[rows] = ID_TEXT_BYTES * rows


@njit(nogil=True, cache=True)
def number_words(offsets: Any, text: Any, valid: Any, rows: int, table: Any, numbers: Any) -> int:
    """A dictionary of texts in `table`, a NameTable that is empty: their count, or TOO_MANY.

    `valid` is an Arrow bitmap or empty; rows that are null get a number without meaning.
    """
    slots, keys, starts, kept = table
    buffer, limit, has_nulls = address_of(text), len(text) - 8, len(valid) > 0
    slots_at, keys_at, starts_at = address_of(slots), address_of(keys), address_of(starts)
    kept_at, kept_end = address_of(kept), len(kept)
    count = 0
    for row in range(rows):
        numbers[row] = 0
        if has_nulls and (valid[row >> 3] >> (row & 7)) & 1 == 0:
            continue
        start: Any = np.int64(offsets[row])
        length = offsets[row + 1] - start
        found = name_index(
            buffer, start, length, limit, slots_at, keys_at, starts_at, kept_at, kept_end, count
        )
        if found < 0:
            return TOO_MANY
        count = max(count, found + 1)
        numbers[row] = found
    return count


@njit(nogil=True, cache=True)
def mark_ill_formed(offsets: Any, text: Any, rows: int, marks: Any) -> None:
    """Set marks[row] (bool) of each text that is not UTF-8."""
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        marks[row] = False
        while position < end:
            step = sequence_at(text, position, end)
            if step < 0:
                marks[row] = True
                break
            position += step


@njit(nogil=True, cache=True)
def gather_numbers(values: Any, order: Any, out: Any) -> None:
    """Put number order[i] in place i."""
    for row in range(len(order)):
        out[row] = values[order[row]]


@njit(nogil=True, cache=True)
def gather_ids(ids: Any, order: Any, out: Any) -> None:
    """Put the 16 bytes of order[i] in place i."""
    source, target, taken = address_of(ids), address_of(out), address_of(order)
    for row in range(len(order)):
        copy_16(target, ID_BYTES * row, source, ID_BYTES * load_u32(taken, 4 * row))


@njit(nogil=True, cache=True)
def gather_texts(offsets: Any, text: Any, order: Any, starts: Any, out: Any) -> bool:
    """Put text order[i] in place i; True if all of them are ASCII.

    `starts` are the offsets of `out`, which has SLACK_BYTES behind the texts.
    """
    bounds, source, target, taken = (
        address_of(offsets), address_of(text), address_of(out), address_of(order)
    )  # fmt: skip
    rows, limit, used, tested = len(order), len(text) - SLACK_BYTES, 0, 0
    high = np.uint64(0)
    starts[0] = 0
    for row in range(rows):
        if row + _AHEAD < rows:
            ahead = load_u32(bounds, 4 * load_u32(taken, 4 * (row + _AHEAD)))
            prefetch_read(source, ahead)
            prefetch_read(source, ahead + 64)
        place = load_u32(taken, 4 * row)
        start = load_u32(bounds, 4 * place)
        count = load_u32(bounds, 4 * place + 4) - start
        copy_text(target, used, source, start, count, limit)
        used += count
        starts[row + 1] = used
        if used - tested > _TESTED_BYTES:  # while they are in the nearest cache
            for word in range(tested >> 3, used >> 3):
                high |= load_u64(target, word << 3)
            tested = used & ~7
    for word in range(tested >> 3, used >> 3):
        high |= load_u64(target, word << 3)
    for position in range(used & ~7, used):
        high |= np.uint64(load_u8(target, position))
    return bool((high & np.uint64(0x8080808080808080)) == 0)


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    numbers, starts = np.zeros(1, np.int32), np.zeros(2, np.int32)
    slots, text = np.zeros(SLOTS, np.int32), np.zeros(64 + SLACK_BYTES, np.uint8)
    ids, bounds = readonly(np.zeros(ID_BYTES, np.uint8)), readonly(np.array([0, 1], np.int32))
    word = readonly(np.full(9, 65, np.uint8))
    found = np.zeros(2 * ADDRESSES_MAX, np.uint64)
    number_addresses(ids, 1, numbers, found, slots)
    put_addresses(readonly(found.view(np.uint8)), 1, starts, text)
    put_ids(ids, 1, starts, text)
    table = (np.zeros(SLOTS, np.int32), found, np.zeros(NAMES_MAX + 1, np.int32), text)
    number_words(bounds, word, readonly(np.zeros(0, np.uint8)), 1, table, numbers)
    mark_ill_formed(bounds, word, 1, np.zeros(1, np.bool_))
    order = np.zeros(1, np.uint32)
    gather_texts(bounds, word, order, starts, text)
    gather_ids(ids, order, text)
    for kind, wanted in ((np.uint8, np.int32), (np.int32, np.int32), (np.int64, np.int64)):
        gather_numbers(readonly(np.zeros(1, kind)), order, np.zeros(1, wanted))
