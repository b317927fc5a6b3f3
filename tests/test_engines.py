"""The README's table of engines: each of its lines, run as it stands, on files of ours.

Every engine must show real timestamps and the ids that went in.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from glob import glob
from os.path import abspath
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.writers.parquet import ParquetFile

README = Path(__file__).parents[1] / "README.md"
EVENTS = 1000


def query_of(engine: str) -> str:
    """What the README's table says for an engine."""
    found = re.search(rf"^\| {re.escape(engine)} \| `(.+?)`", README.read_text(), re.MULTILINE)
    assert found, f"the README's table has no line for {engine}"
    return found[1]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """What is in each of the files."""
    return synthetic_batches(EVENTS, "tell", EVENTS)[0]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory, batch: Batch) -> Path:
    """The folder in which the README's relative path leads to two files."""
    folder = tmp_path_factory.mktemp("engines")
    for hour in ("13", "14"):
        place = folder / "quickstart-data/warehouse/1/2026-11-22" / hour
        place.mkdir(parents=True)
        file = ParquetFile(place / "events.parquet", "events", 1)
        file.add([batch])
        file.finish({})
        (place / ".events-1.inprogress").write_bytes(b"not yet")
    return folder


@pytest.fixture(scope="module")
def expected(batch: Batch) -> set[tuple[datetime, str]]:
    """Time and device of each event that went in."""
    table = decode_events(batch).table
    devices = [str(UUID(bytes=device)) for device in table.column("device_id").to_pylist()]
    return {
        (at(time), device)
        for time, device in zip(table.column("timestamp").to_pylist(), devices, strict=True)
    }


def at(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)


def as_uuid(value: Any) -> str:
    """The id as text, of whichever form an engine shows it in."""
    return str(value) if isinstance(value, UUID) else str(UUID(str(value)))


def check(rows: Iterable[tuple[Any, Any]], expected: set[tuple[datetime, str]]) -> None:
    found = [(time, as_uuid(device)) for time, device in rows]
    assert all(isinstance(time, datetime) for time, _ in found)
    assert len(found) == 2 * EVENTS
    assert {(time.astimezone(UTC), device) for time, device in found} == expected


@pytest.fixture(autouse=True)
def _in_warehouse(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(warehouse)


def test_duckdb(expected: set[tuple[datetime, str]]) -> None:
    """DuckDB has both types."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    table = connection.sql(query_of("DuckDB")).to_arrow_table()
    check(zip(*(column.to_pylist() for column in table.columns), strict=True), expected)


def test_clickhouse(warehouse: Path, expected: set[tuple[datetime, str]]) -> None:
    """So has ClickHouse; its engine lives in a process of its own."""
    code = f"import chdb; print(chdb.query({query_of('ClickHouse, chDB')!r}, 'TSV'))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=warehouse, capture_output=True, text=True, check=True
    )
    rows = [line.split("\t") for line in answer.stdout.strip().splitlines()]
    check(
        ((datetime.fromisoformat(time).replace(tzinfo=UTC), device) for time, device in rows),
        expected,
    )


def test_pandas(expected: set[tuple[datetime, str]]) -> None:
    """Timestamps with a time zone, and uuid.UUID."""
    import pandas as pd

    frame = eval(query_of("pandas"), {"pd": pd, "glob": glob})
    assert str(frame["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert all(isinstance(device, UUID) for device in frame["device_id"])
    times = [time.to_pydatetime() for time in frame["timestamp"]]
    check(zip(times, frame["device_id"], strict=True), expected)


def test_polars(expected: set[tuple[datetime, str]]) -> None:
    """Datetime in UTC; ids as hex."""
    import polars as pl

    frame = eval(query_of("Polars"), {"pl": pl}).collect()
    check(frame.iter_rows(), expected)


def test_ray_data(cluster: None, expected: set[tuple[datetime, str]]) -> None:
    """Arrow's own types."""
    import ray

    dataset = eval(query_of("Ray Data"), {"ray": ray, "glob": glob, "abspath": abspath})
    check(((row["timestamp"], row["device_id"]) for row in dataset.take_all()), expected)


@pytest.mark.spark
def test_spark(expected: set[tuple[datetime, str]]) -> None:
    """Timestamps; ids as hex."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    try:
        rows = eval(query_of("Spark"), {"spark": spark}).collect()
    finally:
        spark.stop()
    check(((row.timestamp.astimezone(UTC), row.device_id) for row in rows), expected)


def test_in_hex_and_in_text_an_id_is_the_same() -> None:
    """The comparison above takes both forms for one id."""
    raw = np.arange(16, dtype=np.uint8).tobytes()
    assert as_uuid(raw.hex()) == as_uuid(UUID(bytes=raw)) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
