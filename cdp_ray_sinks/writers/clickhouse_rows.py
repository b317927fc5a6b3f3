"""Batches to the rows of ClickHouse's six tables.

| input | rows |
| --- | --- |
| TRACK | `events_v1` |
| IDENTIFY | `users_v1`, `user_devices` if it names a device, `user_traits` for each trait |
| CONTEXT | `context_v1` |
| log entry | `logs_v1` |
| GROUP, ALIAS, ENRICH, unknown | none, counted; with `all_events` they go into `events_v1` |
| metrics, traces, snapshots | none: those batches are not for these tables, and counted |

Nothing is left out in silence: what makes no row is in the counts, and what should have made
one but can't is a problem, which names its message. The other entries of such a message do
make rows, so a message replayed from the dead letters makes those a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodedRows, decode_events, decode_logs
from cdp_ray_sinks.batch.enums import EventType, LogLevel, SchemaType
from cdp_ray_sinks.writers.clickhouse_context import context_columns
from cdp_ray_sinks.writers.clickhouse_people import UserIds, people_columns
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, TIME, TIME_MS_MAX, TableRows
from cdp_ray_sinks.writers.json_objects import parse_objects

LEVELS: Final = tuple(level.name for level in LogLevel)
"""How levels are written, by their number."""


class Problem(NamedTuple):
    """A message that did not make the rows it should have, or not all of them.

    `batch` is a place among the batches given, `message` one in that batch.
    """

    batch: int
    message: int
    reason: str


@dataclass(slots=True)
class RowCounts:
    """What `rows_of` saw that is not told by the rows themselves.

    `left_out`: events that make no row, by type. `other_batches`: batches of schemas that
    have no table, by schema. `times_cut`: timestamps after TIME_MS_MAX, set to it.
    `locales_cut`: locales of more than 5 bytes. `contexts_unread`: CONTEXT events whose
    payload is no JSON object; their row has just the payload. `pattern_ids_lost`: batches
    whose pattern ids are not one per log entry that decodes, so that none is used.
    """

    left_out: dict[str, int] = field(default_factory=dict)
    other_batches: dict[str, int] = field(default_factory=dict)
    times_cut: int = 0
    locales_cut: int = 0
    contexts_unread: int = 0
    pattern_ids_lost: int = 0


@dataclass(frozen=True, slots=True)
class MadeRows:
    """What became of some batches. `tables` has only tables that got rows."""

    tables: Mapping[str, TableRows]
    problems: Sequence[Problem]
    counts: RowCounts


class RowMaker:
    """Makes rows; one thread at a time uses it.

    It keeps memory from call to call: rows are good until its next `rows_of`, and what they
    were made into by `serialise` for ever. `all_events` puts GROUP, ALIAS, ENRICH and
    unknown events into `events_v1`, which has no column for the type.
    """

    def __init__(self, *, all_events: bool = False) -> None:
        self._all_events = all_events
        self._user_ids = UserIds()

    def rows_of(self, batches: Sequence[Batch]) -> MadeRows:
        """The rows of those batches, in their order, one block per table.

        Raises ValueError if a column would pass 2 GiB.
        """
        counts = RowCounts()
        problems: list[Problem] = []
        found: dict[str, list[TableRows]] = {}
        for place, batch in enumerate(batches):
            schema = batch.header.schema_type
            if schema == SchemaType.EVENT:
                decoded = decode_events(batch)
                made = self._event_rows(decoded, place, problems, counts)
            elif schema == SchemaType.LOG:
                decoded = decode_logs(batch)
                made = [_log_rows(decoded, place, batch.pattern_ids, counts)]
            else:
                _add(counts.other_batches, _name(SchemaType, schema), 1)
                continue
            texts = decoded.damage_texts()
            for message, text in zip(decoded.damaged.tolist(), texts, strict=True):
                problems.append(Problem(place, message, text))
            for rows in made:
                if rows.rows.num_rows:
                    found.setdefault(rows.table, []).append(rows)
        tables = {table: _joined(found[table]) for table in SCHEMAS if table in found}
        return MadeRows(tables, sorted(problems), counts)

    def _event_rows(
        self, decoded: DecodedRows, place: int, problems: list[Problem], counts: RowCounts
    ) -> list[TableRows]:
        times = _times(decoded.table, counts)
        types = decoded.table["event_type"].to_numpy()
        made = []
        wanted = types == EventType.TRACK
        for code in (EventType.UNKNOWN, EventType.GROUP, EventType.ALIAS, EventType.ENRICH):
            if self._all_events:
                wanted |= types == code
            elif there := int(np.count_nonzero(types == code)):
                _add(counts.left_out, code.name.lower(), there)
        part = decoded.table.filter(pa.array(wanted))
        made.append(_table_rows("events_v1", _track_columns(part, times[wanted]), part, place))
        wanted = types == EventType.CONTEXT
        part = decoded.table.filter(pa.array(wanted))
        objects = parse_objects(part["payload"].to_pylist())
        columns, cut = context_columns(objects)
        counts.locales_cut += cut
        counts.contexts_unread += sum(isinstance(one, str) for one in objects)
        columns |= _track_columns(part, times[wanted])
        made.append(_table_rows("context_v1", columns, part, place))
        wanted = types == EventType.IDENTIFY
        part = decoded.table.filter(pa.array(wanted))
        objects = parse_objects(part["payload"].to_pylist())
        people = people_columns(objects, part["device_id"], times[wanted], self._user_ids)
        messages = part["message_index"].to_numpy()
        for row, reason in people.refused:
            problems.append(Problem(place, int(messages[row]), f"IDENTIFY {reason}"))
        for table, (columns, sources) in people.tables.items():
            of = messages[sources]
            made.append(
                TableRows(table, _record_batch(table, columns), np.full_like(of, place), of)
            )
        return made


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _name(kind: Any, code: int) -> str:
    return kind(code).name.lower() if code in set(kind) else str(code)


def _times(rows: pa.RecordBatch, counts: RowCounts) -> NDArray[np.int64]:
    times: NDArray[np.int64] = rows["timestamp"].to_numpy()
    late = int(np.count_nonzero(times > TIME_MS_MAX))
    counts.times_cut += late
    return np.minimum(times, TIME_MS_MAX) if late else times


def _track_columns(rows: pa.RecordBatch, times: NDArray[np.int64]) -> dict[str, Any]:
    payload = pc.fill_null(rows["payload"], b"")
    return {
        "timestamp": times,
        "event_name": pc.fill_null(rows["event_name"].cast(pa.utf8()), ""),
        "device_id": pc.fill_null(rows["device_id"], bytes(16)),
        "session_id": pc.fill_null(rows["session_id"], bytes(16)),
        "properties": payload,
        "_raw": payload,
        "source_ip": rows["source_ip"],
    }


def _log_rows(
    decoded: DecodedRows, place: int, ids: NDArray[np.uint64] | None, counts: RowCounts
) -> TableRows:
    rows = decoded.table
    patterns = pa.nulls(rows.num_rows, pa.uint64())
    if ids is not None and len(ids) == rows.num_rows:
        patterns = pa.array(ids, mask=ids == 0)
    elif ids is not None:
        counts.pattern_ids_lost += 1
    payload = pc.fill_null(rows["payload"], b"")
    columns = {
        "timestamp": _times(rows, counts),
        "level": pa.DictionaryArray.from_arrays(rows["level"].cast(pa.int32()), LEVELS),
        "source": pc.fill_null(rows["source"], ""),
        "service": pc.fill_null(rows["service"], ""),
        "session_id": pc.fill_null(rows["session_id"], bytes(16)),
        "source_ip": rows["source_ip"],
        "pattern_id": patterns,
        "message": payload,
        "_raw": payload,
    }
    return _table_rows("logs_v1", columns, rows, place)


def _table_rows(
    table: str, columns: Mapping[str, Any], rows: pa.RecordBatch, place: int
) -> TableRows:
    messages = rows["message_index"].to_numpy()
    return TableRows(table, _record_batch(table, columns), np.full_like(messages, place), messages)


def _record_batch(table: str, columns: Mapping[str, Any]) -> pa.RecordBatch:
    schema = SCHEMAS[table]
    return pa.RecordBatch.from_arrays(
        [_array(columns[one.name], one.type) for one in schema], schema=schema
    )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if kind == TIME:
        return pa.array(values, pa.int64()).cast(TIME)
    if isinstance(values, pa.Array) and pa.types.is_dictionary(kind):
        return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _joined(parts: Sequence[TableRows]) -> TableRows:
    if len(parts) == 1:
        return parts[0]
    table = pa.Table.from_batches([part.rows for part in parts]).unify_dictionaries()
    (rows,) = table.combine_chunks().to_batches()
    return TableRows(
        parts[0].table,
        rows,
        np.concatenate([part.batches for part in parts]),
        np.concatenate([part.messages for part in parts]),
    )
