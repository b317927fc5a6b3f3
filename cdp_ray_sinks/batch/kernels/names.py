"""A dictionary of short strings built inside a kernel: open addressing, bounded.

A name is known by its length, first and last 8 bytes; up to 16 bytes that is all of it,
and longer ones are compared whole. A hostile client can make names that collide, so a
search gives up after a few steps and the caller falls back to plain strings.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import (
    copy_bytes,
    load_u8,
    load_u32,
    load_u64,
    store_u32,
    store_u64,
)

NAMES_MAX: Final = 1024
SLOTS: Final = 4096
PROBES_MAX: Final = 32

NAMES_FULL: Final = -1
"""Too many names, or too many that collide."""
NAME_BYTES_FULL: Final = -2
"""No room left in the caller's buffer of name bytes."""

_SHIFT: Final = np.uint64(64 - 12)
_FIRST: Final = np.uint64(0x9E3779B97F4A7C15)
_LAST: Final = np.uint64(0xC2B2AE3D27D4EB4F)


@njit(nogil=True, cache=True, forceinline=True)
def _short_word(buffer: Any, position: int, count: int, limit: int) -> Any:
    """The `count` < 8 bytes at `position` as a number, read one by one behind `limit`."""
    if position <= limit:
        return load_u64(buffer, position) & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
    word = np.uint64(0)
    for step in range(count):
        word |= np.uint64(load_u8(buffer, position + step)) << np.uint64(8 * step)
    return word


@njit(nogil=True, cache=True)
def _is_same(buffer: int, position: int, count: int, kept: int, start: int) -> bool:
    """Compare the middle of two names of `count` > 16 bytes whose ends are equal."""
    step = 8
    while step < count - 8:
        here = min(step, count - 16)
        if load_u64(buffer, position + here) != load_u64(kept, start + here):
            return False
        step += 8
    return True


@njit(nogil=True, cache=True, forceinline=True)
def _ends(buffer: int, position: int, count: int, limit: int) -> tuple[Any, Any]:
    if count >= 8:
        return load_u64(buffer, position), load_u64(buffer, position + count - 8)
    return _short_word(buffer, position, count, limit), np.uint64(count)


@njit(nogil=True, cache=True, forceinline=True)
def _first_slot(first: Any, last: Any) -> Any:
    return np.int64((first * _FIRST + last * _LAST) >> _SHIFT)


@njit(nogil=True, cache=True)
def known_name(
    buffer: int,
    position: int,
    count: int,
    limit: int,
    slots: int,
    keys: int,
    offsets: int,
    kept: int,
) -> int:
    """As `name_index`, but -1 for a name that is not there."""
    first, last = _ends(buffer, position, count, limit)
    slot: Any = _first_slot(first, last)
    for _ in range(PROBES_MAX):
        found = load_u32(slots, 4 * slot)
        if found == 0:
            break
        key = 16 * (found - 1)
        if load_u64(keys, key) == first and load_u64(keys, key + 8) == last:
            start = load_u32(offsets, 4 * (found - 1))
            if load_u32(offsets, 4 * found) - start == count and (
                count <= 16 or _is_same(buffer, position, count, kept, start)
            ):
                return found - 1
        slot = (slot + 1) & (SLOTS - 1)
    return -1


@njit(nogil=True, cache=True, forceinline=True)
def usual_name(buffer: int, position: int, count: int, slots: int, keys: int, offsets: int) -> int:
    """As `known_name`, but -1 also for one not of 8 to 16 bytes or not in its first slot."""
    if count < 8 or count > 16:
        return -1
    first, last = load_u64(buffer, position), load_u64(buffer, position + count - 8)
    found = load_u32(slots, 4 * _first_slot(first, last)) - 1
    if found < 0 or load_u64(keys, 16 * found) != first or load_u64(keys, 16 * found + 8) != last:
        return -1
    if load_u32(offsets, 4 * found + 4) - load_u32(offsets, 4 * found) != count:
        return -1
    return found


@njit(nogil=True, cache=True, forceinline=True)
def name_index(
    buffer: int,
    position: int,
    count: int,
    limit: int,
    slots: int,
    keys: int,
    offsets: int,
    kept: int,
    kept_end: int,
    names: int,
) -> int:
    """Number of the name buffer[position:position + count], or a negative reason.

    All buffers are addresses; up to position `limit` 8 bytes can be read. `slots`
    int32[SLOTS], zero at first, holds number + 1; `keys` is uint64[2 * NAMES_MAX]; the
    names are kept[offsets[i]:offsets[i + 1]] (int32), with offsets[0] == 0 and room for
    `kept_end` bytes. A result equal to `names` was added: the caller counts it.
    """
    first, last = _ends(buffer, position, count, limit)
    slot: Any = _first_slot(first, last)
    found = 0
    for _ in range(PROBES_MAX):
        found = load_u32(slots, 4 * slot)
        if found == 0:
            break
        key = 16 * (found - 1)
        if load_u64(keys, key) == first and load_u64(keys, key + 8) == last:
            start = load_u32(offsets, 4 * (found - 1))
            if load_u32(offsets, 4 * found) - start == count and (
                count <= 16 or _is_same(buffer, position, count, kept, start)
            ):
                return found - 1
        slot = (slot + 1) & (SLOTS - 1)
    if found != 0 or names >= NAMES_MAX:
        return NAMES_FULL
    start = load_u32(offsets, 4 * names)
    if start + count > kept_end:
        return NAME_BYTES_FULL
    copy_bytes(kept, start, buffer, position, count)
    store_u32(offsets, 4 * names + 4, start + count)
    store_u64(keys, 16 * names, first)
    store_u64(keys, 16 * names + 8, last)
    store_u32(slots, 4 * slot, names + 1)
    return names
