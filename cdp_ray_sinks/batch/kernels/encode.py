"""Write rows as messages, in the layout of the clients' own writers.

Everything lies forward: vtable directly before its table, then the table's vectors in the
order of the fields. One kernel serves events and log entries of both dialects; how they
differ is in an EntryLayout and in the templates that the head of each entry and message is
copied from. The caller guarantees room for `encoded_bytes_max`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.encode_columns import (
    Column,
    column_of,
    id_column_of,
    is_there,
    range_of,
)
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    copy_16,
    copy_32,
    copy_bytes,
    load_i64,
    load_u8,
    load_u32,
    prefetch_write,
    store_u8,
    store_u32,
    store_u32_big,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES, copy_text, copy_word

TEMPLATE_BYTES: Final = 128
"""Every entry begins as a copy of a template of so many bytes: vtable, table, id vectors."""
_ID_VECTOR_BYTES: Final = 4 + ID_BYTES
_AHEAD_BYTES: Final = 4096

HAS_FIRST: Final = 1
HAS_SECOND: Final = 2
HAS_TEXT: Final = 4
HAS_NAME: Final = 8
HAS_PAYLOAD: Final = 16
_FULL: Final = HAS_FIRST | HAS_SECOND | HAS_NAME | HAS_PAYLOAD
TEMPLATE_COUNT: Final = 32
"""A template for each combination of fields that are there: the vtables differ."""

NO_ROOM: Final = -3
"""Why nothing more was written, besides BAD_OFFSET and BAD_INDEX."""


class EntryLayout(NamedTuple):
    """Where things are in an entry, in bytes from its table; -1 for what it has not.

    `head_bytes` is what lies before the first vector, `table_start` where the table is in
    it. `pads_last`: the last entry of a message is filled up to 4 bytes like the others.
    """

    head_bytes: int
    table_start: int
    code: int
    level: int
    time: int
    first: int
    second: int
    text: int
    name: int
    payload: int
    pads_last: bool


class MessageFrame(NamedTuple):
    """What stands around the entries of each message.

    `prefix` is the metadata of a record or empty, then 4 bytes for the size; `envelope` all
    of a message up to its first entry offset, with the places of the batch id (-1: none) and
    of the byte count of the data in it.
    """

    prefix: NDArray[np.uint8]
    envelope: NDArray[np.uint8]
    batch_id: int
    data: int


@njit(nogil=True, cache=True, forceinline=True)
def _present(columns: Any, row: int) -> int:
    """The HAS bits of a row."""
    one, two, text, name, payload = columns
    found = HAS_FIRST * is_there(one, row) | HAS_SECOND * is_there(two, row)
    found |= HAS_TEXT * is_there(text, row) | HAS_NAME * is_there(name, row)
    return found | HAS_PAYLOAD * is_there(payload, row)


@njit(nogil=True, cache=True)
def _present_in_all(columns: Any) -> int:
    """The HAS bits that every row has, -1 if rows differ."""
    one, two, text, name, payload = columns
    if one.valid | two.valid | text.valid | name.valid | payload.valid:
        return -1
    return _present(columns, 0)


@njit(nogil=True, cache=True, forceinline=True)
def _put_text(
    out: int, field: int, cursor: int, column: Column, start: int, count: int, end: int
) -> int:
    """Write a string, its zero and the bytes up to the next multiple of 4; returns the end.

    `end` is where the message begins modulo 4. A payload is a vector: it has no zero.
    """
    store_u32(out, field, cursor - field)
    store_u32(out, cursor, count)
    copy_word(out, cursor + 4, column.text, start, count, column.limit)
    cursor += 4 + count
    store_u64(out, cursor, 0)
    return cursor + 1 + ((end - cursor - 1) & 3)


@njit(nogil=True, cache=True, forceinline=True)
def _put_payload(out: int, field: int, cursor: int, column: Column, start: int, count: int) -> int:
    store_u32(out, field, cursor - field)
    store_u32(out, cursor, count)
    copy_text(out, cursor + 4, column.text, start, count, column.limit)
    return cursor + 4 + count


@njit(nogil=True, cache=True)
def _put_full_rows(
    out: int,
    cursor: int,
    entry: int,
    room: int,
    row: int,
    last: int,
    numbers: Any,
    columns: Any,
    template: int,
    layout: EntryLayout,
    head: int,
) -> tuple[int, int, int]:
    """Write rows that have ids, a name and a payload of its own but no text, nor a level.

    Stops before `last` and before a row that is special: one that is wrong or does not fit,
    or whose strings can't be read in whole steps. Returns (end, place of the next entry,
    next row).
    """
    codes, _, times = numbers
    one, two, _, name, payload = columns
    name_offsets, name_limit = name.offsets, name.limit
    names, indices = name.offsets_count - 1, name.indices if name.is_indexed else 0
    bodies, body_text, body_limit = payload.offsets, payload.text, payload.limit
    head_bytes, table_start = layout.head_bytes, layout.table_start
    code_at, time_at = table_start + layout.code, table_start + layout.time
    name_at, body_at = table_start + layout.name, table_start + layout.payload
    name_jump = head_bytes + 2 * _ID_VECTOR_BYTES - name_at
    at, until, slot, end = out + cursor, out + room, out + entry, out + head
    body = load_u32(bodies, 4 * row)
    while row < last:
        place = load_u32(indices, 4 * row) if indices != 0 else row
        if place >= names:
            break
        start, name_end = load_u32(name_offsets, 4 * place), load_u32(name_offsets, 4 * place + 4)
        name_bytes = name_end - start
        body_end = load_u32(bodies, 4 * row + 4)
        body_bytes = body_end - body
        if name_bytes < 0 or name_end > name_limit or body_bytes < 0 or body_end > body_limit:
            break
        if at + name_bytes + body_bytes + TEMPLATE_BYTES > until:
            break
        copy_32(at, 0, template, 0)
        copy_32(at, 32, template, 32)
        for step in range(0, 256, 64):
            prefetch_write(at, _AHEAD_BYTES + step)
        store_u32(slot, 0, at + table_start - slot)
        store_u8(at, code_at, load_u8(codes, row))
        store_u64(at, time_at, load_i64(times, 8 * row))
        store_u32(at, name_at, name_jump)
        field = at + body_at
        at += head_bytes
        store_u32(at, 0, ID_BYTES)
        copy_16(at, 4, one.text, ID_BYTES * row)
        store_u32(at, 20, ID_BYTES)
        copy_16(at, 24, two.text, ID_BYTES * row)
        store_u32(at, 40, name_bytes)
        copy_word(at, 44, name.text, start, name_bytes, name_limit)
        at += 44 + name_bytes
        store_u32(at, 0, 0)
        at += 1 + ((end - at - 1) & 3)
        store_u32(field, 0, at - field)
        store_u32(at, 0, body_bytes)
        copy_text(at, 4, body_text, body, body_bytes, body_limit)
        at += 4 + body_bytes
        store_u32(at, 0, 0)
        at += (end - at) & 3
        body, slot, row = body_end, slot + 4, row + 1
    return at - out, slot - out, row


@njit(nogil=True, cache=True, forceinline=True)
def _put_rows(
    out: int,
    cursor: int,
    entry: int,
    room: int,
    first: int,
    last: int,
    numbers: Any,
    columns: Any,
    in_all: int,
    templates: int,
    layout: EntryLayout,
    head: int,
) -> tuple[int, int]:
    """Write rows first..last of a message, which `last` ends: (end or a negative reason, row)."""
    codes, levels, times = numbers
    one, two, text, name, payload = columns
    for row in range(first, last):
        there = in_all if in_all >= 0 else _present(columns, row)
        text_start, text_bytes, name_start, name_bytes, body_start, body_bytes = 0, 0, 0, 0, 0, 0
        if there & HAS_TEXT:
            text_start, text_bytes = range_of(text, row)
        if there & HAS_NAME:
            name_start, name_bytes = range_of(name, row)
        if there & HAS_PAYLOAD:
            body_start, body_bytes = range_of(payload, row)
        if (text_bytes | name_bytes | body_bytes) < 0:
            return min(text_bytes, name_bytes, body_bytes), row
        if cursor + text_bytes + name_bytes + body_bytes + TEMPLATE_BYTES > room:
            return NO_ROOM, row
        for step in range(0, TEMPLATE_BYTES, 32):
            copy_32(out, cursor + step, templates, TEMPLATE_BYTES * there + step)
            prefetch_write(out, cursor + _AHEAD_BYTES + 2 * step)
        table = cursor + layout.table_start
        store_u32(out, entry, table - entry)
        store_u8(out, table + layout.code, load_u8(codes, row))
        if layout.level >= 0:
            store_u8(out, table + layout.level, load_u8(levels, row))
        store_u64(out, table + layout.time, load_i64(times, 8 * row))
        cursor += layout.head_bytes
        if there & HAS_FIRST:
            copy_16(out, cursor + 4, one.text, ID_BYTES * row)
            cursor += _ID_VECTOR_BYTES
        if there & HAS_SECOND:
            copy_16(out, cursor + 4, two.text, ID_BYTES * row)
            cursor += _ID_VECTOR_BYTES
        if there & HAS_TEXT:
            field = table + layout.text
            cursor = _put_text(out, field, cursor, text, text_start, text_bytes, head)
        if there & HAS_NAME:
            field = table + layout.name
            cursor = _put_text(out, field, cursor, name, name_start, name_bytes, head)
        if there & HAS_PAYLOAD:
            field = table + layout.payload
            cursor = _put_payload(out, field, cursor, payload, body_start, body_bytes)
        entry += 4
        if row + 1 < last or layout.pads_last:
            store_u32(out, cursor, 0)
            cursor += (head - cursor) & 3
    return cursor, last


@njit(nogil=True, cache=True)
def _put_message(
    out: int,
    at: int,
    room: int,
    first: int,
    last: int,
    numbers: Any,
    columns: Any,
    in_all: int,
    templates: int,
    layout: EntryLayout,
    head: int,
) -> tuple[int, int]:
    """Write rows first..last behind the envelope, which ends at `at`.

    `head` is where the message begins. Returns (end or a negative reason, row of it).
    """
    entry, cursor = at, at + 4 * (last - first)
    full = last if layout.pads_last else last - 1
    if first < full and in_all == _FULL and layout.level < 0 and not columns[4].is_indexed:
        template = templates + TEMPLATE_BYTES * in_all
        cursor, entry, first = _put_full_rows(
            out, cursor, entry, room, first, full, numbers, columns, template, layout, head
        )
    return _put_rows(
        out, cursor, entry, room, first, last, numbers, columns, in_all, templates, layout, head
    )


@njit(nogil=True, cache=True)
def encode_entries(
    codes: Any,
    levels: Any,
    times: Any,
    first_ids: Any,
    second_ids: Any,
    texts: Any,
    names: Any,
    payloads: Any,
    per_message: int,
    batch_id: int,
    frame: Any,
    templates: Any,
    layout: EntryLayout,
    out: Any,
    offsets: Any,
) -> tuple[int, int]:
    """Write all rows, `per_message` in each message, from the start of `out`.

    `codes` and `levels` are uint8, `times` int64, of one value a row. Fills `offsets` with
    where each record starts and the last one ends; message i has `batch_id` + i unless that
    is 0. Returns (bytes written or a negative reason, the row of it).
    """
    columns = (
        id_column_of(first_ids),
        id_column_of(second_ids),
        column_of(texts),
        column_of(names),
        column_of(payloads),
    )
    numbers = (address_of(codes), address_of(levels), address_of(times))
    in_all = _present_in_all(columns)
    to, room = address_of(out), len(out) - 2 * SLACK_BYTES
    prefix_bytes, envelope_bytes = len(frame.prefix), len(frame.envelope)
    prefix, envelope = address_of(frame.prefix), address_of(frame.envelope)
    rows, at, message = len(codes), 0, 0
    for first in range(0, rows, per_message):
        last = min(rows, first + per_message)
        offsets[message] = at
        if at + prefix_bytes + envelope_bytes + 4 * (last - first) > room:
            return NO_ROOM, first
        copy_bytes(to, at, prefix, 0, prefix_bytes)
        head = at + prefix_bytes
        copy_bytes(to, head, envelope, 0, envelope_bytes)
        if batch_id > 0:
            store_u64(to, head + frame.batch_id, batch_id + message)
        store_u32(to, head + envelope_bytes - 4, last - first)
        end, row = _put_message(
            to,
            head + envelope_bytes,
            room,
            first,
            last,
            numbers,
            columns,
            in_all,
            address_of(templates),
            layout,
            head,
        )
        if end < 0:
            return end, row
        store_u32(to, head + frame.data, end - head - frame.data - 4)
        store_u32_big(to, head - 4, end - head)
        at = end
        message += 1
    offsets[message] = at
    return at, rows
