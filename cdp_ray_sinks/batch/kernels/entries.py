"""One event or log entry of a message: where its fields are, all of them verified.

Counting and decoding both go through here, so a message that counts is one that decodes.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.enums import ID_BYTES, EventType, LogEventType, LogLevel
from cdp_ray_sinks.batch.kernels.memory import load_i32, load_i64, load_u8, load_u16, load_u32
from cdp_ray_sinks.batch.kernels.tables import (
    ABSENT,
    BAD_FIELD,
    BAD_TABLE,
    INVALID,
    OK,
    slot_offset,
    table_at,
    vtable_of,
)
from cdp_ray_sinks.batch.kernels.utf8 import is_text

AUTO: Final = 0
COLLECTOR: Final = 1
SDK: Final = 2

TIME_MAX: Final = 2**63 - 1
EVENT_TYPE_MAX: Final = int(max(EventType))
LOG_TYPE_MAX: Final = int(max(LogEventType))
LEVEL_MAX: Final = int(max(LogLevel))
LEVEL_ABSENT: Final = int(LogLevel.INFO)

EVENT_WIDTHS: Final[Any] = np.int64(0x4444481)
LOG_WIDTHS: Final[Any] = np.int64(0x4448141)
"""Bytes of the fields in slots 0 to 6, a hexadecimal digit each, slot 0 the lowest.

These and NO_LAYOUT are numpy's integers because numba compiles a function anew for each plain
constant that it is called with.
"""

Layout: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""A vtable as last seen: its first 18 bytes as three numbers, the bytes of it that must lie
inside the message, how far its fields reach into a table, its slot count, and the offsets
of slots 0 to 6, 0 when absent."""

Entry: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int]

_NEVER: Final = 1 << 40
NO_LAYOUT: Final[Any] = tuple(
    np.int64(value) for value in (0, 0, 0, _NEVER, 0, 0, 0, 0, 0, 0, 0, 0, 0)
)


@njit(nogil=True, cache=True)
def _read_layout(buffer: int, table: int, start: int, end: int, widths: int) -> tuple[int, Layout]:
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, NO_LAYOUT
    reach = 0
    for slot in range(7):
        offset = slot_offset(buffer, vtable, slot)
        if offset > 0:
            reach = max(reach, offset + ((widths >> (4 * slot)) & 15))
    if table + reach > end:
        return BAD_FIELD, NO_LAYOUT
    extent = load_u16(buffer, vtable)
    need, first, second, third = _NEVER, 0, 0, 0
    if vtable + 18 <= end:
        need = max(18, extent)
        first = load_i64(buffer, vtable)
        second = load_i64(buffer, vtable + 8)
        third = load_u16(buffer, vtable + 16)
    return OK, (
        first,
        second,
        third,
        need,
        reach,
        (extent - 4) >> 1,
        slot_offset(buffer, vtable, 0),
        slot_offset(buffer, vtable, 1),
        slot_offset(buffer, vtable, 2),
        slot_offset(buffer, vtable, 3),
        slot_offset(buffer, vtable, 4),
        slot_offset(buffer, vtable, 5),
        slot_offset(buffer, vtable, 6),
    )


@njit(nogil=True, cache=True, forceinline=True)
def locate(
    buffer: int, entry: int, start: int, end: int, widths: int, layout: Layout
) -> tuple[int, int, Layout]:
    """The table that the u32 at `entry` points to: (status, position, layout).

    `layout` is that of the table before, NO_LAYOUT at first: tables of one writer are
    mostly alike, and comparing a vtable is cheaper than reading it. On success all fields
    of the slots in `widths` lie inside the message.
    """
    table = table_at(buffer, entry, end)
    if table < 0:
        return BAD_TABLE, entry, layout
    vtable = table - load_i32(buffer, table)
    if (
        vtable >= start
        and vtable + layout[3] <= end
        and table + layout[4] <= end
        and load_i64(buffer, vtable) == layout[0]
        and load_i64(buffer, vtable + 8) == layout[1]
        and load_u16(buffer, vtable + 16) == layout[2]
    ):
        return OK, table, layout
    status, layout = _read_layout(buffer, table, start, end, widths)
    return status, table, layout


@njit(nogil=True, cache=True, forceinline=True)
def _vector(buffer: int, table: int, offset: int, end: int) -> tuple[int, int]:
    """Position of a byte vector's count and its bytes; (ABSENT, 0), (INVALID, 0).

    The field itself must be known to lie inside the message.
    """
    if offset == 0:
        return ABSENT, 0
    position = table + offset
    vector = position + load_u32(buffer, position)
    if vector + 4 > end:
        return INVALID, 0
    count = load_u32(buffer, vector)
    if vector + 4 + count > end:
        return INVALID, 0
    return vector, count


@njit(nogil=True, cache=True, forceinline=True)
def _time_at(buffer: int, table: int, offset: int) -> int:
    """A u64 field as int64, the largest one if it does not fit; 0 if absent."""
    if offset == 0:
        return 0
    value = load_i64(buffer, table + offset)
    return value if value >= 0 else TIME_MAX


@njit(nogil=True, cache=True, forceinline=True)
def _holds_id(buffer: Any, position: int) -> bool:
    return position >= 0 and load_u32(buffer, position) == ID_BYTES


@njit(nogil=True, cache=True)
def _holds_text(buffer: Any, position: int, end: int) -> bool:
    """True for printable text with the zero behind it that every string has."""
    if position < 0:
        return False
    text_end = position + 4 + load_u32(buffer, position)
    if text_end >= end or load_u8(buffer, text_end) != 0:
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


@njit(nogil=True, cache=True, forceinline=True)
def read_event(buffer: int, table: int, end: int, dialect: int, layout: Layout) -> Entry:
    """The Event at `table`, of which `locate` found the layout.

    Returns (status, bytes of all its vectors, type, timestamp, positions of device and
    session, then positions and bytes of service, name, payload). Positions are those of a
    vector's count, or ABSENT; so is an id that has not 16 bytes. An unknown type is 0.
    """
    slots = layout[5]
    second, bytes_2 = _vector(buffer, table, layout[8], end)
    if second == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    third, bytes_3 = _vector(buffer, table, layout[9], end)
    if third == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    fourth, bytes_4 = _vector(buffer, table, layout[10], end)
    if fourth == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    fifth, bytes_5 = _vector(buffer, table, layout[11], end)
    if fifth == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    sixth, bytes_6 = _vector(buffer, table, layout[12], end)
    if sixth == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    taken = bytes_2 + bytes_3 + bytes_4 + bytes_5 + bytes_6
    code = load_u8(buffer, table + layout[6]) if layout[6] > 0 else 0
    code = code if code <= EVENT_TYPE_MAX else 0
    time = _time_at(buffer, table, layout[7])
    if dialect == AUTO:
        dialect = SDK if slots > 6 else _guess_dialect(buffer, slots, second, third, fourth, end)
    if dialect == SDK:
        third = third if bytes_3 == ID_BYTES else ABSENT
        fourth = fourth if bytes_4 == ID_BYTES else ABSENT
        return OK, taken, code, time, third, fourth, second, bytes_2, fifth, bytes_5, sixth, bytes_6
    second = second if bytes_2 == ID_BYTES else ABSENT
    third = third if bytes_3 == ID_BYTES else ABSENT
    return OK, taken, code, time, second, third, ABSENT, 0, fourth, bytes_4, fifth, bytes_5


@njit(nogil=True, cache=True, forceinline=True)
def read_log(buffer: int, table: int, end: int, layout: Layout) -> Entry:
    """The LogEntry at `table`, of which `locate` found the layout.

    Returns (status, bytes of all its vectors, type, timestamp, level, position of session,
    then positions and bytes of source, service, payload), as `read_event` does. An absent
    level is INFO, as is one that does not exist.
    """
    session, bytes_1 = _vector(buffer, table, layout[7], end)
    if session == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    source, bytes_4 = _vector(buffer, table, layout[10], end)
    if source == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    service, bytes_5 = _vector(buffer, table, layout[11], end)
    if service == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    payload, bytes_6 = _vector(buffer, table, layout[12], end)
    if payload == INVALID:
        return BAD_FIELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    taken = bytes_1 + bytes_4 + bytes_5 + bytes_6
    code = load_u8(buffer, table + layout[6]) if layout[6] > 0 else 0
    code = code if code <= LOG_TYPE_MAX else 0
    level = load_u8(buffer, table + layout[8]) if layout[8] > 0 else LEVEL_ABSENT
    level = level if level <= LEVEL_MAX else LEVEL_ABSENT
    time = _time_at(buffer, table, layout[9])
    session = session if bytes_1 == ID_BYTES else ABSENT
    return (
        OK,
        taken,
        code,
        time,
        level,
        session,
        source,
        bytes_4,
        service,
        bytes_5,
        payload,
        bytes_6,
    )
