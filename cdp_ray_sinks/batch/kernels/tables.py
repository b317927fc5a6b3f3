"""Following FlatBuffers offsets inside a message, with every step checked.

The one place that does. A message is buffer[start:end]; positions are absolute int64
indexes into the buffer. Each function returns a position whose bytes lie inside the
message, or -1 (absent, or not inside). Offsets are unsigned and forward, except from a
table to its vtable; sums of a position and a 32-bit value can't overflow int64. Nothing
is assumed about alignment: no writer of this protocol aligns its 8-byte fields.

Layout: https://flatbuffers.dev/internals. `start` must be >= 0 and `end` <= len(buffer).
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from cdp_ray_sinks.batch.kernels.memory import load_i32, load_u16, load_u32

INVALID: Final = -2
"""What `field` and `vector` say when a field is there but reaches outside its message."""


@njit(nogil=True, cache=True, inline="always")
def root_table(buffer: Any, start: int, end: int) -> int:
    """Position of the root table of buffer[start:end], or -1."""
    if end - start < 8:
        return -1
    table = start + load_u32(buffer, start)
    if table + 4 > end:
        return -1
    return table


@njit(nogil=True, cache=True, inline="always")
def vtable_of(buffer: Any, table: int, start: int, end: int) -> int:
    """Position of the vtable of the table at `table`, or -1.

    On success its whole extent, at least 4 bytes, lies inside the message.
    """
    vtable = table - load_i32(buffer, table)
    if vtable < start or vtable + 4 > end:
        return -1
    extent = load_u16(buffer, vtable)
    if extent < 4 or extent & 1 or vtable + extent > end:
        return -1
    return vtable


@njit(nogil=True, cache=True, inline="always")
def slot_offset(buffer: Any, vtable: int, slot: int) -> int:
    """Offset of field `slot` from its table's start, 0 when absent.

    `vtable` must come from `vtable_of`.
    """
    place = 4 + 2 * slot
    if place + 2 > load_u16(buffer, vtable):
        return 0
    return load_u16(buffer, vtable + place)


@njit(nogil=True, cache=True, inline="always")
def field(buffer: Any, table: int, vtable: int, slot: int, width: int, end: int) -> int:
    """Position of field `slot` of `width` bytes; -1 when absent, INVALID when outside."""
    offset = slot_offset(buffer, vtable, slot)
    if offset == 0:
        return -1
    if table + offset + width > end:
        return INVALID
    return table + offset


@njit(nogil=True, cache=True, inline="always")
def vector_at(buffer: Any, position: int, item_bytes: int, end: int) -> int:
    """Position of the u32 item count of the vector or string that `position` points to.

    Or -1 if the count or its items reach outside. `position` must hold 4 bytes inside
    the message. The items start 4 bytes behind; a string's zero end is not asked for.
    """
    vector = position + load_u32(buffer, position)
    if vector + 4 > end or vector + 4 + item_bytes * load_u32(buffer, vector) > end:
        return -1
    return vector


@njit(nogil=True, cache=True, inline="always")
def vector(buffer: Any, table: int, vtable: int, slot: int, item_bytes: int, end: int) -> int:
    """Position of the count of the vector in field `slot`; -1 when absent, INVALID."""
    position = field(buffer, table, vtable, slot, 4, end)
    if position < 0:
        return position
    found = vector_at(buffer, position, item_bytes, end)
    if found < 0:
        return INVALID
    return found


@njit(nogil=True, cache=True, inline="always")
def table_at(buffer: Any, position: int, end: int) -> int:
    """Position of the table that the u32 at `position` points to, or -1.

    `position` must hold 4 bytes inside the message.
    """
    table = position + load_u32(buffer, position)
    if table + 4 > end:
        return -1
    return table
