"""SIGSTOP of every process of a pipeline in the middle of a run, and SIGCONT some time later."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdp_ray_sinks.chaos.processes import Actor, raylet_of
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline

EVENTS = 40_000
FROZEN = ("router", "sink/archive", "chain/archive", "source/made", "raylet")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Really stopped, as the kernel says; and it goes on whatever happens."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < until
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_each_process_is_frozen_once_under_load(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Producer, router, sink, chain and raylet: all events land once, in order."""
    config = make_config(
        sources={"made": {"type": "synthetic", "events": EVENTS, "batch_events": 100,
                          "workspaces": 3, "rate_events_per_s": 10_000}},
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "archive"}},
    )  # fmt: skip
    chance = random.Random(6)
    with Pipeline(config) as pipeline:
        found = [Actor(a["name"], a["kind"], a["pid"]) for a in pipeline.status()["actors"]]
        raylet = raylet_of(found[0])
        assert raylet is not None
        for kind in chance.sample(FROZEN, len(FROZEN)):
            pids = [actor.pid for actor in found if actor.short_name.startswith(kind)]
            time.sleep(chance.uniform(0, 0.2))
            with stopped(raylet if kind == "raylet" else chance.choice(pids)):
                time.sleep(chance.uniform(0.2, 0.5))
        pipeline.wait()
    assert pipeline.summary()["sinks"]["archive"]["events"] == EVENTS
    assert verify(tmp_path / "archive").events == EVENTS
    damage: list[object] = []
    by_workspace: dict[int, list[int]] = {}
    for _, batch in read_batches([tmp_path / "archive"], damage.append):
        by_workspace.setdefault(batch.header.workspace_id, []).append(batch.header.sequence)
    assert damage == []
    assert all(found == sorted(found) for found in by_workspace.values())
    assert sorted(n for found in by_workspace.values() for n in found) == list(range(EVENTS // 100))
