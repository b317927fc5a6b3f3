"""What a run makes of being a Ray job, from its environment alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.job import Job
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.sinks.base import SinkConfig

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Shelf(SinkConfig):
    """A sink of somebody's own, with a folder and a file that it reads."""

    path: Path
    list: Path


def config_of(state: Path, **sinks: Any) -> PipelineConfig:
    return PipelineConfig(
        pipeline={"name": "a-job", "state_dir": state},
        sources={"made": {"type": "synthetic"}},
        sinks=sinks,
    )


def environment(stop_wait: str | None = None, **runtime_env: Any) -> dict[str, str]:
    found = {JOB: json.dumps({"runtime_env": runtime_env, "metadata": {}})}
    return found if stop_wait is None else found | {"RAY_JOB_STOP_WAIT_TIME_S": stop_wait}


def test_without_a_job_there_is_none(tmp_path: Path) -> None:
    """Also where somebody has set how long jobs may take to stop."""
    assert Job.of({"RAY_JOB_STOP_WAIT_TIME_S": "60"}, tmp_path) is None


@pytest.mark.parametrize(
    ("stop_wait", "configured_s", "deadline_s"),
    [(None, 60, 1.8), ("10", 60, 6), ("65", 60, 60), ("30", 60, 25), ("30", 5, 5), ("no", 60, 1.8)],
)
def test_a_drain_fits_into_the_time_that_a_stop_gives(
    stop_wait: str | None, configured_s: float, deadline_s: float, tmp_path: Path
) -> None:
    """Something of it is kept for what follows the drain."""
    job = Job.of(environment(stop_wait), tmp_path)
    assert job is not None
    assert job.drain_deadline_s(configured_s) == pytest.approx(deadline_s)


def test_what_lies_in_the_copy_is_warned_of(tmp_path: Path) -> None:
    """The state directory and folders of sinks there; nothing outside of it."""
    copy, kept = tmp_path / "copy", tmp_path / "kept"
    job = Job.of(environment("65", working_dir="gcs://package.zip"), copy)
    assert job is not None
    inside = {"type": "disk_binary", "path": copy / "archive"}
    outside = {"type": "parquet", "path": kept / "tables"}
    found = job.warnings(config_of(copy / "state", a=inside, b=outside))
    assert [text.split(":")[0] for text in found] == ["sinks.a", "pipeline.state_dir"]
    assert "which Ray deletes" in found[0]
    assert job.warnings(config_of(kept / "state", b=outside)) == []
    own = Shelf(path=copy / "shelf", list=kept / "list")
    assert "sinks.own: its folder" in job.warnings(config_of(kept / "state", own=own))[0]
    read = Shelf(path=kept / "shelf", list=copy / "list")
    assert job.warnings(config_of(kept / "state", own=read)) == []
    elsewhere = Job.of(environment("65"), copy)
    assert elsewhere is not None
    assert elsewhere.warnings(config_of(copy / "state", a=inside)) == []


def test_a_log_without_end_and_a_short_stop_are_warned_of(tmp_path: Path) -> None:
    """Each with what to do about it."""
    job = Job.of(environment(), tmp_path)
    assert job is not None
    short, lines = job.warnings(config_of(tmp_path, lines={"type": "stdout"}))
    assert 'RAY_JOB_STOP_WAIT_TIME_S = "65"' in short
    assert lines.startswith("sinks.lines: its lines go to the job's log")
