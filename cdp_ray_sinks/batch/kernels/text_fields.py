"""The parts of a text line that are no client text: fixed words, times, numbers, addresses.

All outputs are addresses with room for LINE_FIXED_BYTES.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import EventType, LogLevel, SchemaType
from cdp_ray_sinks.batch.kernels.escape import put_count
from cdp_ray_sinks.batch.kernels.memory import (
    copy_16,
    copy_32,
    load_i64,
    load_i64_big,
    load_u8,
    load_u16,
    load_u32,
    store_u8,
    store_u16,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.vectors import store_id_text

LINE_FIXED_BYTES: Final = 512
"""More than all of a line besides its values."""

LOG_LEVELS: Final = len(EventType)
DATA: Final = LOG_LEVELS + len(LogLevel)
RAW: Final[Any] = np.int64(DATA + 3)
"""Kinds of line: the event types, the log levels, the other three schemas, and raw; this and
those after it are no plain integers for the reason that `entries.NO_LAYOUT` gives."""

SESSION: Final[Any] = RAW + 1
NAME: Final[Any] = SESSION + 1
SOURCE: Final[Any] = NAME + 1
SERVICE: Final[Any] = SOURCE + 1
TIME: Final[Any] = SERVICE + 1
SOURCE_IP: Final[Any] = TIME + 1
DATA_BYTES: Final[Any] = SOURCE_IP + 1
MESSAGE_BYTES: Final[Any] = DATA_BYTES + 1
PAYLOAD: Final[Any] = MESSAGE_BYTES + 1
WORDS: Final[Any] = PAYLOAD + 1
"""Which row of the words a word is; those before begin the lines of a kind."""

WORD_BYTES: Final = 32
_PAIRS: Final = WORD_BYTES * WORDS

_CLOCK: Final = 0
_TAIL: Final = 32
_IP: Final = _TAIL + 11
_DIGITS: Final = 160
_CLOCK_MS: Final = 192
_IP_HEAD: Final = 200
_IP_END: Final = 208
_TAIL_BYTES: Final = 216
_IP_BYTES: Final = 224
_QUOTIENT: Final = 232
MEMORY_BYTES: Final = 256
"""What is remembered from line to line, text and the numbers it was made from."""

_CLOCK_BYTES: Final = 25
_YEAR_9999_MS: Final = 253_402_300_799_999
_DAY_MS: Final = 86_400_000


def words() -> NDArray[np.uint8]:
    """The fixed words, 32 bytes each, the last of them their count; then 00 to 99."""
    heads = [f"{kind.name}] device_id=" for kind in EventType]
    heads += [f"{level.name}] session_id=" for level in LogLevel]
    others = (SchemaType.METRIC, SchemaType.TRACE, SchemaType.SNAPSHOT)
    heads += [f"{name}] source_ip=" for name in [*(kind.name for kind in others), "RAW"]]
    keys = ["session_id", "event_name", "source", "service", "timestamp", "source_ip"]
    keys += ["data_len", "msg_len", "payload"]
    texts = [f"] [{head}" for head in heads] + [f" {key}=" for key in keys]
    rows = [text.encode().ljust(WORD_BYTES - 1) + bytes([len(text)]) for text in texts]
    pairs = "".join(f"{pair:02d}" for pair in range(100)).encode()
    return np.frombuffer(b"".join(rows) + pairs + bytes(32), np.uint8)


def new_memory() -> NDArray[np.uint8]:
    """Nothing remembered yet."""
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    memory[_CLOCK_MS:].view(np.int64)[:] = -1
    return memory


@njit(nogil=True, cache=True, forceinline=True)
def put_word(out: int, at: int, fixed: int, word: int) -> int:
    """Write a fixed word; returns where it ends."""
    copy_32(out, at, fixed, WORD_BYTES * word)
    return at + load_u8(fixed, WORD_BYTES * word + WORD_BYTES - 1)


@njit(nogil=True, cache=True, forceinline=True)
def _put_pair(out: int, at: int, fixed: int, pair: int) -> None:
    store_u16(out, at, load_u16(fixed, _PAIRS + 2 * pair))


@njit(nogil=True, cache=True, forceinline=True)
def put_id(out: int, at: int, buffer: int, vector: int) -> int:
    """Write the 16 bytes of the vector whose count is at `vector`, `-` if it is absent."""
    if vector >= 0:
        store_id_text(out, at, buffer, vector + 4)
        return at + 36
    store_u8(out, at, 0x2D)
    return at + 1


@njit(nogil=True, cache=True, forceinline=True)
def put_time(out: int, at: int, fixed: int, memory: int, time: int) -> int:
    """Write a number of milliseconds; all but its last four digits are remembered."""
    quotient = time // 10_000
    if quotient == 0:
        return put_count(out, at, time)
    if quotient != load_i64(memory, _QUOTIENT):
        store_u64(memory, _QUOTIENT, quotient)
        store_u8(memory, _DIGITS + 16, put_count(memory, _DIGITS, quotient) - _DIGITS)
    copy_16(out, at, memory, _DIGITS)
    at += load_u8(memory, _DIGITS + 16)
    rest = time - 10_000 * quotient
    high = rest // 100
    _put_pair(out, at, fixed, high)
    _put_pair(out, at + 2, fixed, rest - 100 * high)
    return at + 4


@njit(nogil=True, cache=True)
def _remember_clock(fixed: int, memory: int, time: int) -> None:
    """Write `[YYYY-MM-DDTHH:MM:SS.mmmZ`, of the last millisecond of 9999 if it is later.

    The date: https://howardhinnant.github.io/date_algorithms.html#civil_from_days.
    """
    store_u64(memory, _CLOCK_MS, time)
    if time < 0 or time > _YEAR_9999_MS:  # below zero: unsigned, and later still
        time = _YEAR_9999_MS
    days = time // _DAY_MS
    left = time - days * _DAY_MS
    shifted = days + 719_468
    era = shifted // 146_097
    day_of_era = shifted - era * 146_097
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    place = (5 * day_of_year + 2) // 153
    month = place + 3 if place < 10 else place - 9
    year += 400 * era + (month <= 2)
    store_u8(memory, 0, 0x5B)
    _put_pair(memory, 1, fixed, year // 100)
    _put_pair(memory, 3, fixed, year % 100)
    _put_pair(memory, 6, fixed, month)
    _put_pair(memory, 9, fixed, day_of_year - (153 * place + 2) // 5 + 1)
    _put_pair(memory, 12, fixed, left // 3_600_000)
    _put_pair(memory, 15, fixed, left // 60_000 % 60)
    _put_pair(memory, 18, fixed, left // 1000 % 60)
    store_u8(memory, 21, 48 + left % 1000 // 100)
    _put_pair(memory, 22, fixed, left % 100)
    store_u8(memory, 5, 0x2D)
    store_u8(memory, 8, 0x2D)
    store_u8(memory, 11, 0x54)
    store_u8(memory, 14, 0x3A)
    store_u8(memory, 17, 0x3A)
    store_u8(memory, 20, 0x2E)
    store_u8(memory, 24, 0x5A)


@njit(nogil=True, cache=True)
def _zero_run(buffer: int, address: int) -> tuple[int, int]:
    """First group and count of the longest run of at least two zero groups; (8, 0)."""
    first, count, begun = 8, 1, 0
    for group in range(8):
        if load_u16(buffer, address + 2 * group) != 0:
            begun = group + 1
        elif group + 1 - begun > count:
            first, count = begun, group + 1 - begun
    return (first, count) if count > 1 else (8, 0)


@njit(nogil=True, cache=True)
def put_ip(out: int, at: int, buffer: int, address: int) -> int:
    """Write 16 address bytes: dotted if IPv4 is mapped in them, else as RFC 5952 says."""
    if load_i64(buffer, address) == 0 and load_u32(buffer, address + 8) == 0xFFFF0000:
        for place in range(12, 16):
            at = put_count(out, at, load_u8(buffer, address + place))
            store_u8(out, at, 0x2E)
            at += 1
        return at - 1
    first, count = _zero_run(buffer, address)
    group = 0
    while group < 8:
        if group == first:
            store_u16(out, at, 0x3A3A)
            at += 2
            group += count
            continue
        if group > 0 and group != first + count:
            store_u8(out, at, 0x3A)
            at += 1
        value = load_u8(buffer, address + 2 * group) << 8 | load_u8(buffer, address + 2 * group + 1)
        is_begun = False
        for shift in (12, 8, 4, 0):
            digit = (value >> shift) & 15
            if digit > 0 or is_begun or shift == 0:
                store_u8(out, at, digit + (87 if digit > 9 else 48))
                at += 1
                is_begun = True
        group += 1
    return at


@njit(nogil=True, cache=True)
def _remember_ip(fixed: int, memory: int, buffer: int, address: int) -> None:
    """Write ` source_ip=… payload=`."""
    store_u64(memory, _IP_HEAD, load_i64(buffer, address))
    store_u64(memory, _IP_END, load_i64(buffer, address + 8))
    put_word(memory, _TAIL, fixed, SOURCE_IP)
    at = put_ip(memory, _IP, buffer, address)
    store_u64(memory, _IP_BYTES, at - _IP)
    store_u64(memory, _TAIL_BYTES, put_word(memory, at, fixed, PAYLOAD) - _TAIL)


@njit(nogil=True, cache=True)
def remember_record(fixed: int, memory: int, buffer: int, record: int) -> None:
    """Have the received time and the address of the record at `record` at hand."""
    received = load_i64_big(buffer, record)
    if received != load_i64(memory, _CLOCK_MS) or load_u8(memory, _CLOCK) == 0:
        _remember_clock(fixed, memory, received)
    if (
        load_i64(buffer, record + 8) != load_i64(memory, _IP_HEAD)
        or load_i64(buffer, record + 16) != load_i64(memory, _IP_END)
        or load_u8(memory, _TAIL) == 0
    ):
        _remember_ip(fixed, memory, buffer, record + 8)


@njit(nogil=True, cache=True, forceinline=True)
def put_head(out: int, at: int, fixed: int, memory: int, kind: int) -> int:
    """Write the time and the words that begin a line of that kind."""
    copy_32(out, at, memory, _CLOCK)
    return put_word(out, at + _CLOCK_BYTES, fixed, kind)


@njit(nogil=True, cache=True, forceinline=True)
def put_tail(out: int, at: int, memory: int) -> int:
    """Write ` source_ip=… payload=`."""
    copy_32(out, at, memory, _TAIL)
    copy_32(out, at + 32, memory, _TAIL + 32)
    return at + load_i64(memory, _TAIL_BYTES)


@njit(nogil=True, cache=True)
def put_whole_head(
    out: int, at: int, fixed: int, memory: int, kind: int, size_word: int, count: int
) -> int:
    """Write all that comes before the payload of a line that is one whole message."""
    at = put_head(out, at, fixed, memory, kind)
    copy_32(out, at, memory, _IP)
    copy_16(out, at + 32, memory, _IP + 32)
    at = put_word(out, at + load_i64(memory, _IP_BYTES), fixed, size_word)
    return put_word(out, put_count(out, at, count), fixed, PAYLOAD)
