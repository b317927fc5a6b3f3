"""The rows of Ray Data find all that was written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_ray_sinks.bench import archive_read_rows, ray_data_rows
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.ray_data_material import numbers_in, row_blocks
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.ray_data.row_batches import BlockRows, RowMapping

MIB = 1024 * 1024
EVENTS = 6_000


def test_blocks_hold_the_same_rows() -> None:
    """Each number once, the workspaces in turn, all of them rows that can be sent."""
    batches = synthetic_batches(EVENTS, "small", 1_000)
    blocks = row_blocks(batches, [3, 4])
    assert [block.column("workspace_id")[0].as_py() for block in blocks] == [3, 4] * 3
    payloads = [block.column("payload") for block in blocks]
    assert numbers_in(payloads, EVENTS) == EVENTS
    assert numbers_in([*payloads, payloads[0]], EVENTS) == EVENTS - 1_000
    for block in blocks:
        assert not BlockRows(block, RowMapping("events", {}, None), 1_700_000_000_000).bad_rows


@pytest.mark.soak
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
        "datasink_durable", "datasink_files", "blocks_durable", "blocks_files",
        "read_plain", "read_lz4", "dataset_plain", "dataset_lz4",
    ]  # fmt: skip
    assert all(row.read_back == row.events == EVENTS for row in rows)
    assert all(row.ratio and row.limit for row in rows)
    assert not list(tmp_path.iterdir())
