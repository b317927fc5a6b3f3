"""What Ray Data does with the same rows: the limit that a whole sink is compared with."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Sequence
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
    logging.disable(logging.WARNING)  # it tells of every step
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray.data

            ray.data.DataContext.get_current().enable_progress_bars = False
            dataset = ray.data.from_arrow(list(blocks)).materialize()
            began = time.perf_counter()
            dataset.write_parquet(str(directory), **options)
            taken_s = time.perf_counter() - began
    finally:
        logging.disable(logging.NOTSET)
    shutil.rmtree(directory)
    return taken_s
