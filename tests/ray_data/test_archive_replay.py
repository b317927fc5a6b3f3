"""Archives into pipelines, part by part: once, whatever dies and whatever was asked for before."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.actors.specs import NAMESPACE
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files import archive_parts as module
from cdp_ray_sinks.files.archive_parts import ArchivePart, archive_parts
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.archive_replay import ReplayPlan, replay_parts

ALL = Selection()
BATCHES = 24


@pytest.fixture
def parts(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ArchivePart]:
    """Six parts of four batches each, plain and compressed."""
    for name, first in (("data.bin", 0), ("data-1.bin.lz4", 100)):
        batches: list[Batch] = [
            maker.batch([maker.message(filler=b"%d" % (first + n))] * 3, sequence=first + n)
            for n in range(BATCHES // 2)
        ]
        commits = [batches[n : n + 2] for n in range(0, len(batches), 2)]
        maker.segment(tmp_path / "old", commits, name=name)
    monkeypatch.setattr(module, "PART_BYTES", 4 * len(batches[0].records))
    found = list(archive_parts(tmp_path / "old", ALL, pytest.fail))
    assert len(found) == 6
    return found


def contents(path: Path) -> list[bytes]:
    """The records of each batch of an archive, sorted."""
    return sorted(batch.records.tobytes() for _, batch in read_batches([path], pytest.fail))


def test_a_second_replay_adds_nothing(
    parts: list[ArchivePart], make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Neither into the same run nor into the next, nor when only a part came first."""
    config = make_config(sinks={"new": {"type": "disk_binary", "path": tmp_path / "new"}})
    plan = ReplayPlan(config.pipeline.name, NAMESPACE, ALL)
    with Pipeline(config) as pipeline:
        replay_parts(plan, parts[1:2])
        report = replay_parts(plan, parts)
        assert report.written.batches == BATCHES
        assert set(report.written.outcomes["new"]) == {"durable"}
        assert pipeline.lane_metrics()["new"].duplicates >= 4
    with Pipeline(config):
        replay_parts(plan, parts)
    assert contents(tmp_path / "new") == contents(tmp_path / "old")


def test_a_part_whose_process_is_killed_is_sent_again(
    parts: list[ArchivePart], make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """What it had sent is known; nothing is lost and nothing is there twice."""
    import ray

    config = make_config(sinks={"new": {"type": "disk_binary", "path": tmp_path / "new"}})
    parent = os.getpid()
    killed: list[int] = []

    def kill_one() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            time.sleep(0.05)
            for pid in workers_of(parent, b"ray::replay_part"):
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break

    with Pipeline(config):
        killer = threading.Thread(target=kill_one)
        killer.start()
        slow = ReplayPlan(config.pipeline.name, NAMESPACE, ALL, events_per_s=12 * 6 / 4)
        report = replay_parts(slow, parts)
        killer.join()
    assert killed
    assert ray.is_initialized()
    assert report.written.batches == BATCHES
    assert contents(tmp_path / "new") == contents(tmp_path / "old")


def workers_of(ancestor: int, title: bytes) -> list[int]:
    """Processes below this one whose title begins so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith(title):
                continue
            above = int(folder.name)
            while above > 1 and above != ancestor:
                above = int(Path(f"/proc/{above}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if above == ancestor:
            found.append(int(folder.name))
    return found
