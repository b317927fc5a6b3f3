"""Decode the events of a batch into columns, in one pass over its bytes.

Rows are appended while they are verified; a message that turns out damaged is taken back
whole, so it leaves no row and its neighbours stand. The kernel never allocates: when an
output is full it stops before the message that does not fit and says what it lacks, and
goes on from there when called again with larger outputs.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels.entries import EVENT_WIDTHS, NO_LAYOUT, locate, read_event
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    load_i64,
    prefetch_read,
    store_u8,
    store_u32,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.names import NAMES_FULL, name_index
from cdp_ray_sinks.batch.kernels.rows import (
    DONE,
    MESSAGE,
    MORE_NAMES,
    MORE_PAYLOAD,
    MORE_ROWS,
    MORE_SERVICE,
    NAMES,
    NO_DICTIONARY,
    ROWS,
    SLACK_BYTES,
    append_text,
    copy_id,
    fill_record_columns,
    note_damage,
    open_message,
)
from cdp_ray_sinks.batch.kernels.tables import BAD_RECORD, OK, OVER_BUDGET

_EVENT: Final = int(SchemaType.EVENT)

_AHEAD_BYTES: Final = 2048

HAS_DEVICE: Final = 0
HAS_SESSION: Final = 1
HAS_NAME: Final = 2
HAS_SERVICE: Final = 3
HAS_PAYLOAD: Final = 4
"""Bits of `present`."""


class EventColumns(NamedTuple):
    """Outputs for so many rows; the offsets have one more value and start with 0.

    `device_id` and `session_id` have 16 bytes a row. `names` holds each row's number in
    the dictionary, or, when names are decoded plain, one offset more than rows. `service`
    and `payload` need SLACK_BYTES behind what is used.
    """

    event_type: NDArray[np.uint8]
    timestamp: NDArray[np.int64]
    present: NDArray[np.uint8]
    device_id: NDArray[np.uint8]
    session_id: NDArray[np.uint8]
    names: NDArray[np.int32]
    service_offsets: NDArray[np.int32]
    service: NDArray[np.uint8]
    payload_offsets: NDArray[np.int32]
    payload: NDArray[np.uint8]


class NameTable(NamedTuple):
    """The dictionary of names: see `names.name_index`. Plain names use only `text`."""

    slots: NDArray[np.int32]
    keys: NDArray[np.uint64]
    offsets: NDArray[np.int32]
    text: NDArray[np.uint8]


class _Places(NamedTuple):
    """Addresses of the arrays of EventColumns and NameTable, and their room."""

    rows_max: int
    event_type: int
    timestamp: int
    present: int
    device_id: int
    session_id: int
    names: int
    services: int
    service: int
    service_end: int
    payloads: int
    payload: int
    payload_end: int
    slots: int
    keys: int
    name_offsets: int
    text: int
    text_end: int


@njit(nogil=True, cache=True)
def _places(columns: Any, table: Any) -> _Places:
    return _Places(
        len(columns.event_type),
        address_of(columns.event_type),
        address_of(columns.timestamp),
        address_of(columns.present),
        address_of(columns.device_id),
        address_of(columns.session_id),
        address_of(columns.names),
        address_of(columns.service_offsets),
        address_of(columns.service),
        len(columns.service),
        address_of(columns.payload_offsets),
        address_of(columns.payload),
        len(columns.payload),
        address_of(table.slots),
        address_of(table.keys),
        address_of(table.offsets),
        address_of(table.text),
        len(table.text),
    )


@njit(nogil=True, cache=True, forceinline=True)
def _append_name(
    buffer: int, name: int, count: int, row: int, to: _Places, limit: int, state: int
) -> int:
    """Set the dictionary index of `row`; OK or what is lacking."""
    if name < 0:
        store_u32(to.names, 4 * row, 0)
        return OK
    known = load_i64(state, 8 * NAMES)
    found = name_index(
        buffer,
        name + 4,
        count,
        limit,
        to.slots,
        to.keys,
        to.name_offsets,
        to.text,
        to.text_end,
        known,
    )
    if found < 0:
        return NO_DICTIONARY if found == NAMES_FULL else MORE_NAMES
    if found == known:
        store_u64(state, 8 * NAMES, known + 1)
    store_u32(to.names, 4 * row, found)
    return OK


@njit(nogil=True, cache=True, forceinline=True)
def _fetch_ahead(buffer: int, position: int) -> None:
    """Fetch the bytes of an event to come: the hardware by itself stops at each page."""
    for line in range(0, 256, 64):
        prefetch_read(buffer, position + line)


@njit(nogil=True, cache=True)
def _decode_message(
    buffer: int,
    message: int,
    message_end: int,
    limit: int,
    dialect: int,
    plain: bool,
    to: _Places,
    state: int,
) -> tuple[int, int, int]:
    """Append the rows of one message behind state[ROWS], which stays as it is.

    Returns (status or what is lacking, where a check failed, number of rows then).
    """
    status, at, start, end, count, budget = open_message(buffer, message, message_end, _EVENT)
    row = load_i64(state, 8 * ROWS)
    if status != OK:
        return status, at, row
    if row + count > to.rows_max:
        return MORE_ROWS, 0, row
    layout = NO_LAYOUT
    for place in range(count):
        status, table, layout = locate(buffer, at + 4 + 4 * place, start, end, EVENT_WIDTHS, layout)
        if status != OK:
            return status, table, row
        (
            status,
            taken,
            code,
            time,
            device,
            session,
            served,
            served_bytes,
            name,
            name_bytes,
            body,
            body_bytes,
        ) = read_event(buffer, table, end, dialect, layout)
        budget -= taken
        if status != OK or budget < 0:
            return status if status != OK else OVER_BUDGET, table, row
        _fetch_ahead(buffer, table + _AHEAD_BYTES)
        store_u8(to.event_type, row, code)
        store_u64(to.timestamp, 8 * row, time)
        found = copy_id(to.device_id, row, buffer, device) << HAS_DEVICE
        found |= copy_id(to.session_id, row, buffer, session) << HAS_SESSION
        found |= (name >= 0) << HAS_NAME
        found |= (served >= 0) << HAS_SERVICE
        found |= (body >= 0) << HAS_PAYLOAD
        store_u8(to.present, row, found)
        if plain:
            if not append_text(
                buffer, name, name_bytes, row, to.names, to.text, to.text_end, limit, False
            ):
                return MORE_NAMES, 0, row
        else:
            lacking = _append_name(buffer, name, name_bytes, row, to, limit, state)
            if lacking != OK:
                return lacking, 0, row
        if not append_text(
            buffer, served, served_bytes, row, to.services, to.service, to.service_end, limit, False
        ):
            return MORE_SERVICE, 0, row
        if not append_text(
            buffer, body, body_bytes, row, to.payloads, to.payload, to.payload_end, limit, True
        ):
            return MORE_PAYLOAD, 0, row
        row += 1
    return OK, 0, row


@njit(nogil=True, cache=True)
def decode_events(
    records: Any,
    offsets: Any,
    dialect: int,
    plain: bool,
    columns: Any,
    table: Any,
    common: Any,
    state: Any,
) -> int:
    """Decode from message state[MESSAGE] on; `state` holds the rows so far.

    `records` and `offsets` are those of a batch. Returns DONE, which output must grow,
    or NO_DICTIONARY (start again with `plain`).
    """
    index, received, source_ip, damage = common
    to = _places(columns, table)
    buffer, source_ip_at, state_at = address_of(records), address_of(source_ip), address_of(state)
    bounds, limit = address_of(offsets), len(records) - SLACK_BYTES
    for message in range(state[MESSAGE], len(offsets) - 1):
        state[MESSAGE] = message
        first = state[ROWS]
        record = load_i64(bounds, 8 * message)
        end = load_i64(bounds, 8 * message + 8)
        if record < 0 or record + RECORD_PREFIX_BYTES > end or end > len(records):
            note_damage(damage, state, message, BAD_RECORD, 0)
            continue
        status, at, row = _decode_message(
            buffer, record + RECORD_PREFIX_BYTES, end, limit, dialect, plain, to, state_at
        )
        if status < 0:
            return status
        if status != OK:
            note_damage(damage, state, message, status, at)
            continue
        fill_record_columns(buffer, record, message, first, row, index, received, source_ip_at)
        state[ROWS] = row
    state[MESSAGE] = len(offsets) - 1
    return DONE
