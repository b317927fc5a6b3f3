"""The members of one JSON object as a table, each key with a hash to find it by."""

from __future__ import annotations

from typing import Any

from numba import njit

from cdp_ray_sinks.batch.kernels.json_scan import (
    KIND_STRING,
    MEMBER_KEY,
    MEMBER_KEY_END,
    MEMBER_KEY_ESCAPED,
    MEMBER_KIND,
    MEMBER_VALUE,
    MEMBER_VALUE_END,
    MEMBER_VALUE_ESCAPED,
    OBJECT_KEYS_MAX,
    SCAN_DUPLICATE,
    SCAN_ENDS,
    SCAN_KEYS,
    SCAN_NOT_OBJECT,
    SCAN_OK,
    SCAN_SYNTAX,
    hash_of,
    hex_at,
    kind_at,
    scan_string,
    scan_value,
    skip_space,
)
from cdp_ray_sinks.batch.kernels.memory import copy_bytes, load_u8, store_u8

_QUOTE, _BACKSLASH, _COLON, _COMMA = 0x22, 0x5C, 0x3A, 0x2C
_OPEN_OBJECT, _CLOSE_OBJECT, _LINE_FEED = 0x7B, 0x7D, 0x0A


@njit(nogil=True, cache=True)
def _put_character(out: int, to: int, code: int) -> int:
    """Write a code point as UTF-8; where it ends."""
    if code < 0x80:
        store_u8(out, to, code)
        return to + 1
    if code < 0x800:
        store_u8(out, to, 0xC0 | (code >> 6))
        store_u8(out, to + 1, 0x80 | (code & 0x3F))
        return to + 2
    if code < 0x10000:
        store_u8(out, to, 0xE0 | (code >> 12))
        store_u8(out, to + 1, 0x80 | ((code >> 6) & 0x3F))
        store_u8(out, to + 2, 0x80 | (code & 0x3F))
        return to + 3
    store_u8(out, to, 0xF0 | (code >> 18))
    store_u8(out, to + 1, 0x80 | ((code >> 12) & 0x3F))
    store_u8(out, to + 2, 0x80 | ((code >> 6) & 0x3F))
    store_u8(out, to + 3, 0x80 | (code & 0x3F))
    return to + 4


@njit(nogil=True, cache=True)
def unescape(text: int, start: int, end: int, out: int, to: int) -> int:
    """Write the characters of a scanned string (without quotes); where they end.

    Never more bytes than the string has. `out` is an address.
    """
    position = start
    while position < end:
        byte = load_u8(text, position)
        if byte != _BACKSLASH:
            store_u8(out, to, byte)
            to += 1
            position += 1
            continue
        byte = load_u8(text, position + 1)
        position += 2
        if byte == 0x75:
            code = hex_at(text, position, 4)
            position += 4
            if 0xD800 <= code <= 0xDBFF:
                code = 0x10000 + ((code - 0xD800) << 10) + hex_at(text, position + 2, 4) - 0xDC00
                position += 6
            to = _put_character(out, to, code)
            continue
        if byte == 0x62:
            byte = 0x08
        elif byte == 0x66:
            byte = 0x0C
        elif byte == 0x6E:
            byte = 0x0A
        elif byte == 0x72:
            byte = 0x0D
        elif byte == 0x74:
            byte = 0x09
        store_u8(out, to, byte)
        to += 1
    return to


@njit(nogil=True, cache=True)
def copy_string(text: int, start: int, end: int, is_escaped: bool, out: int, to: int) -> int:
    """Write a scanned string (without quotes) as what it says; where it ends."""
    if is_escaped:
        return unescape(text, start, end, out, to)
    copy_bytes(out, to, text, start, end - start)
    return to + end - start


@njit(nogil=True, cache=True)
def key_hash(text: int, start: int, end: int, is_escaped: bool, scratch: int) -> Any:
    """`hash_of` what a key says; `scratch` has room for it and `SCAN_SLACK_BYTES`."""
    if is_escaped:
        return hash_of(scratch, 0, unescape(text, start, end, scratch, 0))
    return hash_of(text, start, end - start)


@njit(nogil=True, cache=True, forceinline=True)
def holds(hashes: Any, first: int, count: int, wanted: Any) -> bool:
    """Whether one of hashes[first:count] is it."""
    found = False
    for place in range(first, count):
        found |= hashes[place] == wanted
    return found


@njit(nogil=True, cache=True)
def scan_members(
    text: int,
    position: int,
    end: int,
    depth_max: int,
    members: Any,
    hashes: Any,
    first: int,
    scratch: int,
) -> tuple[int, int, int]:
    """List the object that begins at `position`, from row `first` of the tables on.

    Returns (behind it, SCAN_*, rows in all); when it is wrong, the position of that, and
    for SCAN_DUPLICATE row `first` is the member whose key is there twice.
    """
    count = first
    if position >= end or load_u8(text, position) != _OPEN_OBJECT:
        return position, SCAN_NOT_OBJECT, count
    position = skip_space(text, position + 1, end)
    if position < end and load_u8(text, position) == _CLOSE_OBJECT:
        return position + 1, SCAN_OK, count
    while True:
        position = skip_space(text, position, end)
        if position >= end or load_u8(text, position) != _QUOTE:
            is_end = position >= end or load_u8(text, position) == _LINE_FEED
            return position, SCAN_ENDS if is_end else SCAN_SYNTAX, count
        if count - first >= OBJECT_KEYS_MAX:
            return position, SCAN_KEYS, count
        key = position + 1
        position, status, is_escaped = scan_string(text, key, end)
        if status != SCAN_OK:
            return position, status, count
        hashed = key_hash(text, key, position, is_escaped, scratch)
        if holds(hashes, first, count, hashed):
            members[first, MEMBER_KEY], members[first, MEMBER_KEY_END] = key, position
            return key, SCAN_DUPLICATE, count
        hashes[count] = hashed
        members[count, MEMBER_KEY], members[count, MEMBER_KEY_END] = key, position
        members[count, MEMBER_KEY_ESCAPED] = is_escaped
        position = skip_space(text, position + 1, end)
        if position >= end or load_u8(text, position) != _COLON:
            is_end = position >= end or load_u8(text, position) == _LINE_FEED
            return position, SCAN_ENDS if is_end else SCAN_SYNTAX, count
        position = skip_space(text, position + 1, end)
        if position >= end:
            return position, SCAN_ENDS, count
        kind = kind_at(text, position)
        members[count, MEMBER_VALUE], members[count, MEMBER_KIND] = position, kind
        members[count, MEMBER_VALUE_ESCAPED] = 0
        if kind == KIND_STRING:
            position, status, is_escaped = scan_string(text, position + 1, end)
            members[count, MEMBER_VALUE_ESCAPED] = is_escaped
            position += 1 if status == SCAN_OK else 0
        else:
            position, status = scan_value(text, position, end, depth_max - 1)
        if status != SCAN_OK:
            return position, status, count
        members[count, MEMBER_VALUE_END] = position
        count += 1
        position = skip_space(text, position, end)
        byte = load_u8(text, position) if position < end else _LINE_FEED
        if byte == _CLOSE_OBJECT:
            return position + 1, SCAN_OK, count
        if byte != _COMMA:
            return position, SCAN_ENDS if byte == _LINE_FEED else SCAN_SYNTAX, count
        position += 1
