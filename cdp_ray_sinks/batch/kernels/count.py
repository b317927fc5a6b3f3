"""How many events a message holds, of which types and times, without decoding them."""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from cdp_ray_sinks.batch.enums import NO_TIME_MS, SchemaType
from cdp_ray_sinks.batch.kernels.entries import AUTO, TIME_MAX, read_event, read_log, read_time
from cdp_ray_sinks.batch.kernels.memory import load_u32
from cdp_ray_sinks.batch.kernels.tables import (
    BAD_FIELD,
    BAD_TABLE,
    BUDGET_FACTOR,
    INVALID,
    OK,
    OVER_BUDGET,
    ROW_BUDGET_BYTES,
    WRONG_SCHEMA,
    field,
    rows_of,
    table_at,
    vtable_of,
)

_EVENT: Final = int(SchemaType.EVENT)
_LOG: Final = int(SchemaType.LOG)
_METRIC: Final = int(SchemaType.METRIC)
_TRACE: Final = int(SchemaType.TRACE)
_SNAPSHOT: Final = int(SchemaType.SNAPSHOT)
_EVENT_TYPE_MAX: Final = 6
_NANOSECONDS_A_MS: Final = 1_000_000


@njit(nogil=True, cache=True)
def _event_row(buffer: Any, entry: int, start: int, end: int) -> tuple[int, int, int, int]:
    """(status, time, event type bit, vector bytes) of one event."""
    status, _, taken, kind, time, _, _, _, _, _ = read_event(buffer, entry, start, end, AUTO)
    if status != OK:
        return status, 0, 0, 0
    bit = 1
    if kind >= 0 and buffer[kind] <= _EVENT_TYPE_MAX:
        bit = 1 << buffer[kind]
    return OK, read_time(buffer, time), bit, taken


@njit(nogil=True, cache=True)
def _log_row(buffer: Any, entry: int, start: int, end: int) -> tuple[int, int, int, int]:
    status, _, taken, _, time, _, _, _, _, _ = read_log(buffer, entry, start, end)
    if status != OK:
        return status, 0, 0, 0
    return OK, read_time(buffer, time), 0, taken


@njit(nogil=True, cache=True)
def _other_row(
    buffer: Any, entry: int, start: int, end: int, time_slot: int
) -> tuple[int, int, int, int]:
    """One metric, span or snapshot: only its table and its time are looked at."""
    table = table_at(buffer, entry, end)
    if table < 0:
        return BAD_TABLE, 0, 0, 0
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, 0, 0, 0
    time = field(buffer, table, vtable, time_slot, 8, end)
    if time == INVALID:
        return BAD_FIELD, 0, 0, 0
    return OK, read_time(buffer, time), 0, 0


@njit(nogil=True, cache=True)
def count_message(
    buffer: Any, start: int, end: int, schema_type: int
) -> tuple[int, int, int, int, int]:
    """What the message buffer[start:end] of `schema_type` holds.

    Returns (status, event count, event-type mask, earliest and latest time in ms). The
    status is OK exactly if the decoder of that schema takes an EVENT or LOG message; of
    the other schemas only tables and times are checked. Times that are absent or 0 are
    not counted; both are NO_TIME_MS if no entry has one. A status that is not OK comes
    with zeros. Needs 0 <= start <= end <= len(buffer).
    """
    if schema_type < _EVENT or schema_type > _SNAPSHOT:
        return WRONG_SCHEMA, 0, 0, NO_TIME_MS, NO_TIME_MS
    status, rows, inner, inner_end = rows_of(buffer, start, end)
    if status != OK:
        return status, 0, 0, NO_TIME_MS, NO_TIME_MS
    count = load_u32(buffer, rows)
    budget = BUDGET_FACTOR * (end - start) - ROW_BUDGET_BYTES * count
    types, earliest, latest = 0, TIME_MAX, 0
    time_slot = 3 if schema_type == _TRACE else 1 if schema_type == _METRIC else 0
    for row in range(count):
        entry = rows + 4 + 4 * row
        if schema_type == _EVENT:
            status, time, bit, taken = _event_row(buffer, entry, inner, inner_end)
        elif schema_type == _LOG:
            status, time, bit, taken = _log_row(buffer, entry, inner, inner_end)
        else:
            status, time, bit, taken = _other_row(buffer, entry, inner, inner_end, time_slot)
        budget -= taken
        if status != OK or budget < 0:
            break
        types |= bit
        if time > 0:
            earliest, latest = min(earliest, time), max(latest, time)
    if status != OK or budget < 0:
        return status if status != OK else OVER_BUDGET, 0, 0, NO_TIME_MS, NO_TIME_MS
    if latest == 0:
        return OK, count, types, NO_TIME_MS, NO_TIME_MS
    if time_slot > 0:
        return OK, count, types, earliest // _NANOSECONDS_A_MS, latest // _NANOSECONDS_A_MS
    return OK, count, types, earliest, latest


@njit(nogil=True, cache=True)
def count_records(records: Any, offsets: Any, schema_type: int, counted: Any) -> None:
    """`count_message` of every record; `counted` is int64[messages, 5]."""
    for message in range(len(offsets) - 1):
        start, end = int(offsets[message]) + 28, int(offsets[message + 1])
        found = count_message(records, start, end, schema_type)
        for column in range(5):
            counted[message, column] = found[column]
