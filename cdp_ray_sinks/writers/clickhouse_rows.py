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
one but can't is a problem, which names it. What stands beside it in its message makes its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, DecodedRows, decode_events, decode_logs
from cdp_ray_sinks.batch.enums import EventType, LogLevel, SchemaType
from cdp_ray_sinks.writers.clickhouse_context import context_columns
from cdp_ray_sinks.writers.clickhouse_people import UserIds, people_rows
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, TIME, TIME_MS_MAX, TableRows

LEVELS: Final = tuple(level.name for level in LogLevel)
"""How levels are written, by their number."""

_IN_NO_TABLE: Final = (EventType.UNKNOWN, EventType.GROUP, EventType.ALIAS, EventType.ENRICH)
_TRACK_SOURCES: Final = (
    "timestamp",
    "event_name",
    "device_id",
    "session_id",
    "payload",
    "source_ip",
)
"""The decoded columns that rows of events are made of."""


class Problem(NamedTuple):
    """What did not make the rows it should have.

    `batch` is a place among the batches given, `message` one in that batch, `entry` one among
    all entries of the batch that decode; None for a message that does not decode.
    """

    batch: int
    message: int
    entry: int | None
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

    def named(self) -> dict[str, int]:
        """All of them under one name each, as a sink's counters have them."""
        return {
            **{f"left_out_{kind}": count for kind, count in self.left_out.items()},
            **{f"left_out_{schema}_batches": n for schema, n in self.other_batches.items()},
            "times_cut": self.times_cut,
            "locales_cut": self.locales_cut,
            "contexts_unread": self.contexts_unread,
            "pattern_ids_lost": self.pattern_ids_lost,
        }


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
        self._event_buffers = DecodeBuffers()
        self._log_buffers = DecodeBuffers()

    def rows_of(self, batches: Sequence[Batch]) -> MadeRows:
        """The rows of those batches, in their order, one block per table.

        Raises ValueError if a column would pass 2 GiB.
        """
        counts, problems = RowCounts(), list[Problem]()
        places: dict[int, list[int]] = {SchemaType.EVENT: [], SchemaType.LOG: []}
        for place, batch in enumerate(batches):
            schema = batch.header.schema_type
            if schema in places:
                places[schema].append(place)
            else:
                _add(counts.other_batches, _name_of(schema), 1)
        made = []
        if events := places[SchemaType.EVENT]:
            chosen = [batches[place] for place in events]
            decoded = decode_events(chosen, buffers=self._event_buffers)
            problems += _damage(decoded, events)
            made += self._event_rows(_Rows.of(decoded, events, counts), problems, counts)
        if logs := places[SchemaType.LOG]:
            chosen = [batches[place] for place in logs]
            decoded = decode_logs(chosen, buffers=self._log_buffers)
            problems += _damage(decoded, logs)
            patterns = _pattern_ids(chosen, decoded.row_ends, counts)
            made.append(_log_rows(_Rows.of(decoded, logs, counts), patterns))
        tables = {rows.table: rows for rows in made if len(rows.batches)}
        return MadeRows(
            {name: tables[name] for name in SCHEMAS if name in tables},
            sorted(problems, key=_order),
            counts,
        )

    def _event_rows(
        self, rows: _Rows, problems: list[Problem], counts: RowCounts
    ) -> list[TableRows]:
        types = rows.columns["event_type"].to_numpy()
        counted = np.bincount(types, minlength=len(EventType)).tolist()
        in_events = types == EventType.TRACK
        for code in _IN_NO_TABLE:
            if counted[code] and self._all_events:
                in_events |= types == code
            elif counted[code]:
                _add(counts.left_out, code.name.lower(), counted[code])
        made = [_track_rows("events_v1", rows.where(in_events))]
        if counted[EventType.CONTEXT]:
            context = rows.where(types == EventType.CONTEXT)
            found, unread, cut = context_columns(context.payloads())
            counts.contexts_unread += unread
            counts.locales_cut += cut
            made.append(_track_rows("context_v1", context, found))
        if counted[EventType.IDENTIFY]:
            identify = rows.where(types == EventType.IDENTIFY)
            tables, refused = people_rows(
                identify.payloads(),
                identify.columns["device_id"],
                identify.columns["timestamp"],
                self._user_ids,
            )
            problems += [
                Problem(*identify.place_of(event), f"IDENTIFY event: {reason}")
                for event, reason in refused.items()
            ]
            made += [
                _table_rows(table, columns, identify, events)
                for table, (columns, events) in tables.items()
            ]
        return made


def _damage(decoded: DecodedRows, places: Sequence[int]) -> Iterator[Problem]:
    batches, messages = decoded.damaged_batches.tolist(), decoded.damaged.tolist()
    for batch, message, text in zip(batches, messages, decoded.damage_texts(), strict=True):
        yield Problem(places[batch], message, None, text)


def _order(problem: Problem) -> tuple[int, int, int]:
    return problem.batch, problem.message, -1 if problem.entry is None else problem.entry


@dataclass(frozen=True, slots=True)
class _Rows:
    """Decoded rows and where each comes from. No column has nulls: what is absent is empty."""

    columns: Mapping[str, pa.Array]
    batches: NDArray[np.uint32]
    messages: NDArray[np.uint32]
    entries: NDArray[np.uint32]

    @classmethod
    def of(cls, decoded: DecodedRows, places: Sequence[int], counts: RowCounts) -> _Rows:
        """All decoded rows; `places` are those of the batches decoded."""
        table = decoded.table
        columns = {name: _without_nulls(table.column(name)) for name in table.schema.names}
        times = columns["timestamp"].to_numpy()
        late = int(np.count_nonzero(times > TIME_MS_MAX))
        if late:
            counts.times_cut += late
            columns["timestamp"] = pa.array(np.minimum(times, TIME_MS_MAX))
        columns["timestamp"] = columns["timestamp"].view(TIME)
        of_batch = np.diff(decoded.row_ends, prepend=0)
        batches = np.repeat(np.array(places, np.uint32), of_batch)
        starts = np.repeat((decoded.row_ends - of_batch).astype(np.uint32), of_batch)
        entries = np.arange(len(batches), dtype=np.uint32) - starts
        # The decoder's memory is used again, but these may be kept.
        messages = columns["message_index"].to_numpy().copy()
        return cls(columns, batches, messages, entries)

    def place_of(self, row: int) -> tuple[int, int, int]:
        """Batch, message and entry of a row."""
        return int(self.batches[row]), int(self.messages[row]), int(self.entries[row])

    def where(self, mask: NDArray[np.bool_]) -> _Rows:
        """The rows for which `mask` is true; not copied if those are all."""
        if mask.all():
            return self
        chosen = pa.array(mask)
        columns = {name: self.columns[name].filter(chosen) for name in _TRACK_SOURCES}
        return _Rows(columns, self.batches[mask], self.messages[mask], self.entries[mask])

    def payloads(self) -> Sequence[bytes]:
        """The payloads as Python's bytes."""
        found: Sequence[bytes] = self.columns["payload"].to_numpy(zero_copy_only=False)
        return found


def _without_nulls(column: pa.Array) -> pa.Array:
    """The column with zeros or nothing in place of nulls: the decoder puts them there."""
    if not column.null_count:
        return column
    if isinstance(column, pa.DictionaryArray):
        words = column.dictionary
        empty = words.index("").as_py()
        if empty < 0:
            empty, words = len(words), pa.concat_arrays([words, pa.array([""])])
        return pa.DictionaryArray.from_arrays(column.indices.fill_null(empty), words)
    buffers = [None, *column.buffers()[1:]]
    return pa.Array.from_buffers(column.type, len(column), buffers, 0, column.offset)


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count


def _name_of(schema: int) -> str:
    return SchemaType(schema).name.lower() if schema in set(SchemaType) else str(schema)


def _track_rows(table: str, rows: _Rows, more: Mapping[str, pa.Array] | None = None) -> TableRows:
    columns = dict(rows.columns) | dict(more or {})
    columns["properties"] = columns["_raw"] = columns["payload"]
    return _table_rows(table, columns, rows)


def _log_rows(rows: _Rows, patterns: pa.Array) -> TableRows:
    columns = dict(rows.columns)
    columns["pattern_id"] = patterns
    columns["level"] = pa.DictionaryArray.from_arrays(columns["level"].cast(pa.int32()), LEVELS)
    columns["message"] = columns["_raw"] = columns["payload"]
    return _table_rows("logs_v1", columns, rows)


def _pattern_ids(
    batches: Sequence[Batch], row_ends: NDArray[np.int64], counts: RowCounts
) -> pa.Array:
    rows = int(row_ends[-1])
    if all(batch.pattern_ids is None for batch in batches):
        return pa.nulls(rows, pa.uint64())
    found = np.zeros(rows, np.uint64)
    start = 0
    for batch, end in zip(batches, row_ends.tolist(), strict=True):
        if batch.pattern_ids is not None:
            if len(batch.pattern_ids) == end - start:
                found[start:end] = batch.pattern_ids
            else:
                counts.pattern_ids_lost += 1
        start = end
    return pa.array(found, mask=found == 0)


def _table_rows(
    table: str,
    columns: Mapping[str, Any],
    sources: _Rows,
    which: slice | NDArray[np.int64] = slice(None),
) -> TableRows:
    """Rows of a table, which come from those of `sources`, one by one or as `which` says."""
    schema = SCHEMAS[table]
    rows = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    return TableRows(
        table, rows, sources.batches[which], sources.messages[which], sources.entries[which]
    )
