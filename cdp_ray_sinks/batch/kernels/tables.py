"""Following FlatBuffers offsets inside a message, with every step checked.

The one place that does. A message is buffer[start:end]; positions are absolute int64
indexes into the buffer. Each function returns a position whose bytes lie inside the
message, or a negative number. Offsets are unsigned and forward, except from a table to
its vtable; sums of a position and a few 32-bit values can't overflow int64. Nothing is
assumed about alignment: no writer of this protocol aligns its 8-byte fields.

Layout: https://flatbuffers.dev/internals. The caller guarantees 0 <= start <= end <=
len(buffer). `buffer` is an array or, in hot loops, its address (memory.address_of).
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from cdp_ray_sinks.batch.kernels.memory import load_i32, load_u8, load_u16, load_u32

ABSENT: Final = -1
INVALID: Final = -2
"""A field is there but reaches outside its message."""

OK: Final = 0
BAD_RECORD: Final = 1
BAD_TABLE: Final = 2
BAD_FIELD: Final = 3
NO_ROWS: Final = 4
WRONG_SCHEMA: Final = 5
OVER_BUDGET: Final = 6

BUDGET_FACTOR: Final = 4
"""A message may unpack to this many times its own bytes; vectors may overlap, and a
builder that shares equal strings does so rightly, but a small message must not unpack
to gigabytes."""
ROW_BUDGET_BYTES: Final = 32
"""What each event or log entry takes from that budget besides its strings; 8 bytes is the
least that one can take up in a message, so only vectors of equal offsets come near it."""

_SCHEMA_SLOT: Final = 1
_DATA_SLOT: Final = 4


@njit(nogil=True, cache=True)
def root_table(buffer: Any, start: int, end: int) -> int:
    """Position of the root table of buffer[start:end], or INVALID."""
    if end - start < 8:
        return INVALID
    table = start + load_u32(buffer, start)
    if table + 4 > end:
        return INVALID
    return table


@njit(nogil=True, cache=True, forceinline=True)
def vtable_of(buffer: Any, table: int, start: int, end: int) -> int:
    """Position of the vtable of the table at `table`, or INVALID.

    `table` must have 4 bytes inside the message. On success the vtable's whole extent,
    at least 4 bytes and even, lies inside the message.
    """
    vtable = table - load_i32(buffer, table)
    if vtable < start or vtable + 4 > end:
        return INVALID
    extent = load_u16(buffer, vtable)
    if extent < 4 or extent & 1 or vtable + extent > end:
        return INVALID
    return vtable


@njit(nogil=True, cache=True, forceinline=True)
def slot_offset(buffer: Any, vtable: int, slot: int) -> int:
    """Offset of field `slot` from its table's start, 0 when absent.

    `vtable` must come from `vtable_of`.
    """
    place = 4 + 2 * slot
    if place + 2 > load_u16(buffer, vtable):
        return 0
    return load_u16(buffer, vtable + place)


@njit(nogil=True, cache=True, forceinline=True)
def field_at(table: int, offset: int, width: int, end: int) -> int:
    """Position of the field of `width` bytes at `offset` (0: ABSENT), or INVALID."""
    if offset == 0:
        return ABSENT
    if table + offset + width > end:
        return INVALID
    return table + offset


@njit(nogil=True, cache=True, forceinline=True)
def vector_at(buffer: Any, table: int, offset: int, item_bytes: int, end: int) -> int:
    """Position of the u32 item count of the vector or string whose field is at `offset`.

    ABSENT if `offset` is 0, INVALID if field, count or items reach outside. The items
    start 4 bytes behind the count; a string's zero end is not asked for.
    """
    if offset == 0:
        return ABSENT
    position = table + offset
    if position + 4 > end:
        return INVALID
    vector = position + load_u32(buffer, position)
    if vector + 4 > end or vector + 4 + item_bytes * load_u32(buffer, vector) > end:
        return INVALID
    return vector


@njit(nogil=True, cache=True)
def field(buffer: Any, table: int, vtable: int, slot: int, width: int, end: int) -> int:
    """Position of field `slot` of `width` bytes, ABSENT or INVALID."""
    return field_at(table, slot_offset(buffer, vtable, slot), width, end)


@njit(nogil=True, cache=True)
def vector(buffer: Any, table: int, vtable: int, slot: int, item_bytes: int, end: int) -> int:
    """Position of the count of the vector in field `slot`, ABSENT or INVALID."""
    return vector_at(buffer, table, slot_offset(buffer, vtable, slot), item_bytes, end)


@njit(nogil=True, cache=True, forceinline=True)
def table_at(buffer: Any, position: int, end: int) -> int:
    """Position of the table that the u32 at `position` points to, or INVALID.

    `position` must have 4 bytes inside the message.
    """
    table = position + load_u32(buffer, position)
    if table + 4 > end:
        return INVALID
    return table


@njit(nogil=True, cache=True)
def schema_of(buffer: Any, start: int, end: int) -> int:
    """The schema type in the envelope of the message, 0 if absent, INVALID if damaged."""
    table = root_table(buffer, start, end)
    if table < 0:
        return INVALID
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return INVALID
    place = field(buffer, table, vtable, _SCHEMA_SLOT, 1, end)
    if place < 0:
        return 0 if place == ABSENT else INVALID
    return load_u8(buffer, place)


@njit(nogil=True, cache=True)
def rows_of(buffer: Any, start: int, end: int) -> tuple[int, int, int, int]:
    """The vector of entries in the nested buffer of a message, whatever its schema.

    Returns (status, position of the vector's count or of the failure, start and end of
    the nested buffer); the entries are u32 offsets to tables. All five kinds of data keep
    them in their only field.
    """
    table = root_table(buffer, start, end)
    if table < 0:
        return BAD_TABLE, start, 0, 0
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, table, 0, 0
    data = vector(buffer, table, vtable, _DATA_SLOT, 1, end)
    if data < 0:
        return NO_ROWS if data == ABSENT else BAD_FIELD, table, 0, 0
    inner = data + 4
    inner_end = inner + load_u32(buffer, data)
    root = root_table(buffer, inner, inner_end)
    if root < 0:
        return BAD_TABLE, inner, 0, 0
    root_vtable = vtable_of(buffer, root, inner, inner_end)
    if root_vtable < 0:
        return BAD_TABLE, root, 0, 0
    rows = vector(buffer, root, root_vtable, 0, 4, inner_end)
    if rows < 0:
        return NO_ROWS if rows == ABSENT else BAD_FIELD, root, 0, 0
    return OK, rows, inner, inner_end
