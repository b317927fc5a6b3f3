"""The HTTP rows at a tiny size."""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.bench.http_rows import http_rows
from cdp_ray_sinks.bench.settings import Settings


def test_each_row_finds_every_event(tmp_path: Path) -> None:
    """Lines alone and through sockets."""
    settings = Settings(2500, 1, "tell", tmp_path, lambda text: None)
    rows = list(http_rows(settings))
    assert [row.variant for row in rows] == [
        "lines to messages", "lines to messages", "16 connections", "1000 connections"
    ]  # fmt: skip
    assert all(row.read_back == row.events == 2500 for row in rows)
