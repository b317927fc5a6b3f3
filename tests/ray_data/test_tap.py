"""Rows that pass a tap: in the sinks once, and handed on as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.tap import CdpTap

ROWS = 12_000
NOW_MS = 1_767_225_600_000
NAMES = {"timestamp": "at"}


def rows_of(numbers: Any) -> pa.Table:
    """Events with a running number, and a column that no sink wants."""
    return pa.table(
        {
            "at": pa.array(NOW_MS + np.asarray(numbers), pa.timestamp("ms")),
            "payload": pa.array([f'{{"n":{n}}}' for n in numbers]),
            "n": pa.array(np.asarray(numbers)),
        }
    )


def archived(path: Path) -> tuple[int, int]:
    """Numbers that are missing in an archive, and there twice."""
    numbers = RunningNumbers(ROWS)
    for _, batch in read_batches([path], pytest.fail):
        numbers.add(decode_events(batch).table.column("payload"))
    return numbers.missing, numbers.duplicated


def test_rows_go_on_unchanged_and_land_once(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """A task that is killed behind the tap, and the same dataset again, add nothing twice."""
    import ray

    marker = tmp_path / "killed"

    def killed_once(table: pa.Table) -> pa.Table:
        if table["n"][0].as_py() == ROWS // 2 + 2_000 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return table

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    tap = CdpTap(config.pipeline.name, columns=NAMES, workspace_id=5)
    made = ray.data.range(ROWS, override_num_blocks=2).map_batches(
        lambda batch: rows_of(batch["id"]), batch_size=2_000
    )
    passed = made.map_batches(tap, batch_format="pyarrow", batch_size=1_000).map_batches(
        killed_once, batch_format="pyarrow", batch_size=1_000
    )
    passed.context.execution_options.preserve_order = True
    with Pipeline(config) as pipeline:
        there = passed.materialize()
        assert marker.exists()
        assert archived(tmp_path / "a") == (0, 0)
        assert there.schema().names == ["at", "payload", "n"]
        assert sorted(row["n"] for row in there.iter_rows()) == list(range(ROWS))
        known = pipeline.lane_metrics()["archive"].duplicates
        assert known > 0
        assert passed.count() == ROWS  # executes it all again
        assert archived(tmp_path / "a") == (0, 0)
        assert pipeline.lane_metrics()["archive"].duplicates >= known + ROWS // 1_000


def test_bad_rows_end_it_or_are_kept(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """As of a write; what is handed on has them all the same, in whatever form it came."""
    import ray

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    kinds = ["track", "page", "identify", "track"]
    rows = ray.data.from_arrow(pa.table({"timestamp": [NOW_MS] * 4, "event_type": kinds}))
    with Pipeline(config):
        with pytest.raises(Exception, match="1 rows can't be sent: row 1: column 'event_type'"):
            rows.map_batches(CdpTap(config.pipeline.name, workspace_id=1)).materialize()
        tap = CdpTap(config.pipeline.name, workspace_id=1, bad_rows_to=tmp_path / "bad")
        for form in ("numpy", "pandas", "pyarrow"):
            assert rows.map_batches(tap, batch_format=form).count() == 4
    found = [decode_events(batch).table for _, batch in read_batches([tmp_path / "a"], pytest.fail)]
    assert sum(table.num_rows for table in found) == 3
    assert list((tmp_path / "bad" / tap.tap_id).glob("*.parquet"))


def test_where_it_can_not_be_is_said(quiet_ray_data: None) -> None:
    """Out of Ray Data, in the actors of a pool, where tasks begin again, without a time."""
    import ray

    with pytest.raises(ConfigError, match="to be called by Ray Data"):
        CdpTap("nobody")({"timestamp": np.array([NOW_MS])})
    with pytest.raises(ConfigError, match="received_at_ms"):
        CdpTap("nobody", tap_id="daily")
    rows = ray.data.from_items([{"timestamp": NOW_MS}])
    with pytest.raises(Exception, match="no pipeline named 'nobody' runs"):
        rows.map_batches(CdpTap("nobody", workspace_id=1)).materialize()
    pool = rows.map_batches(CdpTap, fn_constructor_args=("nobody",), concurrency=1)
    with pytest.raises(Exception, match="inside an actor give tap_id"):
        pool.materialize()
    retried = rows.map_batches(CdpTap("nobody", workspace_id=1))
    retried.context.retried_map_errors, retried.context.max_map_retries = True, 2
    with pytest.raises(Exception, match="retried_map_errors is set"):
        retried.materialize()
