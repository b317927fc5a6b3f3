"""Decode the log entries of a batch into columns; works as `decode_events` does."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels.entries import LOG_WIDTHS, NO_LAYOUT, locate, read_log
from cdp_ray_sinks.batch.kernels.memory import address_of, load_i64, store_u8, store_u64
from cdp_ray_sinks.batch.kernels.rows import (
    DONE,
    MESSAGE,
    MORE_PAYLOAD,
    MORE_ROWS,
    MORE_SERVICE,
    MORE_SOURCE,
    ROWS,
    SLACK_BYTES,
    append_text,
    copy_id,
    fill_record_columns,
    note_damage,
    open_message,
)
from cdp_ray_sinks.batch.kernels.tables import BAD_RECORD, OK, OVER_BUDGET

_LOG: Final = int(SchemaType.LOG)

HAS_SESSION: Final = 0
HAS_SOURCE: Final = 1
HAS_SERVICE: Final = 2
HAS_PAYLOAD: Final = 3
"""Bits of `present`."""


class LogColumns(NamedTuple):
    """Outputs for so many rows, as in EventColumns."""

    event_type: NDArray[np.uint8]
    level: NDArray[np.uint8]
    timestamp: NDArray[np.int64]
    present: NDArray[np.uint8]
    session_id: NDArray[np.uint8]
    source_offsets: NDArray[np.int32]
    source: NDArray[np.uint8]
    service_offsets: NDArray[np.int32]
    service: NDArray[np.uint8]
    payload_offsets: NDArray[np.int32]
    payload: NDArray[np.uint8]


class _Places(NamedTuple):
    """Addresses of the arrays of LogColumns, and their room."""

    rows_max: int
    event_type: int
    level: int
    timestamp: int
    present: int
    session_id: int
    sources: int
    source: int
    source_end: int
    services: int
    service: int
    service_end: int
    payloads: int
    payload: int
    payload_end: int


@njit(nogil=True, cache=True)
def _places(columns: Any) -> _Places:
    return _Places(
        len(columns.event_type),
        address_of(columns.event_type),
        address_of(columns.level),
        address_of(columns.timestamp),
        address_of(columns.present),
        address_of(columns.session_id),
        address_of(columns.source_offsets),
        address_of(columns.source),
        len(columns.source),
        address_of(columns.service_offsets),
        address_of(columns.service),
        len(columns.service),
        address_of(columns.payload_offsets),
        address_of(columns.payload),
        len(columns.payload),
    )


@njit(nogil=True, cache=True)
def _decode_message(
    buffer: int, message: int, message_end: int, limit: int, to: _Places, row: int
) -> tuple[int, int, int]:
    """Append the rows of one message behind `row` rows.

    Returns (status or what is lacking, where a check failed, number of rows then).
    """
    status, at, start, end, count, budget = open_message(buffer, message, message_end, _LOG)
    if status != OK:
        return status, at, row
    if row + count > to.rows_max:
        return MORE_ROWS, 0, row
    layout = NO_LAYOUT
    for place in range(count):
        status, table, layout = locate(buffer, at + 4 + 4 * place, start, end, LOG_WIDTHS, layout)
        if status != OK:
            return status, table, row
        (
            status,
            taken,
            code,
            time,
            level,
            session,
            source,
            source_bytes,
            service,
            service_bytes,
            body,
            body_bytes,
        ) = read_log(buffer, table, end, layout)
        budget -= taken
        if status != OK or budget < 0:
            return status if status != OK else OVER_BUDGET, table, row
        store_u8(to.event_type, row, code)
        store_u8(to.level, row, level)
        store_u64(to.timestamp, 8 * row, time)
        found = copy_id(to.session_id, row, buffer, session) << HAS_SESSION
        found |= (source >= 0) << HAS_SOURCE
        found |= (service >= 0) << HAS_SERVICE
        found |= (body >= 0) << HAS_PAYLOAD
        store_u8(to.present, row, found)
        if not append_text(
            buffer, source, source_bytes, row, to.sources, to.source, to.source_end, limit, False
        ):
            return MORE_SOURCE, 0, row
        if not append_text(
            buffer,
            service,
            service_bytes,
            row,
            to.services,
            to.service,
            to.service_end,
            limit,
            False,
        ):
            return MORE_SERVICE, 0, row
        if not append_text(
            buffer, body, body_bytes, row, to.payloads, to.payload, to.payload_end, limit, True
        ):
            return MORE_PAYLOAD, 0, row
        row += 1
    return OK, 0, row


@njit(nogil=True, cache=True)
def decode_logs(records: Any, offsets: Any, columns: Any, common: Any, state: Any) -> int:
    """Decode from message state[MESSAGE] on; `state` holds the rows so far.

    `records` and `offsets` are those of a batch. Returns DONE or which output must grow.
    """
    index, received, source_ip, damage = common
    to = _places(columns)
    buffer, source_ip_at = address_of(records), address_of(source_ip)
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
            buffer, record + RECORD_PREFIX_BYTES, end, limit, to, first
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
