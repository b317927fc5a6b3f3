"""The pipeline over real actors: what goes in lands, is counted, and is named in the status."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline, status
from cdp_ray_sinks.testing import numbered_batch, numbers_in

Make = Callable[..., PipelineConfig]


def test_batches_land_in_every_sink_and_are_counted(make_config: Make, tmp_path: Path) -> None:
    """Fan-out by reference, an archive that verifies, a summary that adds up."""
    config = make_config(
        sinks={"null": {"type": "null"}, "disk": {"type": "disk_binary", "path": tmp_path / "a"}}
    )
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(numbered_batch(n, 1 + n % 2)) for n in range(50)]
        for ticket in tickets:
            assert ticket.result(30) == {"null": "durable", "disk": "durable"}
    assert sorted(numbers_in(tmp_path / "a")) == list(range(50))
    report = verify(tmp_path / "a")
    assert report.ok
    assert report.segments == 2
    sinks = pipeline.summary()["sinks"]
    for name in ("null", "disk"):
        assert sinks[name]["batches"] == sinks[name]["events"] == 50
        assert sinks[name]["bytes"] == 50 * 100_000
        assert sinks[name]["errors"] == sinks[name]["dropped"] == 0


def test_a_small_batch_travels_inline_and_lands_the_same(make_config: Make, tmp_path: Path) -> None:
    """Under `inline_bytes_max` nothing is put into the object store."""
    config = make_config(sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(20):
            producer.submit(numbered_batch(number, record_bytes=500)).result(30)
    assert numbers_in(tmp_path / "a") == list(range(20))


def test_packed_batches_of_many_workspaces_land_each_where_it_should(
    make_config: Make, tmp_path: Path
) -> None:
    """One object, many workspaces, fewer chain actors than workspaces."""
    config = make_config(
        sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}},
        delivery={"max_chain_actors": 2},
    )
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        batches = [
            numbered_batch(n, workspace_id=1 + n % 7, record_bytes=20_000) for n in range(70)
        ]
        for ticket in producer.submit_packed(batches):
            ticket.result(60)
        kinds = [actor["kind"] for actor in pipeline.status()["actors"]]
        assert kinds.count("chain") == 2
    for workspace in range(1, 8):
        expected = [n for n in range(70) if 1 + n % 7 == workspace]
        assert numbers_in(tmp_path / "a" / str(workspace)) == expected


def test_rules_send_workspaces_to_different_sinks(make_config: Make, tmp_path: Path) -> None:
    """First match wins; the default takes the rest."""
    config = make_config(
        sinks={
            "left": {"type": "disk_binary", "path": tmp_path / "left"},
            "right": {"type": "disk_binary", "path": tmp_path / "right"},
        },
        routing={
            "default": ["right"],
            "rules": [{"match": {"workspace": 1}, "sinks": ["left"]}],
        },
    )
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(10):
            producer.submit(numbered_batch(number, 1 + number % 2)).result(30)
    assert numbers_in(tmp_path / "left") == [0, 2, 4, 6, 8]
    assert numbers_in(tmp_path / "right") == [1, 3, 5, 7, 9]


def test_a_source_runs_to_its_end(make_config: Make, tmp_path: Path) -> None:
    """A synthetic source in an actor of its own, progress told on the way."""
    config = make_config(
        sources={"made": {"type": "synthetic", "events": 20_000, "workspaces": 2}},
        sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}},
    )
    seen = []
    with Pipeline(config) as pipeline:
        pipeline.wait(seen.append, threading.Event())
    summary = pipeline.summary()
    assert summary["sources"]["made"]["events"] == 20_000
    assert summary["sinks"]["disk"]["events"] == 20_000
    assert seen[-1].sources[0].state == "finished"
    assert verify(tmp_path / "a").events == 20_000


def test_status_names_every_actor_with_its_process(make_config: Make, tmp_path: Path) -> None:
    """An operator finds each process; another process on the cluster sees the same."""
    config = make_config(
        sinks={"null": {"type": "null"}, "disk": {"type": "disk_binary", "path": tmp_path / "a"}}
    )
    with Pipeline(config) as pipeline:
        pipeline.producer("mine").submit(numbered_batch(0)).result(30)
        found = status(config.pipeline.name)
        kinds = sorted((actor["kind"], actor["name"].split("/", 1)[1]) for actor in found["actors"])
        assert kinds == [
            ("chain", "chain/disk/0"),
            ("router", "router"),
            ("sink", "sink/disk"),
            ("sink", "sink/null"),
        ]
        assert len({actor["pid"] for actor in found["actors"]}) == 4
    with pytest.raises(ConfigError, match="no pipeline named"):
        status(config.pipeline.name)


def test_a_sink_that_can_not_open_refuses_to_start(make_config: Make, tmp_path: Path) -> None:
    """The error names the sink and the path, and no actor stays behind."""
    (tmp_path / "file").write_text("in the way")
    config = make_config(sinks={"disk": {"type": "disk_binary", "path": tmp_path / "file"}})
    with pytest.raises(ConfigError, match=r"sink 'disk'.*file"):
        Pipeline(config).start()
    left = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in left if name.startswith(f"{config.pipeline.name}/")]


def test_two_pipelines_of_one_name_are_refused(make_config: Make) -> None:
    """The second one would answer for the first one's actors."""
    config = make_config(sinks={"null": {"type": "null"}})
    with Pipeline(config), pytest.raises(ConfigError, match="runs on this cluster"):
        Pipeline(config).start()


def test_windows_larger_than_half_the_store_are_refused(make_config: Make) -> None:
    """Otherwise batches would spill to disk long before anybody waits."""
    config = make_config(
        sinks={"null": {"type": "null"}}, delivery={"window_bytes": 300 * 1024 * 1024}
    )
    with pytest.raises(ConfigError, match=r"delivery\.window_bytes"):
        Pipeline(config).start()


def test_a_port_that_is_taken_refuses_to_start(make_config: Make, tmp_path: Path) -> None:
    """The error names the source and the address before anything runs."""
    keys = tmp_path / "keys"
    keys.write_text(f"{'ab' * 16}:1\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = make_config(
            sources={"in": {"type": "tcp", "listen": listen, "api_keys": keys}},
            sinks={"null": {"type": "null"}},
        )
        with pytest.raises(ConfigError, match=rf"sources\.in: .*{listen}"):
            Pipeline(config).start()


def test_idle_chains_are_retired_and_come_back(make_config: Make, tmp_path: Path) -> None:
    """A process that nothing comes to is given up, its files sealed; its workspace goes on."""
    config = make_config(
        sinks={"disk": {"type": "disk_binary", "path": tmp_path / "a"}},
        delivery={"chain_idle_s": 4},
    )

    def chains() -> set[str]:
        return {a["name"] for a in pipeline.status()["actors"] if a["kind"] == "chain"}

    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(3):
            producer.submit(numbered_batch(number, workspace_id=1 + number)).result(30)
        before = chains()
        assert len(before) == 3
        until = time.monotonic() + 40
        while len(chains()) > 1:
            assert time.monotonic() < until, "no chain was retired"
            time.sleep(0.3)
        for number in range(3, 6):
            producer.submit(numbered_batch(number, workspace_id=number - 2)).result(30)
        assert len(chains() | before) >= 5
    assert sorted(numbers_in(tmp_path / "a")) == list(range(6))
    assert verify(tmp_path / "a").ok
