"""Format the messages of a batch as lines of text, straight from their bytes.

The fields of a line are in `text_fields.words`, how values are written in `escape`. A line is
written in one go where there is room for the most it can become; a line that may not fit into
an empty output is left to `text_long`. A message that does not decode becomes one raw line,
and none of its events.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.enums import RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels.count import count_message
from cdp_ray_sinks.batch.kernels.entries import (
    AUTO,
    EVENT_WIDTHS,
    LOG_WIDTHS,
    NO_LAYOUT,
    locate,
    read_event,
    read_log,
)
from cdp_ray_sinks.batch.kernels.escape import (
    AT_END,
    ESCAPE_FACTOR,
    HEX_ROOM_BYTES,
    IN_FIELD,
    VALUE_SLACK_BYTES,
    VECTOR_BYTES,
    put_bytes,
    put_value,
)
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    load_i64,
    load_u32,
    store_u8,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.rows import open_message
from cdp_ray_sinks.batch.kernels.tables import (
    OK,
    OVER_BUDGET,
    root_table,
    schema_of,
    vector,
    vtable_of,
)
from cdp_ray_sinks.batch.kernels.text_fields import (
    DATA,
    DATA_BYTES,
    LINE_FIXED_BYTES,
    LOG_LEVELS,
    MESSAGE_BYTES,
    NAME,
    RAW,
    SERVICE,
    SESSION,
    SOURCE,
    TIME,
    put_head,
    put_id,
    put_tail,
    put_time,
    put_whole_head,
    put_word,
    remember_record,
)

_EVENT: Final = int(SchemaType.EVENT)
_LOG: Final = int(SchemaType.LOG)
_METRIC: Final = int(SchemaType.METRIC)
_SNAPSHOT: Final = int(SchemaType.SNAPSHOT)
_DATA_SLOT: Final = 4
_NONE: Final[Any] = np.int64(-1)

MESSAGE: Final = 0
EVENT: Final = 1
FILLED: Final = 2
KIND: Final = 3
LINE_TIME: Final = 4
DEVICE_AT: Final = 5
SESSION_AT: Final = 6
VALUES: Final = 7
STAGE: Final = 13
POSITION: Final = 14
STATE_COUNT: Final = 15
"""The state, int64: the next message and the next event of it, bytes written; and of a long
line its kind, time, the places of its ids, up to three values as start and end (-1 if absent),
which of them is written, and up to where (-1: not begun)."""

DONE: Final = 0
FULL: Final = -1
LONG: Final = -2
"""Answers: all is written; go on with an empty output; go on with `text_long`."""

FREE_BYTES_MIN: Final = LINE_FIXED_BYTES + 3 * (HEX_ROOM_BYTES + VALUE_SLACK_BYTES)
"""Free room that any line needs, besides ESCAPE_FACTOR times the bytes of its values."""


@njit(nogil=True, cache=True)
def _keep_value(state: int, place: int, vector: int, count: int) -> None:
    start = vector + 4 if vector >= 0 else -1
    store_u64(state, 8 * (VALUES + 2 * place), start)
    store_u64(state, 8 * (VALUES + 2 * place + 1), start + count)


@njit(nogil=True, cache=True)
def _keep_line(state: int, kind: int, time: int, device: int, session: int) -> None:
    store_u64(state, 8 * KIND, kind)
    store_u64(state, 8 * LINE_TIME, time)
    store_u64(state, 8 * DEVICE_AT, device)
    store_u64(state, 8 * SESSION_AT, session)
    store_u64(state, 8 * STAGE, 0)
    store_u64(state, 8 * POSITION, -1)


@njit(nogil=True, cache=True)
def _event_lines(
    buffer: int,
    message: int,
    message_end: int,
    limit: int,
    fixed: int,
    memory: int,
    out: int,
    at: int,
    out_end: int,
    first: int,
    state: int,
) -> tuple[int, int, int]:
    """Write the lines of a message of events, from event `first` on.

    Returns (OK, FULL, LONG or what is wrong with the message, next event, where it ends).
    """
    status, rows, start, end, count, budget = open_message(buffer, message, message_end, _EVENT)
    if status != OK:
        return status, 0, at
    layout = NO_LAYOUT
    for place in range(first, count):
        status, table, layout = locate(
            buffer, rows + 4 + 4 * place, start, end, EVENT_WIDTHS, layout
        )
        if status != OK:
            return status, place, at
        found = read_event(buffer, table, end, AUTO, layout)
        status, taken, code, time, device, session, _, _ = found[:8]
        name, name_bytes, body, body_bytes = found[8:]
        budget -= taken
        if status != OK or budget < 0:
            return status if status != OK else OVER_BUDGET, place, at
        if at + FREE_BYTES_MIN + ESCAPE_FACTOR * (name_bytes + body_bytes) > out_end:
            _keep_line(state, code, time, device, session)
            _keep_value(state, 0, name, name_bytes)
            _keep_value(state, 1, body, body_bytes)
            return FULL if at > 0 else LONG, place, at
        at = put_head(out, at, fixed, memory, code)
        at = put_id(out, at, buffer, device)
        at = put_word(out, at, fixed, SESSION)
        at = put_id(out, at, buffer, session)
        at = put_word(out, at, fixed, NAME)
        at = put_value(out, at, buffer, name, name_bytes, limit, IN_FIELD)
        at = put_word(out, at, fixed, TIME)
        at = put_time(out, at, fixed, memory, time)
        at = put_tail(out, at, memory)
        at = put_value(out, at, buffer, body, body_bytes, limit, AT_END)
        store_u8(out, at, 0x0A)
        at += 1
    return OK, count, at


@njit(nogil=True, cache=True)
def _log_lines(
    buffer: int,
    message: int,
    message_end: int,
    limit: int,
    fixed: int,
    memory: int,
    out: int,
    at: int,
    out_end: int,
    first: int,
    state: int,
) -> tuple[int, int, int]:
    """Write the lines of a message of log entries; otherwise as `_event_lines`."""
    status, rows, start, end, count, budget = open_message(buffer, message, message_end, _LOG)
    if status != OK:
        return status, 0, at
    layout = NO_LAYOUT
    for place in range(first, count):
        status, table, layout = locate(buffer, rows + 4 + 4 * place, start, end, LOG_WIDTHS, layout)
        if status != OK:
            return status, place, at
        found = read_log(buffer, table, end, layout)
        status, taken, _, time, level, session = found[:6]
        source, source_bytes, service, service_bytes, body, body_bytes = found[6:]
        budget -= taken
        if status != OK or budget < 0:
            return status if status != OK else OVER_BUDGET, place, at
        values_bytes = source_bytes + service_bytes + body_bytes
        if at + FREE_BYTES_MIN + ESCAPE_FACTOR * values_bytes > out_end:
            _keep_line(state, LOG_LEVELS + level, time, _NONE, session)
            _keep_value(state, 0, source, source_bytes)
            _keep_value(state, 1, service, service_bytes)
            _keep_value(state, 2, body, body_bytes)
            return FULL if at > 0 else LONG, place, at
        at = put_head(out, at, fixed, memory, LOG_LEVELS + level)
        at = put_id(out, at, buffer, session)
        at = put_word(out, at, fixed, SOURCE)
        at = put_value(out, at, buffer, source, source_bytes, limit, IN_FIELD)
        at = put_word(out, at, fixed, SERVICE)
        at = put_value(out, at, buffer, service, service_bytes, limit, IN_FIELD)
        at = put_word(out, at, fixed, TIME)
        at = put_time(out, at, fixed, memory, time)
        at = put_tail(out, at, memory)
        at = put_value(out, at, buffer, body, body_bytes, limit, AT_END)
        store_u8(out, at, 0x0A)
        at += 1
    return OK, count, at


@njit(nogil=True, cache=True)
def _nested_data(buffer: int, start: int, end: int, schema_type: int) -> int:
    """Position of the count of the nested buffer of a message of that schema, or below 0."""
    if schema_of(buffer, start, end) != schema_type:
        return -1
    table = root_table(buffer, start, end)
    vtable = vtable_of(buffer, table, start, end)
    return vector(buffer, table, vtable, _DATA_SLOT, 1, end)


@njit(nogil=True, cache=True)
def _whole_line(
    buffer: int,
    start: int,
    end: int,
    kind: int,
    limit: int,
    fixed: int,
    memory: int,
    out: int,
    at: int,
    out_end: int,
    state: int,
) -> tuple[int, int]:
    """Write one line with buffer[start:end] as payload: (OK, FULL or LONG, where it ends)."""
    if at + FREE_BYTES_MIN + ESCAPE_FACTOR * (end - start) > out_end:
        _keep_line(state, kind, _NONE, _NONE, _NONE)
        store_u64(state, 8 * VALUES, start)
        store_u64(state, 8 * (VALUES + 1), end)
        return FULL if at > 0 else LONG, at
    word = MESSAGE_BYTES if kind == RAW else DATA_BYTES
    at = put_whole_head(out, at, fixed, memory, kind, word, end - start)
    at = put_bytes(out, at, buffer, start, end, limit, AT_END)
    store_u8(out, at, 0x0A)
    return OK, at + 1


@njit(nogil=True, cache=True)
def _message_lines(
    buffer: int,
    message: int,
    end: int,
    limit: int,
    schema_type: int,
    fixed: int,
    memory: int,
    out: int,
    at: int,
    out_end: int,
    first: int,
    state: int,
) -> tuple[int, int, int]:
    """Write the lines of one message: (OK, FULL or LONG, next event, where they end)."""
    begun = at
    if schema_type in (_EVENT, _LOG):
        if schema_type == _EVENT:
            status, event, at = _event_lines(
                buffer, message, end, limit, fixed, memory, out, at, out_end, first, state
            )
        else:
            status, event, at = _log_lines(
                buffer, message, end, limit, fixed, memory, out, at, out_end, first, state
            )
        if status <= OK:
            # What is handed over can't be taken back: first see that all of it decodes.
            is_partial = status != OK and first == 0 and (event > 0 or status == LONG)
            if not is_partial or count_message(buffer, message, end, schema_type)[0] == OK:
                return status, event, at
    elif _METRIC <= schema_type <= _SNAPSHOT:
        data = _nested_data(buffer, message, end, schema_type)
        if data >= 0:
            data_end = data + 4 + load_u32(buffer, data)
            kind = DATA + schema_type - _METRIC
            status, at = _whole_line(
                buffer, data + 4, data_end, kind, limit, fixed, memory, out, at, out_end, state
            )
            return status, 0, at
    status, at = _whole_line(
        buffer, message, end, RAW, limit, fixed, memory, out, begun, out_end, state
    )
    return status, 0, at


@njit(nogil=True, cache=True)
def format_lines(
    records: Any, offsets: Any, schema_type: int, fixed: Any, memory: Any, out: Any, state: Any
) -> int:
    """Write lines to out[state[FILLED]:], from event state[EVENT] of message state[MESSAGE] on.

    `records` and `offsets` are those of a batch; `fixed` is `text_fields.words()`, `memory`
    from `new_memory`. Returns DONE, FULL or LONG. A record that reaches outside of the batch
    has the raw line of an empty message.
    """
    buffer, bounds, out_at = address_of(records), address_of(offsets), address_of(out)
    fixed_at, memory_at, state_at = address_of(fixed), address_of(memory), address_of(state)
    limit, out_end = len(records) - VECTOR_BYTES, len(out)
    at = state[FILLED]
    for place in range(state[MESSAGE], len(offsets) - 1):
        record = load_i64(bounds, 8 * place)
        end = load_i64(bounds, 8 * place + 8)
        if record < 0 or record + RECORD_PREFIX_BYTES > end or end > len(records):
            record, end = 0, RECORD_PREFIX_BYTES
            if len(records) < RECORD_PREFIX_BYTES:
                continue
        remember_record(fixed_at, memory_at, buffer, record)
        status, event, at = _message_lines(
            buffer,
            record + RECORD_PREFIX_BYTES,
            end,
            limit,
            schema_type,
            fixed_at,
            memory_at,
            out_at,
            at,
            out_end,
            state[EVENT],
            state_at,
        )
        if status != OK:
            state[MESSAGE], state[EVENT], state[FILLED] = place, event, at
            return status
        state[EVENT] = 0
    state[MESSAGE], state[FILLED] = len(offsets) - 1, at
    return DONE
