"""Client bytes as text on one line, so that they can be told from each other again.

A value that is UTF-8 is written as it is, but for: `\\n`, `\\r`, `\\t`, `\\\\`; `\\xNN` for the
other control characters (U+0000 to U+001F, U+007F to U+009F); `\\uNNNN` for line ends and
bidirectional controls (U+2028 to U+202E, U+2066 to U+2069). In a value that another field
follows, `=` is `\\x3d`, so that ` key=` is never part of a value. A value that is not UTF-8 is
`0x` and the hex of its first 256 bytes, with `...(+N bytes)` for the rest. An absent one is
`-`; to tell these apart, a text that begins with `0x` begins with `\\x30x`, and the text `-`
is `\\x2d`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import (
    load_u8,
    load_u16,
    load_u64,
    store_u8,
    store_u16,
    store_u32,
)
from cdp_ray_sinks.batch.kernels.utf8 import sequence_at
from cdp_ray_sinks.batch.kernels.vectors import copy_marked_32, trailing_zeros

HEX_BYTES_MAX: Final = 256
VECTOR_BYTES: Final = 32
ESCAPE_FACTOR: Final = 4
"""A byte of a value becomes at most so many."""
VALUE_SLACK_BYTES: Final = 64
"""Room that a step of `escape_text` needs."""
HEX_ROOM_BYTES: Final = 2 * HEX_BYTES_MAX + 64

IN_FIELD: Final[Any] = np.int64(0x3D)
AT_END: Final[Any] = np.int64(0x5C)
"""Whether another field follows a value: the character that is special besides."""

_NO_END: Final[Any] = np.int64(1 << 62)
_BACKSLASH: Final = 0x5C
_DASH: Final = 0x2D
_HIGH_BITS: Final = np.uint64(0x8080808080808080)


@njit(nogil=True, cache=True)
def put_digit(out: int, at: int, nibble: int) -> None:
    """Write one hexadecimal digit."""
    store_u8(out, at, nibble + (87 if nibble > 9 else 48))


@njit(nogil=True, cache=True)
def put_byte(out: int, at: int, byte: int) -> int:
    """Write `\\xNN`; returns where it ends."""
    store_u16(out, at, 0x785C)
    put_digit(out, at + 2, byte >> 4)
    put_digit(out, at + 3, byte & 15)
    return at + 4


@njit(nogil=True, cache=True)
def _put_code(out: int, at: int, low: int) -> int:
    """Write `\\u20NN`; returns where it ends."""
    store_u32(out, at, 0x3032755C)
    put_digit(out, at + 4, low >> 4)
    put_digit(out, at + 5, low & 15)
    return at + 6


@njit(nogil=True, cache=True)
def _put_special(
    out: int, at: int, buffer: int, position: int, end: int, special: int
) -> tuple[int, int]:
    """Write the character at `position` that can't be copied unseen.

    Returns where it ends in `out` and how many bytes it was, below zero if it is no UTF-8.
    """
    byte = load_u8(buffer, position)
    if byte == _BACKSLASH:
        store_u16(out, at, 0x5C5C)
        return at + 2, 1
    if byte == 0x0A or byte == 0x0D or byte == 0x09:
        letter = 0x6E if byte == 0x0A else 0x72 if byte == 0x0D else 0x74
        store_u16(out, at, _BACKSLASH | letter << 8)
        return at + 2, 1
    if byte < 0x20 or byte == 0x7F or byte == special:
        return put_byte(out, at, byte), 1
    step = sequence_at(buffer, position, end)
    if step == 2:
        second = load_u8(buffer, position + 1)
        if byte == 0xC2 and second < 0xA0:
            return put_byte(out, at, second), 2
    elif step == 3 and byte == 0xE2:
        second, third = load_u8(buffer, position + 1), load_u8(buffer, position + 2)
        if second == 0x80 and 0xA8 <= third <= 0xAE:
            return _put_code(out, at, third - 0x80), 3
        if second == 0x81 and 0xA6 <= third <= 0xA9:
            return _put_code(out, at, third - 0x40), 3
    for place in range(step):
        store_u8(out, at + place, load_u8(buffer, position + place))
    return at + step, step


@njit(nogil=True, cache=True)
def escape_text(
    out: int,
    at: int,
    at_max: int,
    buffer: int,
    position: int,
    end: int,
    limit: int,
    special: int,
) -> tuple[int, int, bool]:
    """Write buffer[position:end], escaped, to out[at:].

    Stops before a step that begins behind `at_max`, from where VALUE_SLACK_BYTES can be
    written, and before what is not UTF-8. `limit` is the last position from which a whole
    vector can be read. Returns where both ended, and False for what is not UTF-8.
    """
    while position < end and at <= at_max:
        if position <= limit:
            marked = copy_marked_32(out, at, buffer, position, special)
            left = end - position
            if left < VECTOR_BYTES:
                marked &= (1 << left) - 1
            if marked == 0:
                step = min(left, VECTOR_BYTES)
                at += step
                position += step
                continue
            clean = trailing_zeros(marked)
            at += clean
            position += clean
        else:
            byte = load_u8(buffer, position)
            if 0x20 <= byte < 0x7F and byte != _BACKSLASH and byte != special:
                store_u8(out, at, byte)
                at += 1
                position += 1
                continue
        at, step = _put_special(out, at, buffer, position, end, special)
        if step < 0:
            return at, position, False
        position += step
    return at, position, True


@njit(nogil=True, cache=True)
def put_beginning(out: int, at: int, buffer: int, position: int, end: int) -> int:
    """Write the first character if the text could be taken for an absent value or for hex.

    Returns where it ends: 4 behind `at`, and the value goes on one byte later, or `at`.
    """
    if end - position == 1:
        if load_u8(buffer, position) == _DASH:
            return put_byte(out, at, _DASH)
    elif end - position > 1 and load_u16(buffer, position) == 0x7830:
        return put_byte(out, at, 0x30)
    return at


@njit(nogil=True, cache=True)
def put_count(out: int, at: int, count: int) -> int:
    """Write a number that is not negative, decimal; returns where it ends."""
    digits, bound = 1, 10
    while digits < 19 and count >= bound:
        digits += 1
        bound *= 10
    for place in range(at + digits - 1, at - 1, -1):
        rest = count // 10
        store_u8(out, place, 48 + count - 10 * rest)
        count = rest
    return at + digits


@njit(nogil=True, cache=True)
def put_hex(out: int, at: int, buffer: int, position: int, end: int) -> int:
    """Write bytes that are no text; returns where they end. Needs HEX_ROOM_BYTES."""
    store_u16(out, at, 0x7830)
    at += 2
    shown_end = min(end, position + HEX_BYTES_MAX)
    for place in range(position, shown_end):
        byte = load_u8(buffer, place)
        put_digit(out, at, byte >> 4)
        put_digit(out, at + 1, byte & 15)
        at += 2
    if shown_end < end:  # ...(+N bytes)
        store_u32(out, at, 0x282E2E2E)
        store_u8(out, at + 4, 0x2B)
        at = put_count(out, at + 5, end - shown_end)
        store_u32(out, at, 0x74796220)
        store_u32(out, at + 4, 0x00297365)
        at += 7
    return at


@njit(nogil=True, cache=True)
def is_utf8(buffer: int, position: int, end: int) -> bool:
    """True if buffer[position:end] is valid UTF-8."""
    while position < end:
        if position + 8 <= end and (load_u64(buffer, position) & _HIGH_BITS) == 0:
            position += 8
            continue
        step = sequence_at(buffer, position, end)
        if step < 0:
            return False
        position += step
    return True


@njit(nogil=True, cache=True, forceinline=True)
def put_bytes(
    out: int, at: int, buffer: int, position: int, end: int, limit: int, special: int
) -> int:
    """Write a value; returns where it ends.

    Needs ESCAPE_FACTOR times its bytes, HEX_ROOM_BYTES and VALUE_SLACK_BYTES of room.
    """
    begun = put_beginning(out, at, buffer, position, end)
    first = position + (begun > at)
    reached, _, is_text = escape_text(out, begun, _NO_END, buffer, first, end, limit, special)
    if is_text:
        return reached
    return put_hex(out, at, buffer, position, end)


@njit(nogil=True, cache=True, forceinline=True)
def put_value(
    out: int, at: int, buffer: int, vector: int, count: int, limit: int, special: int
) -> int:
    """Write the `count` bytes of the vector whose count is at `vector`; see `put_bytes`."""
    if vector < 0:
        store_u8(out, at, _DASH)
        return at + 1
    return put_bytes(out, at, buffer, vector + 4, vector + 4 + count, limit, special)
