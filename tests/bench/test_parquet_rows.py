"""The rows of the Parquet benchmark find all that they wrote."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.bench.lanes import spread, workspaces_by_lane
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.parquet_material import numbers_found, options_of, ready_table
from cdp_ray_sinks.bench.parquet_peers import peer_rows
from cdp_ray_sinks.bench.parquet_rows import writer_rows
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.writers.parquet import ParquetSettings

EVENTS = 6_000


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return Settings(EVENTS, 2, "tell", tmp_path, lambda text: None)


def test_the_writers_rows_are_read_back(small: Settings) -> None:
    """Each event once, compared with a limit, and no file is left."""
    rows = list(writer_rows(small, "ext4"))
    assert [row.variant for row in rows] == [
        "encode_snappy", "size_snappy", "encode_zstd", "size_zstd",
    ]  # fmt: skip
    assert all(row.read_back == row.events == EVENTS for row in rows)
    assert all(row.limit == "pq.write_table" and row.ratio for row in rows)
    assert all(row.bytes_per_event for row in rows if row.variant.startswith("size"))
    assert not list(small.directory.iterdir())


def test_the_peers_rows_are_read_back(small: Settings) -> None:
    """Three writers with two codecs each, of the same rows."""
    rows = list(peer_rows(small, "ext4"))
    assert {row.variant for row in rows} == {
        f"peer_{name}_{codec}"
        for name in ("pyarrow", "polars", "duckdb")
        for codec in ("snappy", "zstd")
    }
    assert all(row.read_back == EVENTS for row in rows)
    assert all(row.bytes_per_event and row.ratio for row in rows)


def test_a_number_that_is_missing_or_twice_is_not_found(tmp_path: Path) -> None:
    """What is counted is what is in the files."""
    batches = synthetic_batches(EVENTS, "tell", 2_000)
    path = tmp_path / "some.parquet"
    table = ready_table(batches, tmp_path)
    assert table.num_rows == EVENTS
    assert all(column.num_chunks == 1 for column in table.columns)
    pq.write_table(table, path, **options_of(ParquetSettings(), table))
    assert numbers_found([path], EVENTS) == EVENTS
    assert numbers_found([path, path], EVENTS) == 0
    pq.write_table(table.slice(7), path)
    assert numbers_found([path], EVENTS) == EVENTS - 7


def test_batches_are_shared_out_in_turn() -> None:
    """Each lane has as many, and one after the other is submitted."""
    batches = synthetic_batches(5_000, "tell", 1_000)
    own = next(workspaces_by_lane(2))
    assert len(set(own)) == 2
    found = spread(batches, own)
    first, second = own
    assert [batch.header.workspace_id for batch in found] == [first, second, first, second, first]
    assert sorted(b.header.sequence for b in found) == sorted(b.header.sequence for b in batches)
