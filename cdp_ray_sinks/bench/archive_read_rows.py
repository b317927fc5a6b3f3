"""`read_archive` on one core and as a Dataset, of a plain and of a compressed archive."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.actors.dataset_probe import quiet_ray_data, table_files
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.bench.lanes import submitted_s
from cdp_ray_sinks.bench.ray_data_material import numbers_in, row_blocks
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.archive_datasource import ArchiveDatasource, read_archive

WORKSPACE: Final = 1
SELECTION: Final = Selection(schema_types=frozenset([int(SchemaType.EVENT)]))
GIB: Final = 1024 * 1024 * 1024


def archive_read_rows(
    settings: Settings, batches: Sequence[Batch], file_system: str
) -> Iterator[Row]:
    """read_plain, read_lz4 of one core's reading task; dataset_plain, dataset_lz4 of all cores.

    All columns of all rows are decoded. What is read is in the page cache, on both sides.
    """
    base = settings.directory / "archives"
    kinds = {"plain": "none", "lz4": "lz4"}
    sinks = {
        name: {"type": "disk_binary", "path": base / name, "compression": compression}
        for name, compression in kinds.items()
    }
    config = PipelineConfig(
        pipeline={"name": "bench-archives", "state_dir": base / "state"},
        ray={"object_store_bytes": 2 * GIB}, sinks=sinks,
        delivery={"window_bytes": GIB // 4},
    )  # fmt: skip
    tables = base / "tables"
    with Pipeline(config, settings.say) as pipeline, quiet_ray_data():
        submitted_s(pipeline.producer("archives"), batches)
        write_tables(batches, tables)
        for name in kinds:
            settings.say(f"ray_data: reading, {name}, one core")
            yield _row(settings, batches, f"read_{name}", file_system, base / name, _in_process)
        for name in kinds:
            settings.say(f"ray_data: reading, {name}, as a Dataset beside read_parquet")
            yield _row(
                settings, batches, f"dataset_{name}", file_system, base / name, _as_dataset,
                tables,
            )  # fmt: skip
    shutil.rmtree(base)


def write_tables(batches: Sequence[Batch], directory: Path) -> None:
    """The same rows as Parquet files of the library's own settings, a file for each batch."""
    import pyarrow.parquet as pq

    directory.mkdir(parents=True)
    for place, block in enumerate(row_blocks(batches, [WORKSPACE])):
        pq.write_table(block, directory / f"{place}.parquet")


def _row(
    settings: Settings, batches: Sequence[Batch], variant: str, file_system: str, path: Path,
    read: Callable[[Path], tuple[float, list[Any]]], tables: Path | None = None,
) -> Row:  # fmt: skip
    laps, read_back = [], settings.events
    for lap in range(settings.repeat + 1):
        path_s, payloads = read(path)
        read_back = min(read_back, numbers_in(payloads, settings.events))
        limit_s = _files_s(path) if tables is None else _tables_s(tables)
        if lap:  # the first lap warms both sides
            laps.append(Lap(path_s, limit_s))
    return rate_row(
        "ray_data", variant, laps, events=settings.events,
        record_bytes=sum(len(batch.records) for batch in batches), read_back=read_back,
        limit="reading the file" if tables is None else "Dataset.read_parquet",
        file_system=file_system,
    )  # fmt: skip


def _in_process(path: Path) -> tuple[float, list[Any]]:
    """Seconds of one reading task in this process, which has one thread; the payloads."""
    source = ArchiveDatasource(path, SELECTION, "events", None, skips_damage=False)
    (task,) = source.get_read_tasks(1)
    payloads: list[Any] = []
    taken_s = 0.0
    blocks = iter(task())
    while True:
        began = time.perf_counter()
        block = next(blocks, None)
        taken_s += time.perf_counter() - began
        if block is None:
            return taken_s, payloads
        payloads.append(block.column("payload"))


def _as_dataset(path: Path) -> tuple[float, list[Any]]:
    began = time.perf_counter()
    made = read_archive(path).materialize()
    taken_s = time.perf_counter() - began
    blocks = made.iter_batches(batch_size=None, batch_format="pyarrow")
    return taken_s, [block.column("payload") for block in blocks]


def _tables_s(directory: Path) -> float:
    began = time.perf_counter()
    table_files(directory).materialize()
    return time.perf_counter() - began


def _files_s(path: Path) -> float:
    """Seconds to read the bytes of the segments into memory that is used again."""
    buffer = memoryview(bytearray(8 * 1024 * 1024))
    began = time.perf_counter()
    for file in path.rglob("data.bin*"):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - began
