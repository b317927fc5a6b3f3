"""The six ClickHouse tables as Arrow: their columns, blocks of rows, and the bytes to insert.

Names and meanings are those of `sinks/clickhouse_sql/tables.sql`. How Arrow types arrive:

| column there | column here |
| --- | --- |
| `UUID`, `FixedString(16)` | 16 bytes, in the order of the text; absent ids are zeros |
| `DateTime64(3)` | `timestamp[ms]` without a zone: Unix milliseconds |
| `String` of a payload or trait | `binary`: ClickHouse takes any bytes, they are kept |
| other `String`, `LowCardinality` | text, or a dictionary of it |
| `FixedString(5)` | text of at most 5 bytes, which ClickHouse fills with zeros |
| `Nullable(UInt64)` | `uint64`, null for none |
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES

Compression: TypeAlias = Literal["none", "lz4"]

TIME: Final = pa.timestamp("ms")
WORDS: Final = pa.dictionary(pa.int32(), pa.utf8())
_ID: Final = pa.binary(ID_BYTES)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    "events_v1": _schema(
        timestamp=TIME,
        event_name=WORDS,
        device_id=_ID,
        session_id=_ID,
        properties=pa.binary(),
        _raw=pa.binary(),
        source_ip=_ID,
    ),
    "users_v1": _schema(user_id=pa.utf8(), email=pa.utf8(), name=pa.utf8(), updated_at=TIME),
    "user_devices": _schema(user_id=pa.utf8(), device_id=_ID, linked_at=TIME),
    "user_traits": _schema(
        user_id=pa.utf8(), trait_key=pa.utf8(), trait_value=pa.utf8(), updated_at=TIME
    ),
    "context_v1": _schema(
        timestamp=TIME,
        device_id=_ID,
        session_id=_ID,
        device_type=pa.utf8(),
        device_model=pa.utf8(),
        operating_system=pa.utf8(),
        os_version=pa.utf8(),
        app_version=pa.utf8(),
        app_build=pa.utf8(),
        timezone=pa.utf8(),
        locale=pa.utf8(),
        country=pa.utf8(),
        region=pa.utf8(),
        city=pa.utf8(),
        properties=pa.binary(),
        source_ip=_ID,
    ),
    "logs_v1": _schema(
        timestamp=TIME,
        level=WORDS,
        source=pa.utf8(),
        service=pa.utf8(),
        session_id=_ID,
        source_ip=_ID,
        pattern_id=pa.uint64(),
        message=pa.binary(),
        _raw=pa.binary(),
    ).set(6, pa.field("pattern_id", pa.uint64())),
}
"""The columns of each table, in the order of its DDL."""

MONTH_COLUMNS: Final[Mapping[str, str]] = {
    "events_v1": "timestamp",
    "context_v1": "timestamp",
    "logs_v1": "timestamp",
}
"""The column that a table is partitioned by, as `toYYYYMM(…)`; the others are not."""

_UTC_NAMES: Final = {"UTC", "Etc/UTC", "Zulu", "Etc/Zulu", "UCT", "Etc/UCT", "Universal"}

TIME_MS_MAX: Final = 10_413_791_999_999
"""2299-12-31 23:59:59.999 UTC, the last that DateTime64(3) promises to hold."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of one table, and for each of them where it comes from.

    `rows` has the schema of SCHEMAS[table]. The others are parallel to it and not sent: the
    place of the batch among those given to `rows_of`, that of the message in the batch, and
    that of the entry among all of the batch that decode.
    """

    table: str
    rows: pa.RecordBatch
    batches: NDArray[np.uint32]
    messages: NDArray[np.uint32]
    entries: NDArray[np.uint32]

    def slice(self, start: int, count: int | None = None) -> TableRows:
        """`count` rows from `start` on, all without; shares memory."""
        end = None if count is None else start + count
        return TableRows(
            self.table,
            _with_own_words(self.rows.slice(start, count)),
            self.batches[start:end],
            self.messages[start:end],
            self.entries[start:end],
        )

    def take(self, places: NDArray[np.int64]) -> TableRows:
        """The rows at those places, copied."""
        return TableRows(
            self.table,
            _with_own_words(self.rows.take(pa.array(places))),
            self.batches[places],
            self.messages[places],
            self.entries[places],
        )


def _with_own_words(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with no dictionary larger than they are: each block takes its own along."""
    columns = [
        column.cast(pa.utf8()).dictionary_encode()
        if isinstance(column, pa.DictionaryArray) and len(column.dictionary) > len(column)
        else column
        for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def split_by_month(rows: TableRows, zone: str = "UTC") -> list[TableRows]:
    """The rows of each month apart, oldest month first, in their order; never an empty one.

    ClickHouse refuses an INSERT that touches more than 100 partitions. `zone` is the server's
    time zone, in which it reckons months; one that this machine does not know is taken for
    UTC. A table without partitions stays in one piece.
    """
    if not rows.rows.num_rows:
        return []
    column = MONTH_COLUMNS.get(rows.table)
    if column is None:
        return [rows]
    times = rows.rows.column(column)
    ends = pc.min_max(times)
    first, last = _months(pa.array([ends["min"].as_py(), ends["max"].as_py()], TIME), zone)
    if first == last:
        return [rows]
    months = _months(times, zone)
    order = np.argsort(months, kind="stable")
    starts = np.flatnonzero(np.diff(months[order], prepend=-1))
    ordered = rows.take(order)
    counts = np.diff(starts, append=len(order))
    return [
        ordered.slice(start, count)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
    ]


def _months(times: Any, zone: str) -> NDArray[np.int64]:
    """Months since year 0 of each time, in that zone."""
    if zone not in _UTC_NAMES:
        # A machine may lack the zone, or all of them.
        with suppress(pa.ArrowInvalid):
            return _months_of(times.cast(pa.timestamp("ms", zone)))
    return _months_of(times)


def _months_of(times: Any) -> NDArray[np.int64]:
    months = pc.add(pc.multiply(pc.year(times), 12), pc.month(times))
    return np.asarray(months.to_numpy(zero_copy_only=False))


def serialise(rows: pa.RecordBatch, compression: Compression = "none") -> pa.Buffer:
    """The rows as one block of ClickHouse's format ArrowStream; equal rows give equal bytes."""
    rows = _without_rest(rows)
    if compression != "none":
        growing = pa.BufferOutputStream()
        _write_stream(rows, growing, pa.ipc.IpcWriteOptions(compression=compression))
        return growing.getvalue()
    # To count first costs nothing, to grow would copy twice as much.
    counted = pa.MockOutputStream()
    _write_stream(rows, counted, None)
    block = pa.allocate_buffer(counted.size())
    _write_stream(rows, pa.FixedSizeBufferWriter(block), None)
    return block


def _without_rest(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows in buffers that end with them.

    Arrow pads a buffer with what lies behind the last row. In memory that is used again those
    are bytes of other batches.
    """
    columns = [_exact(column) for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _exact(column: Any) -> Any:
    if isinstance(column, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(
            _exact(column.indices), _exact(column.dictionary), safe=False
        )
    if column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
        return pa.array(pc.fill_null(column, 0).to_numpy(), mask=missing)
    _, *buffers = column.buffers()
    start, count = column.offset, len(column)
    if len(buffers) == 1:
        width = column.type.bit_width // 8
        buffers = [buffers[0].slice(width * start, width * count)]
    elif count:
        bounds = np.frombuffer(buffers[0], np.int32, count + 1, 4 * start)
        first, end = int(bounds[0]), int(bounds[-1])
        buffers = [pa.py_buffer(bounds - first if first else bounds),
                   buffers[1].slice(first, end - first)]  # fmt: skip
    return pa.Array.from_buffers(column.type, count, [None, *buffers], 0)


def _write_stream(rows: pa.RecordBatch, out: Any, options: Any) -> None:
    with pa.ipc.new_stream(out, rows.schema, options=options) as stream:
        stream.write_batch(rows)


def deserialise(block: pa.Buffer) -> pa.RecordBatch:
    """The rows of a block of `serialise`, sharing its memory if it is not compressed."""
    with pa.ipc.open_stream(block) as stream:
        return stream.read_next_batch()
