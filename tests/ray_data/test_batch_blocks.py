"""Blocks by reference: the batches that tasks made are in the sinks, once, as their ids say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.batch_blocks import batch_blocks, send_blocks

ROWS = 40_000
NOW_MS = 1_767_225_600_000


def rows_of(numbers: Any) -> pa.Table:
    """Events of two workspaces with a running number and a payload of some length."""
    return pa.table(
        {
            "timestamp": NOW_MS + np.asarray(numbers),
            "workspace_id": 1 + np.asarray(numbers) % 2,
            "payload": [f'{{"n":{n},"text":"{n:064}"}}' for n in numbers],
        }
    )


def archived(path: Path, count: int) -> tuple[int, int]:
    """Numbers that are missing in an archive, and there twice."""
    numbers = RunningNumbers(count)
    for _, batch in read_batches([path], pytest.fail):
        numbers.add(decode_events(batch).table.column("payload"))
    return numbers.missing, numbers.duplicated


def test_rows_are_sent_by_reference_once(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Blocks larger and smaller than what the store keeps; the same again adds nothing."""
    import ray

    config = make_config(
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}, "none": {"type": "null"}}
    )
    rows = ray.data.range(ROWS, override_num_blocks=3).map_batches(
        lambda batch: rows_of(batch["id"]), batch_size=9_000
    )
    made = batch_blocks(rows, write_id="daily", received_at_ms=NOW_MS)
    made.context.execution_options.preserve_order = True
    with Pipeline(config) as pipeline:
        report = send_blocks(made, config.pipeline.name)
        assert report.outcomes == {"archive": {"durable": ROWS}, "none": {"durable": ROWS}}
        assert (report.events, report.rows) == (ROWS, ROWS)
        assert archived(tmp_path / "a", ROWS) == (0, 0)
        again = send_blocks(made.materialize(), config.pipeline.name)
        assert again.outcomes == report.outcomes
        assert pipeline.lane_metrics()["archive"].duplicates == report.batches
        few = batch_blocks(ray.data.from_arrow(rows_of(np.arange(5))), received_at_ms=NOW_MS)
        assert send_blocks(few, config.pipeline.name).events == 5
    assert archived(tmp_path / "a", ROWS) == (0, 5)
    assert verify(tmp_path / "a").ok


def test_raw_messages_are_sent_by_reference(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Each message is in the archive as it was, but for its key."""
    import ray

    (batch,) = synthetic_batches(5_000, "small", 5_000)
    column = pa.array([message.tobytes() for message in batch.messages()])
    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    rows = ray.data.from_arrow(pa.table({"message": column}))
    with Pipeline(config):
        made = batch_blocks(rows, rows="messages", workspace_id=3)
        assert send_blocks(made, config.pipeline.name).events == 5_000
    assert archived(tmp_path / "a", 5_000) == (0, 0)


def test_what_can_not_be_sent_is_said(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Rows that are no batches, no pipeline, batches that are cut, other rows under an id."""
    import ray

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    rows = ray.data.from_arrow(rows_of(np.arange(2_000)))
    made = batch_blocks(rows, write_id="daily", received_at_ms=NOW_MS).materialize()
    with pytest.raises(ConfigError, match="no pipeline named 'nobody' runs"):
        send_blocks(made, "nobody")
    with pytest.raises(ConfigError, match="received_at_ms"):
        batch_blocks(rows, write_id="daily")
    with Pipeline(config):
        name = config.pipeline.name
        with pytest.raises(ConfigError, match="make them with batch_blocks"):
            send_blocks(rows, name)
        send_blocks(made, name)
        other = ray.data.from_arrow(rows_of(np.arange(1, 2_001)))
        with pytest.raises(Exception, match="An earlier try under this id had other rows"):
            send_blocks(batch_blocks(other, write_id="daily", received_at_ms=NOW_MS), name)
        bad = ray.data.from_arrow(pa.table({"timestamp": [NOW_MS, -1], "workspace_id": [1, 1]}))
        with pytest.raises(Exception, match="1 rows can't be sent: row 1"):
            send_blocks(batch_blocks(bad), name)
        kept = batch_blocks(bad, bad_rows_to=tmp_path / "bad")
        assert send_blocks(kept, name).events == 1
    assert list((tmp_path / "bad").rglob("*.parquet"))
