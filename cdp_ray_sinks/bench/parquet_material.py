"""The same rows for all who write Parquet: as batches, and as a table that is ready."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings
from cdp_ray_sinks.writers.parquet_settings import writer_options

BATCH_EVENTS: Final = 50_000
GROUP_ROWS: Final = 100_000
STREAM: Final = "events"
ROW_BYTES_PRIMED: Final = 64
"""More than a row takes in a file."""


def encoded_s(
    batches: Sequence[Batch], path: Path, settings: ParquetSettings, buffers: DecodeBuffers
) -> float:
    """Seconds to make one file of the batches, which is not synced."""
    began = time.perf_counter()
    file = ParquetFile(path, STREAM, batches[0].header.workspace_id, settings, buffers)
    file.add(batches)
    file.finish({})
    return time.perf_counter() - began


def table_written_s(table: pa.Table, path: Path, options: dict[str, Any]) -> float:
    """Seconds that `pq.write_table` takes for the table, which is not synced."""
    began = time.perf_counter()
    pq.write_table(table, path, row_group_size=GROUP_ROWS, **options)
    return time.perf_counter() - began


def options_of(settings: ParquetSettings, table: pa.Table) -> dict[str, Any]:
    """What our own files are written with, for others."""
    return writer_options(settings, table.schema)


def ready_table(batches: Sequence[Batch], directory: Path) -> pa.Table:
    """The rows of the batches, sorted as in a file of ours, each column in one piece."""
    path = directory / "ready.parquet"
    encoded_s(batches, path, ParquetSettings("none"), DecodeBuffers())
    table = pq.read_table(path).unify_dictionaries().combine_chunks()
    path.unlink()
    return table


def numbers_found(paths: Sequence[Path], events: int) -> int:
    """How many of the running numbers are in the files exactly once."""
    numbers = RunningNumbers(events)
    for path in paths:
        numbers.add(pq.read_table(path, columns=["payload"])["payload"])
    return events - numbers.missing - numbers.duplicated
