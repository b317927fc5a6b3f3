"""SIGKILL of any one actor in the middle of a run loses nothing and duplicates nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_batch, numbers_in

BATCHES = 300


@pytest.mark.parametrize(
    ("kind", "compression"),
    [("router", "none"), ("sink", "none"), ("chain", "none"), ("chain", "lz4")],
)
def test_sigkill_of_one_actor_under_load(
    kind: str, compression: str, make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Each number lands exactly once, per workspace in order, and the archive verifies."""
    sink = {"type": "disk_binary", "path": tmp_path / "a", "compression": compression}
    config = make_config(sinks={"disk": sink})
    kill_at = random.Random(kind).randrange(BATCHES // 4, BATCHES // 2)
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(BATCHES):
            producer.submit(numbered_batch(number, 1 + number % 3))
            if number == kill_at:
                victims = [a for a in pipeline.status()["actors"] if a["kind"] == kind]
                os.kill(victims[0]["pid"], signal.SIGKILL)
            time.sleep(0.003)
        producer.flush(60)
    for workspace in (1, 2, 3):
        numbers = [n for n in range(BATCHES) if 1 + n % 3 == workspace]
        assert sorted(numbers_in(tmp_path / "a" / str(workspace))) == numbers
    assert verify(tmp_path / "a").ok
    tool = shutil.which("lz4")
    for path in (tmp_path / "a").rglob("*.bin.lz4") if tool is not None else ():
        subprocess.run([tool, "-t", path], check=True, capture_output=True)
