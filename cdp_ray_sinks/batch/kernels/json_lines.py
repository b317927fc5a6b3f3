"""Lines of JSON to the columns that the encoder takes.

What a column has a place for goes there; everything else of a line goes into its payload,
an object, as the bytes that were sent. A value that does not fit its column (a device id that
is no UUID, a time that is no number) stays in the payload too, so nothing of a line is lost.

What the payload is made of is told in json_payload.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.json_members import (
    copy_string,
    key_hash,
    scan_members,
    unescape,
)
from cdp_ray_sinks.batch.kernels.json_payload import (
    ROLE_CONTEXT,
    ROLE_MERGE,
    ROLE_PAYLOAD,
    ROLE_TAKEN,
    put_payload,
    settle_roles,
)
from cdp_ray_sinks.batch.kernels.json_scan import (
    JSON_DEPTH_MAX,
    KIND_OBJECT,
    KIND_STRING,
    KIND_WORD,
    MEMBER_KEY,
    MEMBER_KEY_END,
    MEMBER_KIND,
    MEMBER_VALUE,
    MEMBER_VALUE_END,
    MEMBER_VALUE_ESCAPED,
    SCAN_NO_TYPE,
    SCAN_OK,
    SCAN_TRAILING,
    name_hash,
    skip_space,
)
from cdp_ray_sinks.batch.kernels.json_values import (
    NOT_THERE,
    event_type_of,
    level_of,
    log_type_of,
    put_id,
    time_of,
)
from cdp_ray_sinks.batch.kernels.memory import address_of, load_u8, store_u8, store_u64

LINES_FULL = 1
"""There are more lines with something in them than rows."""

PROBLEM_LINE, PROBLEM_STATUS, PROBLEM_BYTE, PROBLEM_FROM, PROBLEM_TO = 0, 1, 2, 3, 4
PROBLEM_COLUMNS = 5
"""Line from 1 on, SCAN_*, byte in the line from 1 on, and where a key that is twice lies."""

_TYPE, _LEVEL, _TIME, _DEVICE, _SESSION, _TEXT, _NAME = 1, 2, 3, 4, 5, 6, 7
"""What a member is for, besides the ROLE_* of json_payload."""
_TRACK_EVENT, _LOG_ENTRY, _INFO_LEVEL = 1, 1, 6

_KEY_TYPE, _KEY_EVENT = name_hash(b"type"), name_hash(b"event")
_KEY_SERVICE, _KEY_SOURCE = name_hash(b"service"), name_hash(b"source")
_KEY_DEVICE, _KEY_SESSION = name_hash(b"device_id"), name_hash(b"session_id")
_KEY_TIME, _KEY_LEVEL = name_hash(b"timestamp"), name_hash(b"level")
_KEY_PROPERTIES, _KEY_TRAITS = name_hash(b"properties"), name_hash(b"traits")
_KEY_CONTEXT, _KEY_DATA = name_hash(b"context"), name_hash(b"data")
_NULL, _LINE_FEED = 0x6E, 0x0A
_WORD_AT = 64
"""Where in the scratch bytes a word is unescaped: before it, its lower case has room."""


class RowPlaces(NamedTuple):
    """Where the columns of rows lie, as addresses."""

    codes: int
    levels: int
    times: int
    devices: int
    sessions: int
    device_valid: int
    session_valid: int
    texts: int
    text_valid: int
    names: int
    name_valid: int
    payloads: int
    scratch: int
    received_at_ms: int


@njit(nogil=True, cache=True)
def _role_of(key: Any, is_log: bool) -> int:
    if key == _KEY_TYPE:
        return _TYPE
    if key == _KEY_TIME:
        return _TIME
    if key == _KEY_SESSION:
        return _SESSION
    if key == _KEY_SERVICE:
        return _NAME if is_log else _TEXT
    if is_log:
        if key == _KEY_LEVEL:
            return _LEVEL
        if key == _KEY_SOURCE:
            return _TEXT
        return ROLE_MERGE if key == _KEY_DATA else ROLE_PAYLOAD
    if key == _KEY_EVENT:
        return _NAME
    if key == _KEY_DEVICE:
        return _DEVICE
    if key in (_KEY_PROPERTIES, _KEY_TRAITS):
        return ROLE_MERGE
    return ROLE_CONTEXT if key == _KEY_CONTEXT else ROLE_PAYLOAD


@njit(nogil=True, cache=True, forceinline=True)
def _set_valid(valid: int, row: int) -> None:
    store_u8(valid, row >> 3, load_u8(valid, row >> 3) | (1 << (row & 7)))


@njit(nogil=True, cache=True)
def _forget_row(to: RowPlaces, row: int) -> None:
    """Make a row that was begun as if it had not been."""
    keep = 0xFF ^ (1 << (row & 7))
    for valid in (to.device_valid, to.session_valid, to.text_valid, to.name_valid):
        store_u8(valid, row >> 3, load_u8(valid, row >> 3) & keep)


@njit(nogil=True, cache=True)
def _put_word(
    text: int,
    start: int,
    end: int,
    is_escaped: bool,
    role: int,
    row: int,
    is_log: bool,
    to: RowPlaces,
) -> bool:
    """Put a string into the column of its type, level or id; False if it stays as well."""
    if role == _TYPE:
        word = key_hash(text, start, end, is_escaped, to.scratch)
        code = log_type_of(word) if is_log else event_type_of(word)
        if code != NOT_THERE:
            store_u8(to.codes, row, code)
        return code != NOT_THERE
    if is_escaped:
        end = unescape(text, start, end, to.scratch, _WORD_AT) - _WORD_AT
        text, start = to.scratch + _WORD_AT, 0
    if role == _LEVEL:
        level, is_own_name = level_of(text, start, end, to.scratch)
        if level != NOT_THERE:
            store_u8(to.levels, row, level)
        return is_own_name
    ids = to.devices if role == _DEVICE else to.sessions
    if not put_id(text, start, end, ids, 16 * row):
        return start == end
    _set_valid(to.device_valid if role == _DEVICE else to.session_valid, row)
    return True


@njit(nogil=True, cache=True)
def _take_columns(
    text: int,
    members: Any,
    hashes: Any,
    roles: Any,
    count: int,
    row: int,
    is_log: bool,
    to: RowPlaces,
    ends: Any,
) -> None:
    """Fill the columns of a row; `roles` then says what becomes of each member."""
    for place in range(count):
        role = _role_of(hashes[place], is_log)
        if role == ROLE_PAYLOAD:
            roles[place] = ROLE_PAYLOAD
            continue
        kind = members[place, MEMBER_KIND]
        start, end = members[place, MEMBER_VALUE], members[place, MEMBER_VALUE_END]
        if role in (ROLE_MERGE, ROLE_CONTEXT):
            roles[place] = role if kind == KIND_OBJECT else ROLE_PAYLOAD
            continue
        is_taken = kind == KIND_WORD and load_u8(text, start) == _NULL
        is_escaped = members[place, MEMBER_VALUE_ESCAPED] == 1
        if role == _TIME:
            time_ms = time_of(text, start, end, kind)
            if time_ms != NOT_THERE:
                store_u64(to.times, 8 * row, time_ms)
                is_taken = True
        elif kind == KIND_STRING and role == _TEXT:
            ends[0] = copy_string(text, start + 1, end - 1, is_escaped, to.texts, ends[0])
            _set_valid(to.text_valid, row)
            is_taken = True
        elif kind == KIND_STRING and role == _NAME:
            ends[1] = copy_string(text, start + 1, end - 1, is_escaped, to.names, ends[1])
            _set_valid(to.name_valid, row)
            is_taken = True
        elif kind == KIND_STRING:
            is_taken = _put_word(text, start + 1, end - 1, is_escaped, role, row, is_log, to)
        roles[place] = ROLE_TAKEN if is_taken else ROLE_PAYLOAD


@njit(nogil=True, cache=True)
def _take_line(
    text: int,
    position: int,
    end: int,
    row: int,
    is_log: bool,
    to: RowPlaces,
    ends: Any,
    tables: Any,
    found: Any,
) -> tuple[int, int]:
    """One line into one row: (position behind it or of what is wrong, SCAN_*).

    `found` gets where the key lies for SCAN_DUPLICATE.
    """
    members, hashes, roles, kept, counts = tables
    start = position
    position, status, count = scan_members(
        text, position, end, JSON_DEPTH_MAX, members, hashes, 0, to.scratch
    )
    found[0], found[1] = members[0, MEMBER_KEY], members[0, MEMBER_KEY_END]
    if status != SCAN_OK:
        return position, status
    position = skip_space(text, position, end)
    if position < end and load_u8(text, position) != _LINE_FEED:
        return position, SCAN_TRAILING
    text_end, name_end = ends[0], ends[1]
    store_u8(to.codes, row, _LOG_ENTRY if is_log else 0)
    store_u8(to.levels, row, _INFO_LEVEL)
    store_u64(to.times, 8 * row, to.received_at_ms)
    _take_columns(text, members, hashes, roles, count, row, is_log, to, ends)
    code = load_u8(to.codes, row)
    if code == 0 and ends[1] > name_end:
        code = _TRACK_EVENT
        store_u8(to.codes, row, code)
    status, place = SCAN_NO_TYPE, 0
    if code > 0:
        status, place = settle_roles(
            text, members, hashes, roles, count, code, kept, counts, to.scratch
        )
    if status != SCAN_OK:
        ends[0], ends[1] = text_end, name_end
        _forget_row(to, row)
        if status == SCAN_NO_TYPE:
            return start, status
        found[0], found[1] = members[place, MEMBER_KEY], members[place, MEMBER_KEY_END]
        return found[0], status
    ends[2] = put_payload(text, members, roles, count, to.payloads, ends[2])
    return position, SCAN_OK


@njit(nogil=True, cache=True)
def _line_end(text: int, position: int, end: int) -> int:
    while position < end and load_u8(text, position) != _LINE_FEED:
        position += 1
    return position


@njit(nogil=True, cache=True)
def read_lines(
    body: Any,
    end: int,
    received_at_ms: int,
    is_log: bool,
    rows_max: int,
    columns: Any,
    tables: Any,
    scratch: Any,
    problems: Any,
) -> tuple[int, int, int]:
    """Read the lines of body[:end], behind which lie SCAN_SLACK_BYTES.

    `columns`: codes u8, levels u8, times i64, devices u8[16 a row], sessions likewise, then
    their two bitmaps, then for texts, names and payloads each bytes, offsets i32 and bitmap;
    bitmaps are zeros at first. `rows_max` lines with something in them have room.
    Returns (rows filled, rows of `problems` filled, LINES_FULL or 0).
    """
    (codes, levels, times, devices, sessions, device_valid, session_valid,
     texts, text_offsets, text_valid, names, name_offsets, name_valid,
     payloads, payload_offsets, payload_valid) = columns  # fmt: skip
    to = RowPlaces(
        address_of(codes), address_of(levels), address_of(times), address_of(devices),
        address_of(sessions), address_of(device_valid), address_of(session_valid),
        address_of(texts), address_of(text_valid), address_of(names), address_of(name_valid),
        address_of(payloads), address_of(scratch), received_at_ms,
    )  # fmt: skip
    ends, found = np.zeros(3, np.int64), np.zeros(2, np.int64)
    text, valid = address_of(body), address_of(payload_valid)
    rows, wrong, line, position = 0, 0, 0, 0
    text_offsets[0] = name_offsets[0] = payload_offsets[0] = 0
    while position < end:
        line += 1
        start = position
        position = skip_space(text, position, end)
        if position < end and load_u8(text, position) != _LINE_FEED:
            if rows + wrong == rows_max:
                return rows, wrong, LINES_FULL
            before = ends[2]
            position, status = _take_line(
                text, position, end, rows, is_log, to, ends, tables, found
            )
            if status == SCAN_OK:
                if ends[2] > before:
                    _set_valid(valid, rows)
                rows += 1
                text_offsets[rows], name_offsets[rows] = ends[0], ends[1]
                payload_offsets[rows] = ends[2]
            else:
                problems[wrong, PROBLEM_LINE], problems[wrong, PROBLEM_STATUS] = line, status
                problems[wrong, PROBLEM_BYTE] = position - start + 1
                problems[wrong, PROBLEM_FROM], problems[wrong, PROBLEM_TO] = found[0], found[1]
                wrong += 1
                position = _line_end(text, max(position, start), end)
        position += 1
    return rows, wrong, 0
