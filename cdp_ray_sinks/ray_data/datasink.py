"""`CdpDatasink`: the rows of a dataset into a pipeline, durable when the write ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray.data import Datasink
from ray.data.block import BlockAccessor
from ray.data.datasource import WriteResult

from cdp_ray_sinks.actors.specs import NAMESPACE
from cdp_ray_sinks.actors.warming import warm_kernels
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.row_batches import RowKind, RowMapping
from cdp_ray_sinks.ray_data.write_ids import new_id, time_of
from cdp_ray_sinks.ray_data.write_task import WritePlan, WriteReport, write_blocks


class CdpDatasink(Datasink[WriteReport]):
    """Writes rows into a running pipeline (`name`), or into one of its own (`config`).

    A row is an event, a log entry or a raw message; `columns` are our names to yours where
    they differ, see the page of this package. Rows without a column `workspace_id` belong to
    `workspace_id`; those without `received_at_ms` are received at `received_at_ms`, which is
    when the write begins. Rows that can't be sent end the write, or are kept as Parquet files
    in `bad_rows_to`.

    A task ends when its rows are durable. With `rows_per_task_min` Ray Data gives it several
    blocks, so that it makes messages of one while sinks write the ones before.

    Under the same `write_id` a write that failed can be run again: what is durable is not
    written twice. `report` tells what was done once the write has ended.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        config: PipelineConfig | str | Path | None = None,
        rows: RowKind = "events",
        columns: Mapping[str, str] | None = None,
        workspace_id: int | None = None,
        received_at_ms: int | None = None,
        bad_rows_to: str | Path | None = None,
        write_id: str | None = None,
        rows_per_task_min: int | None = None,
        namespace: str = NAMESPACE,
    ) -> None:
        if (name is None) == (config is None):
            raise ConfigError("CdpDatasink: give the name of a running pipeline, or a config")
        self._config = None if config is None else sinks_only(config)
        self._name = name if name is not None else self._own_config().pipeline.name
        self._namespace = namespace if self._config is None else self._config.ray.namespace
        self._mapping = RowMapping(rows, dict(columns or {}), workspace_id)
        self._bad_rows_to = None if bad_rows_to is None else str(Path(bad_rows_to).absolute())
        self._rows_per_task_min = rows_per_task_min
        self._write_id = write_id
        self._received_at_ms = received_at_ms
        if write_id is not None:
            self._received_at_ms = time_of("write_id", write_id, received_at_ms, self._mapping)
        self._pipeline: Pipeline | None = None
        self._plan: WritePlan | None = None
        self.report = WriteReport()

    def __getstate__(self) -> dict[str, Any]:
        """What tasks get: all but the pipeline, which is the driver's."""
        return {**self.__dict__, "_pipeline": None, "_config": None}

    def _own_config(self) -> PipelineConfig:
        assert self._config is not None
        return self._config

    @property
    def write_id(self) -> str | None:
        """What the write is known by: as given, or as made when it began."""
        return self._write_id if self._plan is None else self._plan.write_id

    def on_write_start(self, schema: Any = None) -> None:
        """Ray Data calls it on the driver, before the first task; starts a pipeline of its own."""
        made_id, received_at_ms = new_id(self._received_at_ms)
        self.report = WriteReport()
        self._plan = WritePlan(
            self._name, self._namespace, self._write_id or made_id, received_at_ms, self._mapping,
            self._bad_rows_to,
        )  # fmt: skip
        if self._config is not None:
            self._pipeline = Pipeline(self._config)
            self._pipeline.start()
        warm_kernels(lambda text: None)

    def write(self, blocks: Iterable[Any], ctx: Any) -> WriteReport:
        """Ray Data calls it in a task; on return the blocks' rows are durable."""
        assert self._plan is not None
        tables = (BlockAccessor.for_block(block).to_arrow() for block in blocks)
        return write_blocks(self._plan, str(ctx.task_idx), lambda: tables)

    def on_write_complete(self, write_result: WriteResult[WriteReport]) -> None:
        """Ray Data calls it on the driver after the last task; ends a pipeline of its own.

        Raises DrainTimeoutError if that could not close its sinks in time.
        """
        for report in write_result.write_returns:
            if report is not None:
                self.report.add(report)
        if self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            try:
                pipeline.drain()
            finally:
                pipeline.stop()

    def on_write_failed(self, error: Exception) -> None:
        """Ray Data calls it on the driver; what is durable stays, files are closed whole.

        Adds to the error how the rest is written.
        """
        if self._pipeline is not None:
            with contextlib.suppress(CdpError):
                self._pipeline.drain()
            self._pipeline.stop()
            self._pipeline = None
        if self._plan is not None:
            error.add_note(
                f"What sinks had made durable stays, and no file is half published. The same write "
                f"with write_id={self._plan.write_id!r} adds what is missing and nothing twice."
            )

    @property
    def min_rows_per_write(self) -> int | None:
        """How many rows Ray Data puts together for a task, at least."""
        return self._rows_per_task_min

    def get_name(self) -> str:
        """Names the operator in Ray Data's progress."""
        return f"CdpSinks({self._name})"


def sinks_only(config: PipelineConfig | str | Path) -> PipelineConfig:
    """A configuration, or that of a TOML file, without its sources."""
    found = config if isinstance(config, PipelineConfig) else load(config, needs_source=False)
    return found.model_copy(update={"sources": {}})
