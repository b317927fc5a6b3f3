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
TEMPLATE_COUNT: Final = 32
"""A template for each combination of fields that are there: the vtables differ."""

BAD_OFFSET: Final = -1
BAD_INDEX: Final = -2
NO_ROOM: Final = -3
"""Why nothing more was written; all are negative, the bytes of a string never."""


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


class Texts(NamedTuple):
    """A column of strings: row r is text[offsets[i]:offsets[i + 1]], i = r or indices[r].

    `valid` is an Arrow bitmap that begins at bit `valid_start`; empty if no row is null.
    `is_absent`: no row has one.
    """

    text: NDArray[np.uint8]
    offsets: NDArray[np.int32]
    indices: NDArray[np.int32]
    valid: NDArray[np.uint8]
    valid_start: int
    is_absent: bool


class Ids(NamedTuple):
    """A column of 16-byte ids, otherwise as Texts."""

    ids: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    valid_start: int
    is_absent: bool


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


class _Column(NamedTuple):
    text: int
    offsets: int
    offsets_count: int
    indices: int
    is_indexed: bool
    valid: int
    valid_start: int
    is_absent: bool
    limit: int
    end: int


@njit(nogil=True, cache=True)
def _column(texts: Any) -> _Column:
    return _Column(
        address_of(texts.text),
        address_of(texts.offsets),
        len(texts.offsets),
        address_of(texts.indices),
        len(texts.indices) > 0,
        address_of(texts.valid) if len(texts.valid) > 0 else 0,
        texts.valid_start,
        texts.is_absent,
        len(texts.text) - SLACK_BYTES,
        len(texts.text),
    )


@njit(nogil=True, cache=True)
def _id_column(ids: Any) -> _Column:
    return _Column(
        address_of(ids.ids),
        0,
        0,
        0,
        False,
        address_of(ids.valid) if len(ids.valid) > 0 else 0,
        ids.valid_start,
        ids.is_absent,
        0,
        len(ids.ids),
    )


@njit(nogil=True, cache=True, forceinline=True)
def _is_there(column: _Column, row: int) -> bool:
    if column.is_absent:
        return False
    if column.valid == 0:
        return True
    bit = column.valid_start + row
    return (load_u8(column.valid, bit >> 3) >> (bit & 7)) & 1 == 1


@njit(nogil=True, cache=True, forceinline=True)
def _range(column: _Column, row: int) -> tuple[int, int]:
    """(start, bytes) of the string of `row`; the bytes are a negative reason if wrong."""
    place = row
    if column.is_indexed:
        place = load_u32(column.indices, 4 * row)
        if place + 1 >= column.offsets_count:  # also what is negative as int32
            return 0, BAD_INDEX
    start = load_u32(column.offsets, 4 * place)
    end = load_u32(column.offsets, 4 * place + 4)
    if start > end or end > column.end:
        return 0, BAD_OFFSET
    return start, end - start


@njit(nogil=True, cache=True, forceinline=True)
def _present(columns: Any, row: int) -> int:
    """The HAS bits of a row."""
    one, two, text, name, payload = columns
    found = HAS_FIRST * _is_there(one, row) | HAS_SECOND * _is_there(two, row)
    found |= HAS_TEXT * _is_there(text, row) | HAS_NAME * _is_there(name, row)
    return found | HAS_PAYLOAD * _is_there(payload, row)


@njit(nogil=True, cache=True)
def _present_in_all(columns: Any) -> int:
    """The HAS bits that every row has, -1 if rows differ."""
    one, two, text, name, payload = columns
    if one.valid | two.valid | text.valid | name.valid | payload.valid:
        return -1
    return _present(columns, 0)


@njit(nogil=True, cache=True, forceinline=True)
def _put_text(
    out: int, field: int, cursor: int, column: _Column, start: int, count: int, end: int
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
def _put_payload(out: int, field: int, cursor: int, column: _Column, start: int, count: int) -> int:
    store_u32(out, field, cursor - field)
    store_u32(out, cursor, count)
    copy_text(out, cursor + 4, column.text, start, count, column.limit)
    return cursor + 4 + count


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
    codes, levels, times = numbers
    one, two, text, name, payload = columns
    entry, cursor = at, at + 4 * (last - first)
    for row in range(first, last):
        there = in_all if in_all >= 0 else _present(columns, row)
        text_start, text_bytes, name_start, name_bytes, body_start, body_bytes = 0, 0, 0, 0, 0, 0
        if there & HAS_TEXT:
            text_start, text_bytes = _range(text, row)
        if there & HAS_NAME:
            name_start, name_bytes = _range(name, row)
        if there & HAS_PAYLOAD:
            body_start, body_bytes = _range(payload, row)
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
        _id_column(first_ids),
        _id_column(second_ids),
        _column(texts),
        _column(names),
        _column(payloads),
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
