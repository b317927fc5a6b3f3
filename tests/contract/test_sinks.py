"""Every registered sink keeps every promise of a sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.sinks.registry import SINKS, load_config
from cdp_ray_sinks.testing import (
    FakeClock,
    check_sink,
    numbered_batch,
    numbered_events,
    numbers_in,
    numbers_in_clickhouse,
    numbers_in_lines,
    numbers_in_warehouse,
)

ReadBack = Callable[[], Sequence[int]] | None

# How each type is configured for a test, and how its destination is read back.
DESTINATIONS: dict[str, Callable[[Path, Any], tuple[dict[str, Any], ReadBack]]] = {
    "clickhouse": lambda folder, _: (
        {"url": f"chdb://{folder}", "create_tables": True},
        lambda: numbers_in_clickhouse(folder),
    ),
    "forwarder": lambda folder, collectors: _region(
        collectors.Region(folder, forwarding=True, ack=True)
    ),
    "null": lambda folder, _: ({}, None),
    "stdout": lambda folder, _: ({}, None),
    "disk_binary": lambda folder, _: ({"path": folder}, lambda: numbers_in(folder)),
    "disk_plaintext": lambda folder, _: (
        {"path": folder},
        lambda: numbers_in_lines(folder),
    ),
    "parquet": lambda folder, _: ({"path": folder}, lambda: numbers_in_warehouse(folder)),
}


def _region(far: Any) -> tuple[dict[str, Any], ReadBack]:
    """A tcp source that takes what is sent on."""
    return {"target": far.target, "api_key": far.key.hex()}, far.numbers


# Options that make a type write otherwise; the promises are checked with each of them too.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "clickhouse": [{"compression": "none", "rows_per_insert": 1000, "all_events": True}],
    "disk_binary": [
        {"compression": "lz4"},
        {"compression": "lz4", "lz4_preset": "fast", "fsync": "off"},
        {"compression": "lz4", "lz4_preset": "max", "lz4_level": 3, "rotation": "daily"},
    ],
    "disk_plaintext": [{"compression": "lz4", "fsync": "off"}, {"buffer_bytes": 65_536}],
    "forwarder": [{"ack": True}],
    "parquet": [
        {"compression": "zstd", "compression_level": 3, "rotation": "daily"},
        {"compression": "lz4", "fsync": "off", "buffer_rows": 5000},
        {"compression": "none", "segment_bytes_max": 1_000_000},
        {"journal": "off"},
        {"journal": "off", "rotation": "daily", "buffer_rows": 3000, "publish_age_s_max": 0},
    ],
}


def _sendable(number: int, workspace_id: int, record_bytes: int, messages: int = 1) -> Batch:
    """As `numbered_events`, none larger than a frame may be under any envelope."""
    return numbered_events(number, workspace_id, min(record_bytes, 16_000_000), messages)


# Types that decode what they are given want batches that can be.
BATCHES = {
    "clickhouse": numbered_events,
    "forwarder": _sendable,
    "parquet": numbered_events,
}


@pytest.mark.parametrize(
    ("sink_type", "variant"),
    [(kind, variant) for kind in sorted(SINKS) for variant in [{}, *VARIANTS.get(kind, [])]],
)
def test_the_sink_keeps_its_promises(
    sink_type: str, variant: dict[str, Any], tmp_path: Path, collectors: Any
) -> None:
    """Opening, writing, flushing, closing, a second life; nothing lost, nothing twice."""
    assert sink_type in DESTINATIONS, f"say here how to read back what {sink_type} wrote"
    options, read_back = DESTINATIONS[sink_type](tmp_path / "destination", collectors)
    new_batch = BATCHES.get(sink_type, numbered_batch)
    config = load_config(sink_type, options | variant)
    check_sink(config, FakeClock(), read_back, new_batch, tmp_path / "state")
