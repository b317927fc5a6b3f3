"""UTF-8: is it valid, and what to put where it is not.

Replacement is one U+FFFD per maximal subpart of an ill-formed sequence, as in the Unicode
standard (chapter 3, "U+FFFD substitution of maximal subparts") and Python's "replace".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import copy_bytes, load_u8, load_u64, store_u8


@njit(nogil=True, cache=True)
def sequence_at(text: Any, position: int, end: int) -> int:
    """Bytes of the character at `position`; if ill-formed, minus those of its subpart."""
    lead = load_u8(text, position)
    if lead < 0x80:
        return 1
    low, high = 0x80, 0xBF
    if 0xC2 <= lead <= 0xDF:
        more = 1
    elif 0xE0 <= lead <= 0xEF:
        more = 2
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
    elif 0xF0 <= lead <= 0xF4:
        more = 3
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    else:
        return -1
    for step in range(1, more + 1):
        if position + step >= end or not low <= load_u8(text, position + step) <= high:
            return -step
        low, high = 0x80, 0xBF
    return more + 1


@njit(nogil=True, cache=True)
def is_text(text: Any, start: int, end: int) -> bool:
    """True if text[start:end] is valid UTF-8 without control characters."""
    position = start
    while position < end:
        if load_u8(text, position) < 0x20 or load_u8(text, position) == 0x7F:
            return False
        step = sequence_at(text, position, end)
        if step < 0:
            return False
        position += step
    return True


@njit(nogil=True, cache=True)
def is_ascii(text: Any, count: int) -> bool:
    """True if no byte of text[:count] has its high bit set."""
    words = count >> 3
    found = np.uint64(0)
    for word in range(words):
        found |= load_u64(text, word << 3)
    rest = np.uint8(0)
    for position in range(words << 3, count):
        rest |= np.uint8(load_u8(text, position))
    return bool((found & np.uint64(0x8080808080808080)) == 0 and rest < 0x80)


@njit(nogil=True, cache=True)
def repaired_bytes(text: Any, offsets: Any, rows: int) -> int:
    """Bytes of all strings after repair; -1 if none needs any.

    String i is text[offsets[i]:offsets[i + 1]].
    """
    total = 0
    damaged = False
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        total += end - position
        while position < end:
            step = sequence_at(text, position, end)
            if step < 0:
                damaged = True
                total += 3 + step
                step = -step
            position += step
    return total if damaged else -1


@njit(nogil=True, cache=True)
def repair(text: Any, offsets: Any, rows: int, out: Any, out_offsets: Any) -> None:
    """Copy all strings to `out` with U+FFFD for what is ill-formed.

    `out` must have `repaired_bytes` bytes, `out_offsets` rows + 1 values.
    """
    filled = 0
    out_offsets[0] = 0
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            step = sequence_at(text, position, end)
            if step > 0:
                copy_bytes(out, filled, text, position, step)
                filled += step
                position += step
            else:
                store_u8(out, filled, 0xEF)
                store_u8(out, filled + 1, 0xBF)
                store_u8(out, filled + 2, 0xBD)
                filled += 3
                position -= step
        out_offsets[row + 1] = filled
