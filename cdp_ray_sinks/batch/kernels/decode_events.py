"""Decode the events of a batch into columns, in one pass over its bytes.

Rows are appended while they are verified; a message that turns out damaged is taken back
whole, so it leaves no row and its neighbours stand. The kernel never allocates: when an
output is full it stops before the message that does not fit and says what it lacks, and
goes on from there when called again with larger outputs.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from cdp_ray_sinks.batch.enums import RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels.entries import EVENT_WIDTHS, NO_LAYOUT, locate, read_event
from cdp_ray_sinks.batch.kernels.event_columns import (
    HAS_DEVICE,
    HAS_NAME,
    HAS_PAYLOAD,
    HAS_SERVICE,
    HAS_SESSION,
    Places,
    places_of,
)
from cdp_ray_sinks.batch.kernels.event_run import AHEAD_BYTES, decode_run, run_order
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

_TRIES: Final = 4
"""After so many entries of a message that no run began with, the rest go one by one."""


@njit(nogil=True, cache=True, forceinline=True)
def _append_name(
    buffer: int, name: int, count: int, row: int, to: Places, limit: int, state: int
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
def _append_texts(
    buffer: int,
    name: int,
    name_bytes: int,
    served: int,
    served_bytes: int,
    body: int,
    body_bytes: int,
    row: int,
    to: Places,
    limit: int,
    plain: bool,
    state: int,
) -> int:
    """Set name, service and payload of `row`; OK or what is lacking."""
    if plain:
        if not append_text(
            buffer, name, name_bytes, row, to.names, to.text, to.text_end, limit, False
        ):
            return MORE_NAMES
    else:
        lacking = _append_name(buffer, name, name_bytes, row, to, limit, state)
        if lacking != OK:
            return lacking
    if not append_text(
        buffer, served, served_bytes, row, to.services, to.service, to.service_end, limit, False
    ):
        return MORE_SERVICE
    if not append_text(
        buffer, body, body_bytes, row, to.payloads, to.payload, to.payload_end, limit, True
    ):
        return MORE_PAYLOAD
    return OK


@njit(nogil=True, cache=True)
def _decode_message(
    buffer: int,
    message: int,
    message_end: int,
    limit: int,
    dialect: int,
    plain: bool,
    to: Places,
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
    layout, place, tries = NO_LAYOUT, 0, 0 if plain else _TRIES
    while place < count:
        status, table, layout = locate(buffer, at + 4 + 4 * place, start, end, EVENT_WIDTHS, layout)
        if status != OK:
            return status, table, row
        entry = read_event(buffer, table, end, dialect, layout)
        status, taken, code, time, device, session = entry[:6]
        served, served_bytes, name, name_bytes, body, body_bytes = entry[6:]
        budget -= taken
        if status != OK or budget < 0:
            return status if status != OK else OVER_BUDGET, table, row
        store_u8(to.event_type, row, code)
        store_u64(to.timestamp, 8 * row, time)
        found = copy_id(to.device_id, row, buffer, device) << HAS_DEVICE
        found |= copy_id(to.session_id, row, buffer, session) << HAS_SESSION
        found |= (name >= 0) << HAS_NAME
        found |= (served >= 0) << HAS_SERVICE
        found |= (body >= 0) << HAS_PAYLOAD
        store_u8(to.present, row, found)
        lacking = _append_texts(
            buffer,
            name,
            name_bytes,
            served,
            served_bytes,
            body,
            body_bytes,
            row,
            to,
            limit,
            plain,
            state,
        )
        if lacking != OK:
            return lacking, 0, row
        for line in range(0, 256, 64):
            prefetch_read(buffer, table + AHEAD_BYTES + line)
        row += 1
        place += 1
        if tries > 0 and place < count:
            order, before, entries = run_order(layout, dialect), row, at + 4
            if order >= 0:
                place, row, budget = decode_run(
                    buffer, entries, place, count, start, end, limit, budget, row, layout, order, to
                )
            tries = _TRIES if row > before else tries - 1
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
    to = places_of(columns, table)
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
