"""Rows of a dataset's block to batches: of one workspace, schema and hour each.

The same rows make the same batches, byte for byte: a task that is tried again sends what it
sent before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader, Bytes
from cdp_ray_sinks.batch.builder import HOUR_MS, LOOPBACK_IP, BatchBuilder
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import (
    METADATA_BYTES,
    RECORD_PREFIX_BYTES,
    EventType,
    LogEventType,
    LogLevel,
    SchemaType,
)
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.facts import FACT_SCHEMA_TYPE, FACT_STATUS, MESSAGE_OK
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.ray_data.row_columns import BlockColumns, Problems

RowKind: TypeAlias = Literal["events", "logs", "messages"]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "events": (
        "timestamp", "event_type", "event_name", "device_id", "session_id", "service", "payload",
    ),
    "logs": ("timestamp", "event_type", "level", "session_id", "source", "service", "payload"),
    "messages": ("message",),
}  # fmt: skip
"""What rows of each kind are made of; the first of them must be there."""
ORIGIN_COLUMNS: Final = ("workspace_id", "received_at_ms", "source_ip")
"""Of rows of every kind: whose, when and from whom; constants stand in for those not there."""

BATCH_BYTES: Final = 8 * 1024 * 1024
EVENTS_PER_MESSAGE: Final = 500
_ROW_BYTES: Final = 96
"""About what an entry takes besides its strings."""


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How rows become events, log entries or messages.

    `columns` are our names to theirs, where they differ. `workspace_id` is for rows without
    such a column. Raises ConfigError for a name that is not known.
    """

    rows: RowKind
    columns: Mapping[str, str]
    workspace_id: int | None
    source_id: str = "ray_data"

    def __post_init__(self) -> None:
        if self.rows not in COLUMNS:
            raise ConfigError(f"rows = {self.rows!r}: must be one of {', '.join(COLUMNS)}")
        known = (*COLUMNS[self.rows], *ORIGIN_COLUMNS)
        for name in self.columns:
            if name not in known:
                raise ConfigError(f"columns: {name!r} is none of {', '.join(known)}")


class Origins(NamedTuple):
    """Per row: whose, when received and from whom; the last two None where all are the same."""

    workspaces: NDArray[np.int64] | int
    received_at_ms: NDArray[np.int64] | int
    source_ips: NDArray[np.uint8] | None


class BlockRows:
    """The rows of one block, checked. `bad_rows` is row to reason; only without any of them
    may `batches` be called."""

    def __init__(self, table: pa.Table, mapping: RowMapping, received_at_ms: int) -> None:
        self._table = table
        self._mapping = mapping
        problems = Problems(table.num_rows)
        columns = BlockColumns(table, mapping.columns, problems)
        first = COLUMNS[mapping.rows][0]
        if not columns.has(first):
            raise ConfigError(
                f"rows of {mapping.rows} need a column {first!r}, or columns={{{first!r}: …}}; "
                f"these have {', '.join(map(repr, table.column_names))}"
            )
        self._origins = self._read_origins(columns, received_at_ms)
        self._run: MessageRun | None = None
        self._columns: dict[str, Any] = {}
        if mapping.rows == "messages":
            self._run = self._check_messages(columns, problems)
        else:
            self._columns = _entry_columns(columns, mapping.rows)
        self.bad_rows = problems.reasons()

    def _read_origins(self, columns: BlockColumns, received_at_ms: int) -> Origins:
        workspaces: NDArray[np.int64] | int
        if columns.has("workspace_id"):
            workspaces = columns.workspaces("workspace_id")
        elif self._mapping.workspace_id is None:
            raise ConfigError("whose are the rows? Give workspace_id=N, or a column 'workspace_id'")
        else:
            workspaces = self._mapping.workspace_id
        received: NDArray[np.int64] | int = received_at_ms
        if columns.has("received_at_ms"):
            received = columns.times_ms("received_at_ms")
        has_addresses = columns.has("source_ip")
        addresses = columns.addresses("source_ip", LOOPBACK_IP) if has_addresses else None
        return Origins(workspaces, received, addresses)

    def _check_messages(self, columns: BlockColumns, problems: Problems) -> MessageRun:
        column = columns.texts("message")
        rows = self._table.num_rows
        column = pa.nulls(rows, pa.binary()) if column is None else column
        column = column if column.type == pa.binary() else column.cast(pa.binary())
        run = MessageRun(max(1, rows))
        run.count = rows
        data = column.buffers()[2]
        has_bytes = data is not None and data.size > 0
        run.buffer = readonly(np.frombuffer(data, np.uint8) if has_bytes else np.zeros(1, np.uint8))
        if rows and column.buffers()[1] is not None:
            offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: rows + 1]
            run.starts[:rows], run.lengths[:rows] = offsets[:-1], np.diff(offsets)
        if column.null_count:
            run.lengths[:rows][column.is_null().to_numpy(zero_copy_only=False)] = 0
        run.check(workspace_id=1)  # any: whose it is says the row, and not its key
        is_bad = run.facts[:rows, FACT_STATUS] != MESSAGE_OK
        problems.add("its bytes are no message", is_bad)
        return run

    def batches(self, *, are_kept: bool = False) -> Iterator[Batch]:
        """All rows as batches without ids; a batch is valid until the next one is asked for,
        unless they `are_kept`."""
        out: Bytes | None = None
        for rows in self._groups():
            if self._run is not None:
                yield from self._message_batches(self._run, rows, are_kept=are_kept)
                continue
            taken = self._taken(rows)
            count = len(taken["timestamp"])
            step = max(1, int(BATCH_BYTES // self._bytes_per_row(taken, count)))
            for start in range(0, count, step):
                batch = self._entry_batch(taken, rows, start, min(step, count - start), out)
                out = None if are_kept else batch.records.base
                yield batch

    def _groups(self) -> Iterator[NDArray[np.int64] | None]:
        """The rows of each batch's workspace and hour, in their order; None for all."""
        rows = self._table.num_rows
        if not rows:
            return
        origins = self._origins
        keys = np.zeros((2, rows), np.int64)
        keys[0] = origins.workspaces
        keys[1] = np.asarray(origins.received_at_ms) // HOUR_MS
        if (keys == keys[:, :1]).all():
            yield None
            return
        order = np.lexsort((keys[1], keys[0]))
        ordered = keys[:, order]
        cuts = np.flatnonzero((np.diff(ordered) != 0).any(axis=0)) + 1
        yield from np.split(order, cuts)

    def _taken(self, rows: NDArray[np.int64] | None) -> dict[str, Any]:
        if rows is None:
            return self._columns
        places = pa.array(rows)
        return {
            name: None if c is None else (c[rows] if isinstance(c, np.ndarray) else c.take(places))
            for name, c in self._columns.items()
        }

    def _bytes_per_row(self, taken: dict[str, Any], count: int) -> float:
        held: int = sum(c.nbytes for c in taken.values() if isinstance(c, pa.Array))
        prefix = RECORD_PREFIX_BYTES if self._is_one_message_each() else 0
        return held / max(1, count) + _ROW_BYTES + prefix

    def _is_one_message_each(self) -> bool:
        has_times = isinstance(self._origins.received_at_ms, np.ndarray)
        return has_times or self._origins.source_ips is not None

    def _origin(self, row: int) -> tuple[int, int]:
        """Workspace and received time of a row."""
        workspaces, received, _ = self._origins
        return (
            int(workspaces if isinstance(workspaces, int) else workspaces[row]),
            int(received if isinstance(received, int) else received[row]),
        )

    def _entry_batch(
        self, taken: dict[str, Any], rows: NDArray[np.int64] | None, start: int, count: int,
        out: Bytes | None,
    ) -> Batch:  # fmt: skip
        part: dict[str, Any] = {
            n: None if c is None else c[start : start + count] for n, c in taken.items()
        }
        first = start if rows is None else int(rows[start])
        workspace_id, received_at_ms = self._origin(first)
        per_message = 1 if self._is_one_message_each() else EVENTS_PER_MESSAGE
        settings: dict[str, Any] = {
            "events_per_message": per_message, "received_at_ms": received_at_ms, "out": out,
        }  # fmt: skip
        kinds, times = part["event_type"], part["timestamp"]
        if self._mapping.rows == "events":
            schema = SchemaType.EVENT
            records, offsets = encode_events(
                kinds, times, part["device_id"], part["session_id"], part["event_name"],
                part["service"], part["payload"], **settings,
            )  # fmt: skip
        else:
            schema = SchemaType.LOG
            records, offsets = encode_logs(
                kinds, part["level"], times, part["session_id"], part["source"], part["service"],
                part["payload"], **settings,
            )  # fmt: skip
        own = np.arange(start, start + count) if rows is None else rows[start : start + count]
        self._mark(records, offsets[:-1], own)
        is_event = schema == SchemaType.EVENT
        present = np.flatnonzero(np.bincount(kinds, minlength=8)) if is_event else ()
        header = BatchHeader(
            producer=NO_PRODUCER, epoch=0, sequence=0, schema_type=int(schema),
            event_types=sum(1 << int(kind) for kind in present), workspace_id=workspace_id,
            source_id=self._mapping.source_id, received_at_ms=received_at_ms,
            message_count=len(offsets) - 1, event_count=count, record_bytes=len(records),
            checksum=xxh3(records), time_min_ms=int(times.min()), time_max_ms=int(times.max()),
        )  # fmt: skip
        return Batch(header, records, offsets)

    def _mark(self, records: Bytes, starts: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Write each record's own time and address over those it was made with."""
        _, received, addresses = self._origins
        if isinstance(received, int) and addresses is None:
            return
        metadata = np.empty((len(rows), METADATA_BYTES), np.uint8)
        at_ms = np.asarray(received if isinstance(received, int) else received[rows])
        stored = np.broadcast_to(at_ms, len(rows)).astype(">u8")
        metadata[:, :8] = stored.view(np.uint8).reshape(-1, 8)
        default = np.frombuffer(LOOPBACK_IP, np.uint8)
        metadata[:, 8:] = default if addresses is None else addresses[rows]
        places = starts.astype(np.int64)[:, None] + np.arange(METADATA_BYTES)
        records[places] = metadata

    def _message_batches(
        self, run: MessageRun, rows: NDArray[np.int64] | None, *, are_kept: bool
    ) -> Iterator[Batch]:
        rows = np.arange(run.count) if rows is None else rows
        schemas = run.facts[rows, FACT_SCHEMA_TYPE]
        address = np.frombuffer(LOOPBACK_IP, np.uint8)
        for schema in np.unique(schemas).tolist():
            selected = rows[schemas == schema]
            workspace_id, received_at_ms = self._origin(int(selected[0]))
            source_id = self._mapping.source_id
            builder = BatchBuilder(workspace_id, schema, source_id, BATCH_BYTES)
            place = 0
            while place < len(selected):
                first = place
                place = builder.append(
                    run, selected, place, received_at_ms=received_at_ms, monotonic_ms=0,
                    peer_ip=address,
                )  # fmt: skip
                batch = builder.build()
                own = selected[first:place]
                self._mark(batch.records, batch.offsets[:-1], own)
                _, at_ms = self._origin(int(own[0]))
                header = batch.header._replace(checksum=xxh3(batch.records), received_at_ms=at_ms)
                yield Batch(header, batch.records, batch.offsets)
                if are_kept:
                    builder = BatchBuilder(workspace_id, schema, source_id, BATCH_BYTES)
                else:
                    builder.reset()


def _entry_columns(columns: BlockColumns, rows: str) -> dict[str, Any]:
    """The columns of events or log entries, as the encoder takes them."""
    found: dict[str, Any] = {
        "timestamp": columns.times_ms("timestamp"),
        "session_id": columns.ids("session_id"),
        "service": columns.texts("service"),
        "payload": columns.texts("payload"),
    }
    if rows == "events":
        found["event_type"] = columns.codes("event_type", EventType, EventType.TRACK)
        found["event_name"] = columns.texts("event_name")
        found["device_id"] = columns.ids("device_id")
    else:
        found["event_type"] = columns.codes("event_type", LogEventType, LogEventType.LOG)
        found["level"] = columns.codes("level", LogLevel, LogLevel.INFO)
        found["source"] = columns.texts("source")
    return found
