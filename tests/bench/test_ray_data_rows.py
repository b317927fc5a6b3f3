"""The rows of Ray Data find all that was written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_ray_sinks.bench import archive_read_rows, ray_data_rows
from cdp_ray_sinks.bench.settings import Settings

MIB = 1024 * 1024
EVENTS = 6_000


def test_all_rows_are_read_back(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event once, on both sides of what is compared; the files are gone afterwards."""
    for module in (ray_data_rows, archive_read_rows):
        monkeypatch.setattr(module, "GIB", 128 * MIB)  # the cluster of the session is small
    monkeypatch.setattr(ray_data_rows, "BLOCK_EVENTS", 1_000)
    settings = Settings(EVENTS, 1, "small", tmp_path, lambda text: None)
    rows = list(ray_data_rows.ray_data_rows(settings))
    assert [row.variant for row in rows] == [
        "parquet_durable", "parquet_files", "read_plain", "read_lz4", "dataset_plain",
        "dataset_lz4",
    ]  # fmt: skip
    assert all(row.read_back == row.events == EVENTS for row in rows)
    assert all(row.ratio and row.limit for row in rows)
    assert not list(tmp_path.iterdir())
