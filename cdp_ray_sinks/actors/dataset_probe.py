"""What Ray Data does with the same rows: what whole sinks are compared with."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa


def dataset_written_s(
    blocks: Sequence[pa.Table], directory: Path, options: dict[str, Any]
) -> float:
    """Seconds that `Dataset.write_parquet` takes for blocks that are in the object store.

    `options` are those of `pyarrow.parquet.ParquetWriter`; the files are removed. Uses the
    cluster that the process is connected to.
    """
    with dataset_of(blocks) as dataset:
        began = time.perf_counter()
        dataset.write_parquet(str(directory), **options)
        taken_s = time.perf_counter() - began
    shutil.rmtree(directory)
    return taken_s


def dataset_inserted_s(blocks: Sequence[pa.Table], table: str, dsn: str) -> float:
    """Seconds that `Dataset.write_clickhouse` takes to append the same to a table."""
    with dataset_of(blocks) as dataset:
        from ray.data import SinkMode

        began = time.perf_counter()
        dataset.write_clickhouse(table, dsn, mode=SinkMode.APPEND)
        return time.perf_counter() - began


def table_files(directory: Path) -> Any:
    """A Dataset of the Parquet files of a directory, as Ray Data reads them."""
    import ray.data

    return ray.data.read_parquet(str(directory))


@contextmanager
def dataset_of(blocks: Sequence[pa.Table]) -> Iterator[Any]:
    """The blocks in the object store, and Ray Data without what it has to say of each step."""
    with quiet_ray_data():
        import ray.data

        yield ray.data.from_arrow(list(blocks)).materialize()


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without progress and without warnings; as it was before, afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray.data

            ray.data.DataContext.get_current().enable_progress_bars = False
            yield
    finally:
        logging.disable(before)
