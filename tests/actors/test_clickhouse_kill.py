"""SIGKILL of the sink's actor, and of the server, at any instant: each row lands once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline

BATCH_EVENTS = 200


class Feeder:
    """Submits batches from a thread of its own until it is told to stop."""

    def __init__(self, pipeline: Pipeline, lab: Any) -> None:
        self._producer = pipeline.producer("mine")
        self._lab = lab
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.batches = 0
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            start = self.batches * BATCH_EVENTS
            self._producer.submit(self._lab.numbered(start, BATCH_EVENTS, per_message=50))
            people = [{"email": f"{start}@x.org", "plan": "pro", "age": start}]
            self._producer.submit(self._lab.batch(people, types=2))
            self._producer.submit(self._lab.logs([{"n": start}] * 3))
            self.batches += 1
            time.sleep(0.02)

    def stop(self, timeout_s: float) -> None:
        """Stop, and wait until all of it is durable."""
        self._stop.set()
        self._thread.join()
        self._producer.flush(timeout_s)


def sink_pid(pipeline: Pipeline, timeout_s: float = 120) -> int:
    """The process of the sink's actor, once it is there."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        for actor in pipeline.status()["actors"]:
            if actor["kind"] == "sink" and Path(f"/proc/{actor['pid']}").exists():
                return int(actor["pid"])
        time.sleep(0.05)
    raise AssertionError("the sink's actor did not come back")


def spools_of(pipeline: Pipeline) -> list[Any]:
    """What spools hold, if there are any."""
    reports = pipeline.status()["reports"].values()
    return [report["spool"] for report in reports if "spool" in report]


def wait_for_generation(state: Path) -> None:
    """Until the sink has something that it did not have before on its way."""
    until = time.monotonic() + 120
    before = {path.name for path in state.glob("generation-*")}
    while time.monotonic() < until:
        if {path.name for path in state.glob("generation-*")} - before:
            return
        time.sleep(0.002)


def kill_again_and_again(
    pipeline: Pipeline, server: ClickHouseServer, state: Path, chance: random.Random, kills: int,
    server_kills: int,
) -> int:  # fmt: skip
    """SIGKILL the sink at random instants of its life, and the server now and then.

    How many of the kills left a generation behind that was not finished.
    """
    unfinished = 0
    server_at = set(chance.sample(range(kills), server_kills))
    before = 0
    for kill in range(kills):
        time.sleep(chance.choice([0.0, 0.05, 0.3, 1.0]) * chance.random())
        while (pid := sink_pid(pipeline)) == before:
            time.sleep(0.05)
        # It has just come: let it open, recover or insert, or only half of that.
        if chance.random() < 0.7:
            wait_for_generation(state)
            time.sleep(chance.uniform(0, 0.2))
        else:
            time.sleep(chance.uniform(0, 2))
        if kill in server_at:
            server.kill()
            time.sleep(chance.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        unfinished += bool(list(state.glob("generation-*")))
        before = pid
        if kill in server_at:
            server.start()
    return unfinished


def check_landed(lab: Any, feeder: Feeder) -> None:
    """Every row that was sent is there, and once."""
    sent = feeder.batches * BATCH_EVENTS
    assert lab.landed() == (sent, sent)
    assert lab.query("SELECT count(), uniqExact(message) FROM {db}.logs_v1") == [
        (3 * feeder.batches, feeder.batches)
    ]
    for table in ("users_v1", "user_traits", "user_devices"):
        per_batch = 2 if table == "user_traits" else 1
        rows = lab.query(f"SELECT count() FROM (SELECT * FROM {{db}}.{table} FINAL)")
        assert rows == [(per_batch * feeder.batches,)], table


def run(
    make_config: Callable[..., PipelineConfig],
    lab: Any,
    server: ClickHouseServer,
    *,
    seed: int,
    kills: int,
    server_kills: int,
    **options: Any,
) -> None:
    sink = {
        "type": "clickhouse",
        "url": server.url,
        "database": lab.database,
        "create_tables": True,
        "rows_per_insert": 2000,
        "insert_timeout_s": 20,
        "linger_ms": 50,
        **options,
    }
    config = make_config(sinks={"rows": sink})
    assert config.pipeline.state_dir is not None
    state = config.pipeline.state_dir / "sinks" / "rows"
    with Pipeline(config) as pipeline:
        feeder = Feeder(pipeline, lab)
        try:
            chance = random.Random(seed)
            unfinished = kill_again_and_again(pipeline, server, state, chance, kills, server_kills)
        finally:
            feeder.stop(120)
        while not all(s["is_empty"] for s in spools_of(pipeline)):
            time.sleep(0.1)
        assert unfinished > kills // 3, "the kills came when there was nothing to lose"
        check_landed(lab, feeder)
        assert pipeline.lane_metrics()["rows"].dead_letters == 0


@pytest.fixture
def own_server(tmp_path: Path) -> Any:
    """A server that a test may kill."""
    with ClickHouseServer(tmp_path / "server") as server:
        yield server


@pytest.mark.parametrize("seed", [1])
def test_ten_kills_of_the_sink_and_two_of_the_server(
    seed: int,
    make_config: Callable[..., PipelineConfig],
    lab_of: Callable[..., Any],
    own_server: ClickHouseServer,
) -> None:
    """SELECT count(), uniqExact(running number) are what was sent."""
    lab = lab_of(own_server)
    run(make_config, lab, own_server, seed=seed, kills=10, server_kills=2, on_full="block")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_kills(
    seed: int,
    make_config: Callable[..., PipelineConfig],
    lab_of: Callable[..., Any],
    own_server: ClickHouseServer,
) -> None:
    """The same in ten runs of ten, every other one with a spool before the sink."""
    lab = lab_of(own_server)
    on_full = "spool" if seed % 2 else "block"
    run(
        make_config, lab, own_server,
        seed=100 + seed, kills=10, server_kills=3, on_full=on_full, compression="none",
    )  # fmt: skip
