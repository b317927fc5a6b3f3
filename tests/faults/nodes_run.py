"""A pipeline on a cluster of several raylets, one of which goes; run as a process of its own.

    nodes_run.py SCENARIO FOLDER

The result is FOLDER/found.json; Ray prints what it likes. It has a process to itself because
Ray is joined once per process, and because every Ray process of the cluster dies with it.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.read_back import numbers_found_in
from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.flights import BatchTicket
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig

MIB = 1024 * 1024
NODE_STORE_BYTES = 100 * MIB
WORKSPACES = 8
DEADLINE_S = 180.0
ANYWHERE = {"per_node": True}
RATHER_B = {"label_selector": {"cdp-node": "b"}, "fallback": [{"cdp-node": "!b"}]}
KEY = "ab" * 16


class Numbered:
    """Feeds numbered events through a producer of the driver, and knows which were acked."""

    def __init__(self, producer: Producer, rate_events_per_s: int) -> None:
        self._producer = producer
        self._stop = threading.Event()
        self._tickets: list[tuple[int, BatchTicket]] = []
        self.events = 0
        config = SyntheticConfig(
            workspaces=WORKSPACES, batch_events=500, rate_events_per_s=rate_events_per_s
        )
        source = config.build(SourceContext("numbered"))
        self._thread = threading.Thread(target=source.run, args=(self, self._stop), daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> BatchTicket:
        return self.submit_packed([batch])[0]

    def submit_packed(self, batches: Sequence[Batch]) -> list[BatchTicket]:
        tickets = self._producer.submit_packed(batches)
        for batch, ticket in zip(batches, tickets, strict=True):
            self.events += batch.header.event_count
            self._tickets.append((self.events, ticket))
        return tickets

    def acked_events(self) -> int:
        return sum(1 for _, ticket in self._tickets if ticket.done()) * 500

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Posted:
    """Posts one number after the other to where a source said last that it listens."""

    def __init__(self, said: Sequence[str]) -> None:
        self._said = said
        self._stop = threading.Event()
        self.answered: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.01):
            if self._post(number):
                self.answered.append(number)
                number += 1

    def _post(self, number: int) -> bool:
        """Whether it is durable, for all that the client knows."""
        where = [text.rpartition("listens on ")[2] for text in self._said if "listens on" in text]
        try:
            connection = http.client.HTTPConnection(where[-1], timeout=120)
            line = json.dumps({"event": "Seen", "n": number})
            connection.request("POST", f"/v1/events?token={KEY}", line)
            return connection.getresponse().status == 202
        except (OSError, http.client.HTTPException, IndexError):
            return False

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def posted_numbers(archive: Path) -> list[int]:
    """What is in an archive of what was posted."""
    damage: list[object] = []
    found = [
        event["payload"]["n"]
        for _, batch in read_batches([archive], damage.append)
        for event in events_of(batch, damage.append)
    ]
    assert not damage
    return sorted(found)


class Stage:
    """A cluster of raylets a and b, and a pipeline on it that is fed."""

    def __init__(self, folder: Path, temp: str) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.failed = ""
        self.cluster = Cluster()
        self.nodes: dict[str, Any] = {}
        self.cluster.add_node(
            num_cpus=4, labels={"cdp-node": "a"}, object_store_memory=NODE_STORE_BYTES,
            include_dashboard=False, temp_dir=temp,
        )  # fmt: skip
        self.add("b")
        ray.init(address=self.cluster.address, log_to_driver=False, namespace="cdp_ray_sinks")
        (folder / "keys").write_text(f"{KEY}:1\n")
        self.pipeline = Pipeline(self.config(), report=self.hear)

    def watch(self, stop: threading.Event) -> None:
        """As `run` does; what ends it before its time."""
        try:
            self.pipeline.wait(stop=stop)
        except CdpError as error:
            self.failed = str(error)

    def hear(self, text: str) -> None:
        print(f"{time.monotonic():.1f} {text}", file=sys.stderr, flush=True)
        self.said.append(text)

    def add(self, name: str) -> None:
        self.nodes[name] = self.cluster.add_node(
            num_cpus=4, labels={"cdp-node": name}, object_store_memory=NODE_STORE_BYTES
        )

    def config(self) -> PipelineConfig:
        return PipelineConfig(
            pipeline={"name": "nodes", "state_dir": self.folder / "state"},
            delivery={"window_bytes": 16 * MIB, "populate_object_store": False,
                      "max_chain_actors": 2},
            sources={
                "made": {
                    "type": "synthetic", "workspaces": WORKSPACES, "batch_events": 500,
                    "rate_events_per_s": 5000,
                    "placement": {"per_node": True, "label_selector": {"cdp-node": "!a"}},
                },
                "counting": {
                    "type": "synthetic", "batch_events": 500, "rate_events_per_s": 2000,
                    "placement": RATHER_B,
                },
                "taking": {
                    "type": "http", "listen": "127.0.0.1:0", "api_keys": self.folder / "keys",
                    "placement": RATHER_B,
                },
            },
            sinks={
                "archive": {"type": "disk_binary", "path": self.folder / "archive",
                            "placement": ANYWHERE},
                "counted": {"type": "null", "placement": ANYWHERE},
                "taken": {"type": "disk_binary", "path": self.folder / "taken"},
                "numbers": {"type": "disk_binary", "path": self.folder / "numbers"},
            },
            routing={
                "default": ["archive", "counted"],
                "rules": [
                    {"match": {"source": "made"}, "sinks": ["counted"]},
                    {"match": {"source": "taking"}, "sinks": ["taken"]},
                    {"match": {"source": "counting"}, "sinks": ["numbers"]},
                ],
            },
        )  # fmt: skip

    def homes(self) -> dict[str, str]:
        """Actor name to the name of its node."""
        names = {node["NodeID"]: node["Labels"].get("cdp-node", "?") for node in ray.nodes()}
        actors = self.pipeline.status()["actors"]
        return {actor["name"].partition("/")[2]: names[actor["node"]] for actor in actors}

    def chain_homes(self) -> set[str]:
        return {home for name, home in self.homes().items() if name.startswith("chain/")}

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"it never came about: {what}; said: {self.said}")
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """SIGKILL the raylet and take its exit, so that its workers see it go."""
        process = self.nodes.pop(name).all_processes["raylet"][0].process
        process.kill()
        process.wait()

    def drain(self, name: str) -> None:
        node_id = next(n["NodeID"] for n in ray.nodes() if n["Labels"].get("cdp-node") == name)
        client = ray._raylet.GcsClient(address=self.cluster.address)
        preemption = 2
        client.drain_node(node_id, preemption, "to be left", int(time.time() * 1000) + 600_000)


def lose(stage: Stage) -> None:
    stage.kill("b")
    stage.wait_for("b was lost", lambda: any("'b' is gone" in text for text in stage.said))
    stage.wait_for("no chain is at b", lambda: "b" not in stage.chain_homes())


def join_and_lose(stage: Stage) -> None:
    stage.add("c")
    stage.wait_for("c has a source", lambda: "source/made@c" in stage.homes())
    lose(stage)
    stage.wait_for("a and c have lanes", lambda: _counted(stage) == {"a", "c"})


def drain_and_lose(stage: Stage) -> None:
    stage.drain("b")
    stage.wait_for("all chains are at a", lambda: stage.chain_homes() == {"a"})
    stage.wait_for("only a has a lane", lambda: _counted(stage) == {"a"})
    lose(stage)


def _counted(stage: Stage) -> set[str]:
    return {home for name, home in stage.homes().items() if name.startswith("sink/counted/")}


SCENARIOS = {"kill": lose, "join": join_and_lose, "drain": drain_and_lose}


def main(scenario: str, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cdpn", ignore_cleanup_errors=True) as temp:
        stage = Stage(folder, temp)
        with stage.pipeline as pipeline:
            stage.hear("started")
            fed = Numbered(pipeline.producer("driver"), 20_000)
            stop = threading.Event()
            waiting = threading.Thread(target=stage.watch, args=(stop,))
            waiting.start()
            posted = Posted(stage.said)
            stage.wait_for("some are posted", lambda: len(posted.answered) >= 10)
            stage.wait_for("all is written", lambda: fed.acked_events() >= 20_000)
            before = stage.homes()
            SCENARIOS[scenario](stage)
            acked = fed.acked_events()
            answered = len(posted.answered)
            stage.wait_for("it goes on", lambda: fed.acked_events() >= acked + 20_000)
            stage.wait_for("more are posted", lambda: len(posted.answered) >= answered + 10)
            after = stage.homes()
            fed.stop()
            posted.stop()
            stop.set()
            waiting.join()
            pipeline.drain(60)
            summary = pipeline.summary()
        archive = folder / "archive"
        counted_events = summary["sources"]["counting"]["events"]
        return {
            "before": before,
            "after": after,
            "failed": stage.failed,
            "answered": posted.answered,
            "posted": posted_numbers(folder / "taken"),
            "numbers": numbers_found_in(folder / "numbers", [1], counted_events),
            "counted_events": counted_events,
            "said": stage.said,
            "events": fed.events,
            "acked_events": fed.acked_events(),
            "found": numbers_found_in(archive, range(1, WORKSPACES + 1), fed.events),
            "verified": verify(archive).ok,
            "sinks": summary["sinks"],
            "left": list(stage.pipeline.summary()["sources"]),
        }


if __name__ == "__main__":
    found = main(sys.argv[1], Path(sys.argv[2]))
    Path(sys.argv[2], "found.json").write_text(json.dumps(found))
