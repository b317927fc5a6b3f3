"""A strict scanner of JSON text (RFC 8259): where the members of an object lie.

Every byte is checked: grammar, UTF-8, escapes and their surrogates, depth. A line feed is
no white space here, because it ends a line of NDJSON. Addresses and positions are those of
one text that has `SCAN_SLACK_BYTES` behind its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import load_u8, load_u64
from cdp_ray_sinks.batch.kernels.utf8 import sequence_at

SCAN_SLACK_BYTES = 32
JSON_DEPTH_MAX = 32
OBJECT_KEYS_MAX = 1024

SCAN_OK = 0
SCAN_SYNTAX = -1
SCAN_ENDS = -2
SCAN_NOT_OBJECT = -3
SCAN_TOO_DEEP = -4
SCAN_DUPLICATE = -5
SCAN_NOT_A_NUMBER = -6
SCAN_SURROGATE = -7
SCAN_UTF8 = -8
SCAN_CONTROL = -9
SCAN_ESCAPE = -10
SCAN_KEYS = -11
SCAN_TRAILING = -12
SCAN_NO_TYPE = -13
"""Why a line is refused."""

KIND_STRING, KIND_NUMBER, KIND_OBJECT, KIND_ARRAY, KIND_WORD = 0, 1, 2, 3, 4

MEMBER_KEY, MEMBER_KEY_END, MEMBER_KEY_ESCAPED = 0, 1, 2
MEMBER_VALUE, MEMBER_VALUE_END, MEMBER_KIND, MEMBER_VALUE_ESCAPED = 3, 4, 5, 6
MEMBER_NESTED, MEMBER_NESTED_END = 7, 8
MEMBER_COLUMNS = 9
"""A key is without its quotes, a string value with them. Nested: rows, see json_lines."""

_QUOTE, _BACKSLASH, _COLON, _COMMA = 0x22, 0x5C, 0x3A, 0x2C
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
_MINUS, _PLUS, _POINT, _ZERO, _NINE = 0x2D, 0x2B, 0x2E, 0x30, 0x39
_SPACE, _TAB, _RETURN, _LINE_FEED = 0x20, 0x09, 0x0D, 0x0A

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)
_MIXER = 0x9E3779B97F4A7C15
_MIX = np.uint64(_MIXER)


@njit(nogil=True, cache=True, forceinline=True)
def skip_space(text: int, position: int, end: int) -> int:
    """The next position that is no space, tab or carriage return."""
    while position < end:
        byte = load_u8(text, position)
        if byte not in (_SPACE, _TAB, _RETURN):
            break
        position += 1
    return position


@njit(nogil=True, cache=True)
def hex_at(text: int, position: int, count: int) -> int:
    """The value of `count` hex digits, -1 if they are not."""
    value = 0
    for place in range(position, position + count):
        byte = load_u8(text, place)
        if 0x30 <= byte <= 0x39:
            digit = byte - 0x30
        elif 0x61 <= (byte | 0x20) <= 0x66:
            digit = (byte | 0x20) - 0x57
        else:
            return -1
        value = 16 * value + digit
    return value


@njit(nogil=True, cache=True)
def _scan_escape(text: int, position: int, end: int) -> tuple[int, int]:
    """Behind the escape that begins with the backslash at `position`, or where it is wrong."""
    if position + 2 > end:
        return end, SCAN_ENDS
    byte = load_u8(text, position + 1)
    if byte != 0x75:
        is_known = byte in (0x22, 0x5C, 0x2F, 0x62, 0x66, 0x6E, 0x72, 0x74)
        return position + (2 if is_known else 0), SCAN_OK if is_known else SCAN_ESCAPE
    if position + 6 > end:
        return position, SCAN_ENDS
    unit = hex_at(text, position + 2, 4)
    if unit < 0:
        return position, SCAN_ESCAPE
    if not 0xD800 <= unit <= 0xDFFF:
        return position + 6, SCAN_OK
    if unit >= 0xDC00 or position + 12 > end:
        return position, SCAN_SURROGATE
    if load_u8(text, position + 6) != _BACKSLASH or load_u8(text, position + 7) != 0x75:
        return position, SCAN_SURROGATE
    if not 0xDC00 <= hex_at(text, position + 8, 4) <= 0xDFFF:
        return position, SCAN_SURROGATE
    return position + 12, SCAN_OK


@njit(nogil=True, cache=True)
def scan_string(text: int, position: int, end: int) -> tuple[int, int, bool]:
    """(position of the closing quote, SCAN_*, has escapes) of the string behind a quote."""
    is_escaped = False
    while position < end:
        while position + 8 <= end:
            word = load_u64(text, position)
            quotes, slashes = word ^ _QUOTES, word ^ _BACKSLASHES
            found = ((quotes - _ONES) & ~quotes) | ((slashes - _ONES) & ~slashes)
            if (found | (word - _SPACES) | word) & _HIGHS:
                break
            position += 8
        if position >= end:
            break
        byte = load_u8(text, position)
        if byte == _QUOTE:
            return position, SCAN_OK, is_escaped
        if byte == _BACKSLASH:
            is_escaped = True
            position, status = _scan_escape(text, position, end)
            if status != SCAN_OK:
                return position, status, True
        elif byte < 0x20:
            return position, SCAN_ENDS if byte == _LINE_FEED else SCAN_CONTROL, is_escaped
        elif byte < 0x80:
            position += 1
        else:
            step = sequence_at(text, position, end)
            if step < 0:
                return position, SCAN_UTF8, is_escaped
            position += step
    return end, SCAN_ENDS, is_escaped


@njit(nogil=True, cache=True)
def _skip_digits(text: int, position: int, end: int) -> int:
    while position < end and _ZERO <= load_u8(text, position) <= _NINE:
        position += 1
    return position


@njit(nogil=True, cache=True)
def _scan_number(text: int, position: int, end: int) -> tuple[int, int]:
    if load_u8(text, position) == _MINUS:
        position += 1
    first = position
    position = _skip_digits(text, position, end)
    if position == first:
        is_infinity = position < end and load_u8(text, position) == 0x49
        return position, SCAN_NOT_A_NUMBER if is_infinity else SCAN_SYNTAX
    if position > first + 1 and load_u8(text, first) == _ZERO:
        return first, SCAN_SYNTAX
    if position < end and load_u8(text, position) == _POINT:
        first = position + 1
        position = _skip_digits(text, first, end)
        if position == first:
            return position, SCAN_SYNTAX
    if position < end and (load_u8(text, position) | 0x20) == 0x65:
        first = position + 1
        if first < end and load_u8(text, first) in (_MINUS, _PLUS):
            first += 1
        position = _skip_digits(text, first, end)
        if position == first:
            return position, SCAN_SYNTAX
    return position, SCAN_OK


@njit(nogil=True, cache=True)
def hash_of(text: int, position: int, count: int) -> Any:
    """64 bits of `count` bytes: those of up to 7 bytes are all different."""
    if count < 8:
        word = load_u64(text, position) & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
        return word | (np.uint64(count) << np.uint64(56))
    mixed = np.uint64(count)
    place = position
    last = position + count - 8
    while place < last:
        mixed = (mixed ^ load_u64(text, place)) * _MIX
        mixed ^= mixed >> np.uint64(32)
        place += 8
    mixed = (mixed ^ load_u64(text, last)) * _MIX
    return mixed ^ (mixed >> np.uint64(32)) | np.uint64(1 << 63)


def name_hash(name: bytes) -> Any:
    """What `hash_of` makes of a name, in Python, for comparison."""
    count, mask = len(name), 2**64 - 1
    if count < 8:
        return np.uint64(int.from_bytes(name, "little") | (count << 56))
    mixed = count
    for place in [*range(0, count - 8, 8), count - 8]:
        word = int.from_bytes(name[place : place + 8], "little")
        mixed = (mixed ^ word) * _MIXER & mask
        mixed ^= mixed >> 32
    return np.uint64(mixed | 1 << 63)


_TRUE, _FALS, _NULL = name_hash(b"true"), name_hash(b"fals"), name_hash(b"null")
_NAN, _INFI = name_hash(b"NaN"), name_hash(b"Infi")


@njit(nogil=True, cache=True)
def _scan_word(text: int, position: int, end: int) -> tuple[int, int]:
    """true, false or null; NaN and Infinity are told apart from other nonsense."""
    four = hash_of(text, position, min(4, end - position))
    if four in (_TRUE, _NULL):
        return position + 4, SCAN_OK
    if four == _FALS and position + 5 <= end and load_u8(text, position + 4) == 0x65:
        return position + 5, SCAN_OK
    is_nan = end - position >= 3 and hash_of(text, position, 3) == _NAN
    return position, SCAN_NOT_A_NUMBER if is_nan or four == _INFI else SCAN_SYNTAX


@njit(nogil=True, cache=True)
def _scan_key(text: int, position: int, end: int) -> tuple[int, int]:
    """Behind the colon of the member that should begin at `position`."""
    position = skip_space(text, position, end)
    if position >= end or load_u8(text, position) != _QUOTE:
        return position, _unexpected(text, position, end)
    position, status, _ = scan_string(text, position + 1, end)
    if status != SCAN_OK:
        return position, status
    position = skip_space(text, position + 1, end)
    if position >= end or load_u8(text, position) != _COLON:
        return position, _unexpected(text, position, end)
    return position + 1, SCAN_OK


@njit(nogil=True, cache=True)
def _unexpected(text: int, position: int, end: int) -> int:
    """What the byte at `position` is when none like it may stand there."""
    if position >= end or load_u8(text, position) == _LINE_FEED:
        return SCAN_ENDS
    if load_u8(text, position) >= 0x80 and sequence_at(text, position, end) < 0:
        return SCAN_UTF8
    return SCAN_SYNTAX


@njit(nogil=True, cache=True)
def _scan_scalar(text: int, position: int, end: int) -> tuple[int, int]:
    byte = load_u8(text, position)
    if byte == _QUOTE:
        position, status, _ = scan_string(text, position + 1, end)
        return position + (1 if status == SCAN_OK else 0), status
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return _scan_number(text, position, end)
    position, status = _scan_word(text, position, end)
    if status == SCAN_SYNTAX:
        status = _unexpected(text, position, end)
    return position, status


@njit(nogil=True, cache=True)
def scan_value(text: int, position: int, end: int, depth_max: int) -> tuple[int, int]:
    """(behind the value that begins at `position`, SCAN_*), or where it is wrong.

    `depth_max` is how many objects and arrays may lie in one another in it.
    """
    depth, is_object = 0, 0  # bit d of is_object: the container at depth d + 1 is one
    while True:
        position = skip_space(text, position, end)
        if position >= end:
            return end, SCAN_ENDS
        byte = load_u8(text, position)
        is_done = True
        if byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            if depth == depth_max:
                return position, SCAN_TOO_DEEP
            opens_object = byte == _OPEN_OBJECT
            is_object = (is_object & ~(1 << depth)) | (int(opens_object) << depth)
            depth += 1
            position = skip_space(text, position + 1, end)
            closing = _CLOSE_OBJECT if opens_object else _CLOSE_ARRAY
            is_done = position < end and load_u8(text, position) == closing
            if is_done:
                position += 1
                depth -= 1
            elif opens_object:
                position, status = _scan_key(text, position, end)
                if status != SCAN_OK:
                    return position, status
        else:
            position, status = _scan_scalar(text, position, end)
            if status != SCAN_OK:
                return position, status
        while is_done:
            if depth == 0:
                return position, SCAN_OK
            position = skip_space(text, position, end)
            in_object = (is_object >> (depth - 1)) & 1 == 1
            byte = load_u8(text, position) if position < end else _LINE_FEED
            if byte == _COMMA:
                position += 1
                if in_object:
                    position, status = _scan_key(text, position, end)
                    if status != SCAN_OK:
                        return position, status
                is_done = False
            elif byte == (_CLOSE_OBJECT if in_object else _CLOSE_ARRAY):
                position += 1
                depth -= 1
            else:
                return position, _unexpected(text, position, end)


@njit(nogil=True, cache=True, forceinline=True)
def kind_at(text: int, position: int) -> int:
    """What kind of value begins at `position`, by its first byte."""
    byte = load_u8(text, position)
    if byte == _QUOTE:
        return KIND_STRING
    if byte == _OPEN_OBJECT:
        return KIND_OBJECT
    if byte == _OPEN_ARRAY:
        return KIND_ARRAY
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return KIND_NUMBER
    return KIND_WORD
