"""The values of JSON members that become columns: ids, times, words."""

from __future__ import annotations

from typing import Any

from numba import njit

from cdp_ray_sinks.batch.kernels.json_scan import KIND_NUMBER, hash_of, hex_at, name_hash
from cdp_ray_sinks.batch.kernels.memory import load_u8, store_u8

TIME_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
NOT_THERE = -1
_TIME_DIGITS_MAX = 15
_ID_DIGITS, _ID_DIGITS_HYPHENS = 32, 36

_TYPE_WORDS = (b"track", b"identify", b"group", b"alias", b"enrich", b"context")
_LEVEL_WORDS = (
    b"emergency", b"alert", b"critical", b"error", b"warning", b"notice", b"info", b"debug",
    b"trace",
)  # fmt: skip
_TRACK, _IDENTIFY, _GROUP, _ALIAS, _ENRICH, _CONTEXT = (name_hash(word) for word in _TYPE_WORDS)
(
    _EMERGENCY, _ALERT, _CRITICAL, _ERROR, _WARNING, _NOTICE, _INFO, _DEBUG, _TRACE,
) = (name_hash(word) for word in _LEVEL_WORDS)  # fmt: skip
_LOG = name_hash(b"log")
_WARN, _ERR, _CRIT, _EMERG, _FATAL = (
    name_hash(word) for word in (b"warn", b"err", b"crit", b"emerg", b"fatal")
)
_LEVEL_BYTES_MAX = 16


@njit(nogil=True, cache=True)
def event_type_of(word: Any) -> int:
    """The EventType that a word's hash stands for, or NOT_THERE."""
    if word == _TRACK:
        return 1
    if word == _IDENTIFY:
        return 2
    if word == _GROUP:
        return 3
    if word == _ALIAS:
        return 4
    if word == _ENRICH:
        return 5
    return 6 if word == _CONTEXT else NOT_THERE


@njit(nogil=True, cache=True)
def log_type_of(word: Any) -> int:
    """The LogEventType that a word's hash stands for, or NOT_THERE."""
    if word == _LOG:
        return 1
    return 2 if word == _ENRICH else NOT_THERE


@njit(nogil=True, cache=True)
def level_of(text: int, start: int, end: int, scratch: int) -> tuple[int, bool]:
    """(the LogLevel that a string names in any case, whether it is its own name).

    NOT_THERE for other words. `scratch` has room for 16 bytes and the slack.
    """
    if end - start > _LEVEL_BYTES_MAX:
        return NOT_THERE, False
    for place in range(start, end):
        store_u8(scratch, place - start, load_u8(text, place) | 0x20)
    word = hash_of(scratch, 0, end - start)
    if word == _INFO:
        return 6, True
    if word == _ERROR:
        return 3, True
    if word == _WARNING:
        return 4, True
    if word == _DEBUG:
        return 7, True
    if word == _NOTICE:
        return 5, True
    if word == _CRITICAL:
        return 2, True
    if word == _ALERT:
        return 1, True
    if word == _EMERGENCY:
        return 0, True
    if word == _TRACE:
        return 8, True
    if word == _WARN:
        return 4, False
    if word == _ERR:
        return 3, False
    if word in (_CRIT, _FATAL):
        return 2, False
    return (0, False) if word == _EMERG else (NOT_THERE, False)


@njit(nogil=True, cache=True)
def time_of(text: int, start: int, end: int, kind: int) -> int:
    """Unix milliseconds of a number, its fraction cut off; NOT_THERE for anything else.

    Not below 0, not above `TIME_MS_MAX`, not with an exponent.
    """
    if kind != KIND_NUMBER:
        return NOT_THERE
    value, place = 0, start
    while place < end and 0x30 <= load_u8(text, place) <= 0x39:
        value = 10 * value + load_u8(text, place) - 0x30
        place += 1
        if place - start > _TIME_DIGITS_MAX:
            return NOT_THERE
    if place == start or value > TIME_MS_MAX:
        return NOT_THERE
    if place < end and load_u8(text, place) == 0x2E:
        place += 1
        while place < end and 0x30 <= load_u8(text, place) <= 0x39:
            place += 1
    return value if place == end else NOT_THERE


@njit(nogil=True, cache=True)
def put_id(text: int, start: int, end: int, out: int, to: int) -> bool:
    """Write the 16 bytes of a UUID, with its four hyphens or without; False if it is none."""
    count = end - start
    if count not in (_ID_DIGITS, _ID_DIGITS_HYPHENS):
        return False
    place = start
    for number in range(16):
        if count == _ID_DIGITS_HYPHENS and number in (4, 6, 8, 10):
            if load_u8(text, place) != 0x2D:
                return False
            place += 1
        byte = hex_at(text, place, 2)
        if byte < 0:
            return False
        store_u8(out, to + number, byte)
        place += 2
    return True
