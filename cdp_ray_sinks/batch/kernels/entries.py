"""One event or log entry of a message: where its fields are, all of them verified.

Counting and decoding both go through here, so a message that counts is one that decodes.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import load_u16, load_u32, load_u64
from cdp_ray_sinks.batch.kernels.tables import (
    BAD_FIELD,
    BAD_TABLE,
    INVALID,
    OK,
    field_at,
    table_at,
    vector_at,
    vtable_of,
)
from cdp_ray_sinks.batch.kernels.utf8 import is_text

AUTO: Final = 0
COLLECTOR: Final = 1
SDK: Final = 2

TIME_MAX: Final = 2**63 - 1

Entry: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int]


@njit(nogil=True, cache=True)
def read_time(buffer: Any, position: int) -> int:
    """The u64 at `position` as int64, the largest one if it does not fit; 0 if absent."""
    if position < 0:
        return 0
    value = load_u64(buffer, position)
    if value > TIME_MAX:
        return TIME_MAX
    return np.int64(value)  # type: ignore[return-value]  # int() would stay unsigned


@njit(nogil=True, cache=True)
def _taken(buffer: Any, position: int) -> int:
    """Bytes that a vector takes from its message's budget."""
    return load_u32(buffer, position) if position >= 0 else 0


@njit(nogil=True, cache=True)
def _holds_id(buffer: Any, position: int) -> bool:
    return position >= 0 and load_u32(buffer, position) == 16


@njit(nogil=True, cache=True)
def _holds_text(buffer: Any, position: int, end: int) -> bool:
    """True for printable text with the zero behind it that every string has."""
    if position < 0:
        return False
    text_end = position + 4 + load_u32(buffer, position)
    if text_end >= end or buffer[text_end] != 0:
        return False
    return bool(is_text(buffer, position + 4, text_end))


@njit(nogil=True, cache=True)
def _guess_dialect(buffer: Any, slots: int, second: int, third: int, fourth: int, end: int) -> int:
    """The dialect of an Event table with fewer than 7 slots, from its vectors in 2, 3, 4.

    Six slots are the collector's, but a general FlatBuffers builder leaves out empty slots
    at the end, so an SDK-dialect table can have six or fewer. It is one if it has ids in 3
    and 4 and what is in 2 and 4 would not make a device id and a name.
    """
    if _holds_id(buffer, third) and _holds_id(buffer, fourth):
        if _holds_id(buffer, second):
            sdk = _holds_text(buffer, second, end) and not _holds_text(buffer, fourth, end)
        else:
            sdk = second >= 0 or not _holds_text(buffer, fourth, end)
    elif slots > 5 or _holds_id(buffer, second):
        sdk = False
    elif _holds_text(buffer, second, end):
        sdk = True
    else:
        sdk = _holds_id(buffer, fourth) and not _holds_text(buffer, fourth, end)
    return SDK if sdk else COLLECTOR


@njit(nogil=True, cache=True)
def read_event(buffer: Any, entry: int, start: int, end: int, dialect: int) -> Entry:
    """The Event that the u32 at `entry` points to.

    Returns (status, table, bytes of all its vectors, position of the type, of the timestamp,
    of the counts of service, device, session, name, payload); a position is ABSENT where
    there is nothing. When the status is not OK the table position says where a check failed.
    """
    table = table_at(buffer, entry, end)
    if table < 0:
        return BAD_TABLE, entry, 0, 0, 0, 0, 0, 0, 0, 0
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, table, 0, 0, 0, 0, 0, 0, 0, 0
    slots = (load_u16(buffer, vtable) - 4) >> 1
    kind = field_at(table, load_u16(buffer, vtable + 4) if slots > 0 else 0, 1, end)
    time = field_at(table, load_u16(buffer, vtable + 6) if slots > 1 else 0, 8, end)
    second = vector_at(buffer, table, load_u16(buffer, vtable + 8) if slots > 2 else 0, 1, end)
    third = vector_at(buffer, table, load_u16(buffer, vtable + 10) if slots > 3 else 0, 1, end)
    fourth = vector_at(buffer, table, load_u16(buffer, vtable + 12) if slots > 4 else 0, 1, end)
    fifth = vector_at(buffer, table, load_u16(buffer, vtable + 14) if slots > 5 else 0, 1, end)
    sixth = vector_at(buffer, table, load_u16(buffer, vtable + 16) if slots > 6 else 0, 1, end)
    if min(kind, time, second, third, fourth, fifth, sixth) == INVALID:
        return BAD_FIELD, table, 0, 0, 0, 0, 0, 0, 0, 0
    taken = _taken(buffer, second) + _taken(buffer, third) + _taken(buffer, fourth)
    taken += _taken(buffer, fifth) + _taken(buffer, sixth)
    if dialect == AUTO:
        dialect = SDK if slots > 6 else _guess_dialect(buffer, slots, second, third, fourth, end)
    if dialect == SDK:
        return OK, table, taken, kind, time, second, third, fourth, fifth, sixth
    return OK, table, taken, kind, time, -1, second, third, fourth, fifth


@njit(nogil=True, cache=True)
def read_log(buffer: Any, entry: int, start: int, end: int) -> Entry:
    """The LogEntry that the u32 at `entry` points to.

    Returns (status, table, bytes of all its vectors, position of the type, of the timestamp,
    of the level, of the counts of session, source, service, payload), as `read_event` does.
    """
    table = table_at(buffer, entry, end)
    if table < 0:
        return BAD_TABLE, entry, 0, 0, 0, 0, 0, 0, 0, 0
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, table, 0, 0, 0, 0, 0, 0, 0, 0
    slots = (load_u16(buffer, vtable) - 4) >> 1
    kind = field_at(table, load_u16(buffer, vtable + 4) if slots > 0 else 0, 1, end)
    session = vector_at(buffer, table, load_u16(buffer, vtable + 6) if slots > 1 else 0, 1, end)
    level = field_at(table, load_u16(buffer, vtable + 8) if slots > 2 else 0, 1, end)
    time = field_at(table, load_u16(buffer, vtable + 10) if slots > 3 else 0, 8, end)
    source = vector_at(buffer, table, load_u16(buffer, vtable + 12) if slots > 4 else 0, 1, end)
    service = vector_at(buffer, table, load_u16(buffer, vtable + 14) if slots > 5 else 0, 1, end)
    payload = vector_at(buffer, table, load_u16(buffer, vtable + 16) if slots > 6 else 0, 1, end)
    if min(kind, session, level, time, source, service, payload) == INVALID:
        return BAD_FIELD, table, 0, 0, 0, 0, 0, 0, 0, 0
    taken = _taken(buffer, session) + _taken(buffer, source) + _taken(buffer, service)
    taken += _taken(buffer, payload)
    return OK, table, taken, kind, time, level, session, source, service, payload
