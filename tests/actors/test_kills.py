"""SIGKILL of any one actor in the middle of a run loses nothing and duplicates nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline, SourceFailedError
from cdp_ray_sinks.sources.synthetic import SyntheticConfig, synthetic_frames
from cdp_ray_sinks.testing import numbered_batch, numbers_in

BATCHES = 300


def test_a_killed_synthetic_source_ends_the_run_and_doubles_nothing(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """It can't go on where it was, so it does not begin again: the loss is an error."""
    config = make_config(
        sources={"made": {"type": "synthetic", "events": 500_000, "batch_events": 1000,
                          "rate_events_per_s": 50_000}},
        sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}},
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        time.sleep(1)
        (victim,) = [a for a in pipeline.status()["actors"] if a["kind"] == "source"]
        os.kill(victim["pid"], signal.SIGKILL)
        with pytest.raises(SourceFailedError, match="made"):
            pipeline.wait()
    report = verify(tmp_path / "a")
    assert report.ok
    assert 0 < report.events < 500_000


def test_a_killed_tcp_source_listens_again(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Its actor is restarted and started once; clients that connect again are served."""
    (tmp_path / "keys").write_text(f"{'ab' * 16}:1\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = make_config(
        sources={"in": {"type": "tcp", "listen": f"127.0.0.1:{port}",
                        "api_keys": tmp_path / "keys"}},
        sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}},
    )  # fmt: skip
    made = SyntheticConfig(events=100, shape="small")
    (frames,) = synthetic_frames(made, bytes.fromhex("ab" * 16), SystemClock().now_ms())
    stop = threading.Event()
    with Pipeline(config) as pipeline:
        watcher = threading.Thread(target=pipeline.wait, args=(None, stop))
        watcher.start()
        (victim,) = [a for a in pipeline.status()["actors"] if a["kind"] == "source"]
        os.kill(victim["pid"], signal.SIGKILL)
        until = time.monotonic() + 60
        while Path(f"/proc/{victim['pid']}").exists():
            time.sleep(0.05)
        while True:
            assert time.monotonic() < until
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as client:
                    client.sendall(bytes(frames))
                break
            except OSError:
                time.sleep(0.2)
        while not verify(tmp_path / "a").events if (tmp_path / "a").exists() else True:
            assert time.monotonic() < until
            time.sleep(0.2)
        stop.set()
        watcher.join(10)
    assert verify(tmp_path / "a").events == 100


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
