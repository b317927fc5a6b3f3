"""A pipeline on three nodes in networks of their own, one of which is cut off and comes back.

    partition_run.py FOLDER

The result is FOLDER/found.json. Needs the right to make network namespaces. All nodes have one
file system, so the node that is cut off goes on writing until the fence stops it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from nodes_run import MIB, NODE_STORE_BYTES, WORKSPACES, Numbered, Stage

from cdp_ray_sinks.bench.read_back import numbers_found_in
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.audit import Folders, audit
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline

RAY = Path(sys.executable).with_name("ray")
OWN_PATIENCE_S = "600"
"""How long a node that is cut off waits for its head before it ends itself."""
LEASE_S = 5
FOREIGN = 2**40
"""Numbers from here on are those of the nodes' sources, which the audit counts."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """A bridge on this machine, and namespaces on it that can be cut off. A context manager."""

    def __init__(self) -> None:
        self._tag = f"cdp{os.getpid() % 100_000}"
        self._subnet = f"10.213.{os.getpid() % 250}"
        self._spaces: list[str] = []
        self.own_ip = f"{self._subnet}.254"

    def __enter__(self) -> Network:
        ip("link", "add", self._tag, "type", "bridge")
        ip("addr", "add", f"{self.own_ip}/24", "dev", self._tag)
        ip("link", "set", self._tag, "up")
        return self

    def space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _cable(self, name: str) -> str:
        return f"{self._tag}{name}"

    def add(self, name: str) -> str:
        """A namespace; its address."""
        space, cable = self.space(name), self._cable(name)
        address = f"{self._subnet}.{len(self._spaces) + 1}"
        ip("netns", "add", space)
        self._spaces.append(space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", self._tag, "up")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "route", "add", "default", "via", self.own_ip)
        return address

    def cut(self, name: str) -> None:
        """From now on nothing comes or goes; nobody is told."""
        ip("link", "set", self._cable(name), "down")

    def mend(self, name: str) -> None:
        ip("link", "set", self._cable(name), "up")

    def __exit__(self, *_: object) -> None:
        cables = [space.replace("-", "") for space in self._spaces]
        for link in [*cables, self._tag]:
            with suppress(subprocess.CalledProcessError):
                ip("link", "del", link)
        for space in self._spaces:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)


class NetworkStage(Stage):
    """Node a is in the machine's own network, with the driver; b and c have their own."""

    def __init__(self, folder: Path, temp: str, network: Network) -> None:
        self.folder, self.said, self.failed = folder, [], ""
        self.temp = Path(temp)
        self.network = network
        self.nodes = {}
        self._where = {name: network.add(name) for name in ("b", "c")}
        self.pipeline = Pipeline(self.config(), report=self.hear)

    def begin(self) -> None:
        """Start the nodes and join them."""
        own_ip = self.network.own_ip
        self._begin("a", [], own_ip, "--head", "--port=0", f"--temp-dir={self.temp}",
                    "--include-dashboard=false")  # fmt: skip
        found = re.search(r"--address='?([0-9.]+:[0-9]+)", self._log("a").read_text())
        assert found is not None
        self.address = found[1]
        for name in ("b", "c"):
            self.add(name)
        ray.init(
            address=self.address, _node_ip_address=own_ip, log_to_driver=False,
            namespace="cdp_ray_sinks",
        )  # fmt: skip

    def _log(self, name: str) -> Path:
        return self.temp / f"{name}.log"

    def add(self, name: str) -> None:
        inside = ["ip", "netns", "exec", self.network.space(name)]
        self._begin(name, inside, self._where[name], f"--address={self.address}")

    def _begin(self, name: str, inside: list[str], address: str, *options: str) -> None:
        command = [
            *inside, str(RAY), "start", "--block", f"--node-ip-address={address}", "--num-cpus=2",
            f"--object-store-memory={NODE_STORE_BYTES}", "--labels", f"cdp-node={name}",
            "--min-worker-port=0", "--max-worker-port=0", *options,
        ]  # fmt: skip
        with self._log(name).open("w") as log:
            self.nodes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": OWN_PATIENCE_S},
            )  # fmt: skip
        self.wait_for(
            f"{name} has started", lambda: "Ray runtime started" in self._log(name).read_text()
        )

    def config(self) -> PipelineConfig:
        return PipelineConfig(
            pipeline={"name": "nodes", "state_dir": self.folder / "state"},
            delivery={"window_bytes": 16 * MIB, "populate_object_store": False,
                      "max_chain_actors": 2},
            sources={"made": {
                # Slow, so that what waits for other nodes does not fill its window for long.
                "type": "synthetic", "workspaces": WORKSPACES, "batch_events": 50,
                "rate_events_per_s": 500, "start_number": FOREIGN,
                "placement": {"per_node": True, "label_selector": {"cdp-node": "!a"}},
            }},
            sinks={"archive": {
                "type": "disk_binary", "path": self.folder / "archive",
                "placement": {"per_node": True}, "shared_file_system": True, "lease_s": LEASE_S,
            }},
        )  # fmt: skip

    def chains_at(self, name: str) -> dict[str, int]:
        """The chain actors there: names and processes."""
        ids = {n["NodeID"] for n in ray.nodes() if n["Labels"].get("cdp-node") == name}
        return {
            actor["name"]: actor["pid"]
            for actor in self.pipeline.status()["actors"]
            if actor["kind"] == "chain" and actor["node"] in ids
        }

    def fenced(self, chains: dict[str, int]) -> list[str]:
        """Those that have said in Ray's logs that they found a successor."""
        texts = [
            path.read_text(errors="replace")
            for path in (self.temp / "session_latest" / "logs").glob("worker-*")
        ]
        return [
            chain
            for chain in chains
            if any(
                f"{chain}: " in line and "has a successor" in line
                for text in texts
                for line in text.splitlines()
            )
        ]

    def end(self) -> None:
        """End all processes of the cluster, and nobody else's."""
        ray.shutdown()
        while pids := self._processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.nodes.values():
                process.poll()
            time.sleep(0.1)

    def _processes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if str(self.temp).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid != os.getpid()]


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def play(stage: NetworkStage) -> dict[str, Any]:
    """Cut b off, have it fenced, let it come back; what was seen."""
    found: dict[str, Any] = {}
    chains = stage.chains_at("b")
    found["chains"] = sorted(chains)
    stage.network.cut("b")
    stage.wait_for("b was lost", lambda: any("'b' is gone" in text for text in stage.said))
    stage.wait_for("no chain is at b", lambda: "b" not in stage.chain_homes())
    stage.wait_for("a lane at b is fenced", lambda: stage.fenced(chains))
    found["fenced"] = stage.fenced(chains)
    found["were_there"] = [chain for chain, pid in chains.items() if is_there(pid)]
    stage.network.mend("b")
    raylet = stage.nodes["b"]
    stage.wait_for("b has heard that it was lost", lambda: raylet.poll() is not None)
    stage.wait_for("its lanes end", lambda: not any(map(is_there, chains.values())))
    stage.add("b")
    stage.wait_for("b is back", lambda: stage.homes().get("source/made@b") == "b")
    return found


def main(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(
        prefix="cdpp", dir="/tmp", ignore_cleanup_errors=True
    ) as temp, Network() as network:  # fmt: skip
        stage = NetworkStage(folder, temp, network)
        try:
            stage.begin()
            return run(stage, folder)
        finally:
            stage.end()


def run(stage: NetworkStage, folder: Path) -> dict[str, Any]:
    with stage.pipeline as pipeline:
        stage.hear("started")
        fed = Numbered(pipeline.producer("driver"), 10_000)
        stop = threading.Event()
        waiting = threading.Thread(target=stage.watch, args=(stop,))
        waiting.start()
        stage.wait_for("all nodes have chains", lambda: stage.chain_homes() == {"a", "b", "c"})
        stage.wait_for("all is written", lambda: fed.acked_events() >= 20_000)
        found = play(stage)
        acked = fed.acked_events()
        stage.wait_for("it goes on", lambda: fed.acked_events() >= acked + 20_000)
        fed.stop()
        stop.set()
        waiting.join()
        pipeline.drain(120)
    config = stage.pipeline.config
    folders = Folders(
        config.accounts_dir(), config.spool_dir(), config.dead_letter_dir(), config.sinks_dir()
    )
    audited = audit(config.active_sinks(), folders)
    archive = folder / "archive"
    return {
        **found,
        "said": stage.said,
        "failed": stage.failed,
        "events": fed.events,
        "acked_events": fed.acked_events(),
        "found": numbers_found_in(archive, range(1, WORKSPACES + 1), fed.events),
        "verified": verify(archive).ok,
        "audited": audited.ok,
        "differences": [repr(d) for sink in audited.sinks for d in sink.differences],
    }


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    Path(sys.argv[1], "found.json").write_text(json.dumps(found))
