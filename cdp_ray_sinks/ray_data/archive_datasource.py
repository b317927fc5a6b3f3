"""`read_archive`: what an archive holds as a Dataset of decoded rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import EVENT_SCHEMA, LOG_SCHEMA, decode_events, decode_logs
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.archive_parts import ArchivePart, archive_parts
from cdp_ray_sinks.files.row_selection import wanted_rows
from cdp_ray_sinks.files.selection import Selection

Moment: TypeAlias = datetime | str | int | None
"""A time: with a zone, else UTC; ISO 8601; or Unix ms."""
ArchiveRows: TypeAlias = Literal["events", "logs"]

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Of records in one block, unless one batch is larger."""
_SCHEMAS: Final = {
    "events": (SchemaType.EVENT, EVENT_SCHEMA),
    "logs": (SchemaType.LOG, LOG_SCHEMA),
}
_LOG: Final = logging.getLogger(__name__)


def read_archive(
    path: str | Path,
    *,
    rows: ArchiveRows = "events",
    workspaces: Iterable[int] | None = None,
    start: Moment = None,
    end: Moment = None,
    time: Literal["received", "event"] = "received",
    columns: Sequence[str] | None = None,
    on_damage: Literal["error", "skip"] = "error",
    block_count: int | None = None,
) -> ray.data.Dataset:
    """The events or log entries of an archive, plain or compressed, as a Dataset.

    `start` to `end`, both included, are of the time messages were received, or that events
    happened. The commit index tells what need not be read, and where the archive is cut into
    tasks; `columns`, `select_columns` and `limit` reach the reading too. Columns are those that
    `CdpDatasink` takes, with `timestamp` as a timestamp in UTC.

    Damage ends the read, or is logged and passed over; a message that does not decode leaves
    no row and is logged. Raises ConfigError, FileNotFoundError.
    """
    if rows not in _SCHEMAS:
        raise ConfigError(f"rows = {rows!r}: must be one of {', '.join(_SCHEMAS)}")
    names = column_names(rows)
    for name in columns or ():
        if name not in names:
            raise ConfigError(f"columns: {name!r} is none of {', '.join(names)}")
    wanted = None if workspaces is None else frozenset(workspaces)
    schema, _ = _SCHEMAS[rows]
    selection = Selection(_ms(start), _ms(end), time, wanted, frozenset([int(schema)]))
    source = ArchiveDatasource(path, selection, rows, columns, on_damage == "skip")
    options: Any = {"override_num_blocks": block_count}
    found: ray.data.Dataset = ray.data.read_datasource(source, **options)
    return found


def column_names(rows: ArchiveRows) -> list[str]:
    """The columns of a Dataset of such rows."""
    _, schema = _SCHEMAS[rows]
    return ["workspace_id", *(name for name in schema.names if name != "message_index")]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What every read task is told."""

    selection: Selection
    rows: ArchiveRows
    columns: tuple[str, ...]
    skips_damage: bool

    def report(self, damage: CorruptSegmentError) -> None:
        """End the read, or say it."""
        if not self.skips_damage:
            raise damage
        _LOG.warning("passed over: %s", damage)


class ArchiveDatasource(Datasource):
    """An archive as Ray Data reads it; the indexes are read when it is made."""

    def __init__(
        self,
        path: str | Path,
        selection: Selection,
        rows: ArchiveRows,
        columns: Sequence[str] | None,
        skips_damage: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows: ArchiveRows = rows
        self._projection_map = None if columns is None else {name: name for name in columns}
        self._reading = _Reading(selection, rows, (), skips_damage)
        base = Path(path).absolute()
        self._parts = list(archive_parts(base, selection, self._reading.report))

    def supports_projection_pushdown(self) -> bool:
        """Columns that nobody wants are left out of the blocks."""
        return True

    def estimate_inmemory_data_size(self) -> int:
        """About as much as the records."""
        return sum(part.record_bytes for part in self._parts)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """Neighbouring parts together, in at most about `parallelism` tasks."""
        asked = self._get_data_columns()
        columns = tuple(column_names(self._rows) if asked is None else asked)
        columns = columns or ("workspace_id",)  # to count rows takes a column all the same
        reading = _Reading(self._reading.selection, self._rows, columns, self._reading.skips_damage)
        step = max(1, -(-len(self._parts) // max(1, parallelism)))
        tasks = []
        for first in range(0, len(self._parts), step):
            parts = tuple(self._parts[first : first + step])
            metadata = BlockMetadata(
                None,
                size_bytes=sum(part.record_bytes for part in parts),
                input_files=tuple(sorted({part.path for part in parts})),
                exec_stats=None,
            )
            read = partial(read_parts, parts, reading, per_task_row_limit)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        if not tasks:
            empty = BlockMetadata(0, size_bytes=0, input_files=None, exec_stats=None)
            tasks.append(ReadTask(partial(read_parts, (), reading, None), empty))
        return tasks


def read_parts(
    parts: Sequence[ArchivePart], reading: _Reading, row_limit: int | None
) -> Iterator[pa.Table]:
    """The rows of some parts as blocks of about BLOCK_BYTES; ends after `row_limit` rows."""
    left = row_limit
    is_empty = True
    for workspace_id, batches in _runs(parts, reading):
        table = _table_of(workspace_id, batches, reading)
        if left is not None:
            table = table.slice(0, left)
            left -= table.num_rows
        if table.num_rows:
            is_empty = False
            yield table
        if left == 0:
            return
    if is_empty:  # a Dataset without rows has its columns all the same
        yield _table_of(0, [], reading)


def _runs(parts: Sequence[ArchivePart], reading: _Reading) -> Iterator[tuple[int, list[Batch]]]:
    """Batches of one workspace that make a block."""
    run: list[Batch] = []
    held = 0
    for part in parts:
        for _, batch in part.batches(reading.selection, reading.report):
            is_other = run and batch.header.workspace_id != run[0].header.workspace_id
            if is_other or (run and held + len(batch.records) > BLOCK_BYTES):
                yield run[0].header.workspace_id, run
                run, held = [], 0
            run.append(batch)
            held += len(batch.records)
    if run:
        yield run[0].header.workspace_id, run


def _table_of(workspace_id: int, batches: list[Batch], reading: _Reading) -> pa.Table:
    """The rows of the batches that are selected, with the columns that are wanted."""
    schema, _ = _SCHEMAS[reading.rows]
    decoded = decode_events(batches) if reading.rows == "events" else decode_logs(batches)
    for text in decoded.damage_texts()[:5]:
        _LOG.warning("undecodable, left out: %s", text)
    found = wanted_rows(decoded.table, int(schema), reading.selection)
    selection = reading.selection
    if selection.has_range and selection.time == "received":
        times = found.column("received_at_ms")
        low = -(2**63) if selection.start_ms is None else selection.start_ms
        high = 2**63 - 1 if selection.end_ms is None else selection.end_ms
        found = found.filter(pc.and_(pc.greater_equal(times, low), pc.less_equal(times, high)))
    made = {name: _plain(name, workspace_id, found) for name in reading.columns}
    return pa.table(made)


def _plain(name: str, workspace_id: int, found: pa.RecordBatch) -> pa.Array:
    if name == "workspace_id":
        return pa.repeat(pa.scalar(workspace_id, pa.uint32()), found.num_rows)
    column = found.column(name)
    if name == "timestamp":
        return column.view(pa.timestamp("ms", "UTC"))
    # Blocks are joined and sorted later, which dictionaries of their own are in the way of.
    return column.cast(pa.utf8()) if pa.types.is_dictionary(column.type) else column


def _ms(moment: Moment) -> int | None:
    if moment is None or isinstance(moment, int):
        return moment
    try:
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError:
        raise ConfigError(f"{moment!r} is no time as 2026-11-22T14:00:00Z") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
