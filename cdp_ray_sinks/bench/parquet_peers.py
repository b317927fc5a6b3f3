"""Other writers of Parquet on the same rows, ready as a table: needs the extra `bench`.

Each writes row groups of as many rows with the same codec and level, otherwise as it does by
itself, with as many threads as it takes. The sizes tell what the speed was bought with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.bench.limits import prime
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.parquet_material import (
    BATCH_EVENTS,
    GROUP_ROWS,
    ROW_BYTES_PRIMED,
    numbers_found,
    options_of,
    ready_table,
    table_written_s,
)
from cdp_ray_sinks.bench.rows import Row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.writers.parquet import ParquetSettings

LIMIT: Final = "pq.write_table"
CODECS: Final = {"snappy": None, "zstd": 1}

Write: TypeAlias = Callable[[Path, str, int | None], None]


def peer_rows(settings: Settings, file_system: str) -> Iterator[Row]:
    """peer_pyarrow, peer_polars and peer_duckdb, each with snappy and zstd.

    `ratio` is their rate over that of `pq.write_table` with our settings on one core.
    """
    writers = _writers_of(settings)
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    record_bytes = sum(len(batch.records) for batch in batches)
    table = ready_table(batches, settings.directory)
    for name, new_writer in writers.items():
        write = new_writer(table)
        for codec, level in CODECS.items():
            settings.say(f"parquet peer {name}, {codec}")
            laps = [_lap(settings, table, write, codec, level) for _ in range(settings.repeat + 1)][
                1:
            ]
            path_s = median(lap[0] for lap in laps)
            ratios = [limit_s / path_s for path_s, limit_s, *_ in laps]
            yield Row(
                "parquet", f"peer_{name}_{codec}", settings.events, min(lap[3] for lap in laps),
                settings.events / path_s, record_bytes / path_s, LIMIT,
                record_bytes / median(lap[1] for lap in laps), median(ratios), min(ratios),
                max(ratios), file_system, bytes_per_event=laps[0][2] / settings.events,
            )  # fmt: skip


def _lap(
    settings: Settings, table: pa.Table, write: Write, codec: str, level: int | None
) -> tuple[float, float, int, int]:
    """Seconds of the peer and of the limit, bytes of the peer's file and events found in it."""
    path = settings.directory / "peer.parquet"
    prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
    began = time.perf_counter()
    write(path, codec, level)
    path_s = time.perf_counter() - began
    written_bytes, found = path.stat().st_size, numbers_found([path], settings.events)
    path.unlink()
    prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
    chosen = ParquetSettings("zstd" if codec == "zstd" else "snappy")
    limit_s = table_written_s(table, path, options_of(chosen, table))
    path.unlink()
    return path_s, limit_s, written_bytes, found


def _writers_of(settings: Settings) -> dict[str, Callable[[pa.Table], Write]]:
    try:
        import duckdb  # noqa: F401
        import polars  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"bench --peers needs {error.name}: pip install 'cdp-ray-sinks[bench]'"
        ) from None
    return {"pyarrow": _pyarrow, "polars": _polars, "duckdb": _duckdb}


def _pyarrow(table: pa.Table) -> Write:
    def write(path: Path, codec: str, level: int | None) -> None:
        pq.write_table(
            table, path, compression=codec, compression_level=level, row_group_size=GROUP_ROWS
        )

    return write


def _polars(table: pa.Table) -> Write:
    import polars

    frame: Any = polars.from_arrow(_without_extensions(table))

    def write(path: Path, codec: str, level: int | None) -> None:
        frame.write_parquet(
            path, compression=codec, compression_level=level, row_group_size=GROUP_ROWS
        )

    return write


def _duckdb(table: pa.Table) -> Write:
    import duckdb

    connection = duckdb.connect()
    connection.register("rows", table)

    def write(path: Path, codec: str, level: int | None) -> None:
        more = "" if level is None else f", COMPRESSION_LEVEL {level}"
        connection.execute(
            f"COPY rows TO '{path}' (FORMAT parquet, COMPRESSION {codec}{more}, "
            f"ROW_GROUP_SIZE {GROUP_ROWS})"
        )

    return write


def _without_extensions(table: pa.Table) -> pa.Table:
    """UUIDs as their 16 bytes, for an engine that has no such type."""
    columns = [
        column.cast(column.type.storage_type)
        if isinstance(column.type, pa.BaseExtensionType)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
