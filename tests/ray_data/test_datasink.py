"""Rows of a dataset in sinks: all of them, once, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.datasink import CdpDatasink

ROWS = 40_000
NOW_MS = 1_767_225_600_000


def rows_of(numbers: Any, marker: Path | None = None, last: int = -1) -> pa.Table:
    """Events with a running number; once, at number `last`, the process that makes them dies."""
    first = int(numbers[0])
    if marker is not None and first <= last < first + len(numbers) and not marker.exists():
        marker.touch()
        time.sleep(1)  # what was sent before is durable by now
        os.kill(os.getpid(), signal.SIGKILL)
    return pa.table(
        {
            "at": pa.array(NOW_MS + np.asarray(numbers), pa.timestamp("ms")),
            "what": pa.array(["Page Viewed"] * len(numbers)),
            "workspace_id": pa.array(1 + np.asarray(numbers) % 2),
            "payload": pa.array([f'{{"n":{n}}}' for n in numbers]),
        }
    )


def archived(path: Path, count: int) -> tuple[int, int]:
    """Numbers that are missing in an archive, and there twice."""
    numbers = RunningNumbers(count)
    for _, batch in read_batches([path], pytest.fail):
        numbers.add(decode_events(batch).table.column("payload"))
    return numbers.missing, numbers.duplicated


def tabled(path: Path, count: int) -> tuple[int, int]:
    """The same of Parquet files."""
    numbers = RunningNumbers(count)
    for file in path.rglob("*.parquet"):
        numbers.add(pq.read_table(file, columns=["payload"])["payload"])
    return numbers.missing, numbers.duplicated


def test_a_write_goes_on_after_its_worker_is_killed(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Its batches come again under their ids: the lanes that had them say so, no row is twice."""
    import ray

    config = make_config(
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"},
               "tables": {"type": "parquet", "path": tmp_path / "p"}}
    )  # fmt: skip
    made = ray.data.range(ROWS, override_num_blocks=2).map_batches(
        lambda batch: rows_of(batch["id"], tmp_path / "killed", 15_000), batch_size=2_000
    )
    made.context.target_max_block_size = 64 * 1024  # some are written before others are made
    sink = CdpDatasink(config.pipeline.name, columns={"timestamp": "at", "event_name": "what"})
    with Pipeline(config) as pipeline:
        made.write_datasink(sink)
        assert (tmp_path / "killed").exists()
        assert archived(tmp_path / "a", ROWS) == (0, 0)
        known = {name: metrics.duplicates for name, metrics in pipeline.lane_metrics().items()}
        assert all(count > 0 for count in known.values()), known
    assert tabled(tmp_path / "p", ROWS) == (0, 0)
    assert verify(tmp_path / "a").ok
    assert sink.report.events == ROWS
    assert sink.report.outcomes == {"archive": {"durable": ROWS}, "tables": {"durable": ROWS}}


def test_a_failed_write_is_completed_under_its_id(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """What was durable stays and is not written twice; the error says how to go on."""
    import ray

    def failing(batch: dict[str, Any]) -> pa.Table:
        if batch["id"][0] >= ROWS // 2 and not (tmp_path / "mended").exists():
            time.sleep(2)  # the other task is done
            raise ValueError("no rows here")
        return rows_of(batch["id"])

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    made = ray.data.range(ROWS, override_num_blocks=4).map_batches(failing)
    names = {"timestamp": "at", "event_name": "what"}
    sink = CdpDatasink(config=config, columns=names)
    with pytest.raises(Exception, match="no rows here") as failed:
        made.write_datasink(sink)
    assert f"write_id={sink.write_id!r}" in failed.value.__notes__[-1]
    missing, twice = archived(tmp_path / "a", ROWS)
    assert (missing >= ROWS // 2, twice) == (True, 0)
    (tmp_path / "mended").touch()
    again = CdpDatasink(config=config, columns=names, write_id=sink.write_id)
    made.write_datasink(again)
    assert archived(tmp_path / "a", ROWS) == (0, 0)


def test_other_rows_under_the_same_id_are_refused(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """A write that makes other rows when it is run again ends with an error that says so."""
    import ray

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    with Pipeline(config):
        for number in (1, 2):
            sink = CdpDatasink(
                config.pipeline.name, workspace_id=1, write_id="daily", received_at_ms=NOW_MS
            )
            made = ray.data.from_arrow(rows_of(np.arange(number, number + 5)).drop("workspace_id"))
            made = made.rename_columns({"at": "timestamp"})
            if number == 1:
                made.write_datasink(sink)
                continue
            with pytest.raises(Exception, match="An earlier try under this id had other rows"):
                made.write_datasink(sink)


def test_bad_rows_are_named_or_kept(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Without a place for them they end the write; with one the others are written."""
    import ray

    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    table = pa.table({"timestamp": [NOW_MS, None, NOW_MS], "level": ["info", "info", "loud"]})
    with Pipeline(config):
        made = ray.data.from_arrow(table)
        sink = CdpDatasink(config.pipeline.name, rows="logs", workspace_id=4)
        with pytest.raises(Exception, match="2 rows can't be sent: row 1: column 'timestamp'"):
            made.write_datasink(sink)
        sink = CdpDatasink(
            config.pipeline.name, rows="logs", workspace_id=4, bad_rows_to=tmp_path / "bad"
        )
        made.write_datasink(sink)
    assert (sink.report.rows, sink.report.events, sink.report.bad_rows) == (3, 1, 2)
    (kept,) = (tmp_path / "bad").rglob("*.parquet")
    reasons = pq.read_table(kept)["reason"].to_pylist()
    assert reasons[0] == "column 'timestamp' is null"
    assert "none of emergency" in reasons[1]
    ((_, batch),) = read_batches([tmp_path / "a"], pytest.fail)
    assert decode_logs(batch).table.num_rows == 1


def test_a_write_into_no_pipeline_says_so(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Nothing hangs; neither does one whose pipeline goes while it writes."""
    import ray

    made = ray.data.from_arrow(rows_of(np.arange(5)))
    with pytest.raises(Exception, match="no pipeline named 'nobody' runs"):
        made.write_datasink(CdpDatasink("nobody", columns={"timestamp": "at"}))
    with pytest.raises(ConfigError, match="name of a running pipeline, or a config"):
        CdpDatasink()
    with pytest.raises(ConfigError, match="received_at_ms"):
        CdpDatasink("x", write_id="daily")
