"""How many events a message holds, of which types and times, without decoding them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.enums import NO_TIME_MS, RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.entries import (
    AUTO,
    EVENT_WIDTHS,
    LOG_WIDTHS,
    NO_LAYOUT,
    TIME_MAX,
    locate,
    read_event,
    read_log,
)
from cdp_ray_sinks.batch.kernels.memory import address_of, load_i64, load_u32
from cdp_ray_sinks.batch.kernels.tables import (
    ABSENT,
    BAD_FIELD,
    BAD_TABLE,
    BUDGET_FACTOR,
    OK,
    OVER_BUDGET,
    ROW_BUDGET_BYTES,
    WRONG_SCHEMA,
    field,
    rows_of,
    schema_of,
    table_at,
    vtable_of,
)

_EVENT: Final = int(SchemaType.EVENT)
_LOG: Final = int(SchemaType.LOG)
_METRIC: Final = int(SchemaType.METRIC)
_TRACE: Final = int(SchemaType.TRACE)
_SNAPSHOT: Final = int(SchemaType.SNAPSHOT)
_NANOSECONDS_A_MS: Final = 1_000_000


@njit(nogil=True, cache=True)
def _other_time(buffer: int, entry: int, start: int, end: int, schema_type: int) -> tuple[int, int]:
    """(status, time) of a metric, span or snapshot; only its table and time are checked."""
    table = table_at(buffer, entry, end)
    if table < 0:
        return BAD_TABLE, 0
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return BAD_TABLE, 0
    slot = 3 if schema_type == _TRACE else 1 if schema_type == _METRIC else 0
    place = field(buffer, table, vtable, slot, 8, end)
    if place < 0:
        return OK if place == ABSENT else BAD_FIELD, 0
    time = load_i64(buffer, place)
    return OK, time if time >= 0 else TIME_MAX


@njit(nogil=True, cache=True)
def _count_rows(
    buffer: int, rows: int, start: int, end: int, schema_type: int, budget: int
) -> tuple[int, int, int, int]:
    """(status, event-type mask, earliest and latest time) of the entries counted at `rows`."""
    types, earliest, latest = 0, TIME_MAX, 0
    layout = NO_LAYOUT
    widths = EVENT_WIDTHS if schema_type == _EVENT else LOG_WIDTHS
    for row in range(load_u32(buffer, rows)):
        entry = rows + 4 + 4 * row
        if schema_type <= _LOG:
            status, table, layout = locate(buffer, entry, start, end, widths, layout)
            if status != OK:
                return status, 0, 0, 0
            if schema_type == _EVENT:
                found = read_event(buffer, table, end, AUTO, layout)
                types |= 1 << found[2]
            else:
                found = read_log(buffer, table, end, layout)
            status, time = found[0], found[3]
            budget -= found[1]
            if budget < 0:
                return OVER_BUDGET, 0, 0, 0
        else:
            status, time = _other_time(buffer, entry, start, end, schema_type)
        if status != OK:
            return status, 0, 0, 0
        if time > 0:
            earliest, latest = min(earliest, time), max(latest, time)
    return OK, types, earliest, latest


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
    base = address_of(buffer)
    status, rows, inner, inner_end = rows_of(base, start, end)
    if status != OK:
        return status, 0, 0, NO_TIME_MS, NO_TIME_MS
    if schema_of(base, start, end) != schema_type:
        return WRONG_SCHEMA, 0, 0, NO_TIME_MS, NO_TIME_MS
    count = load_u32(base, rows)
    budget = BUDGET_FACTOR * (end - start) - ROW_BUDGET_BYTES * count
    if budget < 0:
        return OVER_BUDGET, 0, 0, NO_TIME_MS, NO_TIME_MS
    status, types, earliest, latest = _count_rows(base, rows, inner, inner_end, schema_type, budget)
    if status != OK:
        return status, 0, 0, NO_TIME_MS, NO_TIME_MS
    if latest == 0:
        return OK, count, types, NO_TIME_MS, NO_TIME_MS
    if schema_type in (_METRIC, _TRACE):
        return OK, count, types, earliest // _NANOSECONDS_A_MS, latest // _NANOSECONDS_A_MS
    return OK, count, types, earliest, latest


@njit(nogil=True, cache=True)
def count_records(records: Any, offsets: Any, schema_type: int, counted: Any) -> None:
    """`count_message` of every record of a batch; `counted` is int64[messages, 5]."""
    buffer, bounds = address_of(records), address_of(offsets)
    for message in range(len(offsets) - 1):
        start = load_i64(bounds, 8 * message) + RECORD_PREFIX_BYTES
        found = count_message(buffer, start, load_i64(bounds, 8 * message + 8), schema_type)
        for column in range(5):
            counted[message, column] = found[column]


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    offsets = readonly(np.zeros(1, np.uint64))
    count_records(readonly(np.zeros(8, np.uint8)), offsets, _EVENT, np.zeros((0, 5), np.int64))
