"""Ray's logs as JSON: what goes wrong in an actor is an object there; the driver stays quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray

CONFIG = """
[pipeline]
name = "{name}"
state_dir = "{folder}/state"
[ray]
logs = "json"
[delivery]
window_bytes = 64_000_000
populate_object_store = false
[sources.events]
type = "synthetic"
rate_events_per_s = 1000
[sinks.nothing]
type = "null"
[sinks.rows]
type = "clickhouse"
url = "http://127.0.0.1:1"
on_full = "spool"
spool_after_ms = 300
"""


def objects(actor: str) -> list[dict[str, Any]]:
    """The lines about an actor in the logs of the cluster's processes, each an object."""
    node = ray._private.worker._global_node  # where a private cluster has its logs
    lines = [
        line
        for path in Path(node.get_logs_dir_path()).glob("worker-*.err")
        for line in path.read_text(errors="replace").splitlines()
    ]
    return [json.loads(line) for line in lines if f'"actor": "{actor}"' in line]


def test_json_logs_name_the_actor_and_the_driver_says_little(cluster: None, tmp_path: Path) -> None:
    """A sink that is not to be had is logged once for each reason, by its own process."""
    name = f"logs-{os.getpid()}"
    (tmp_path / "pipeline.toml").write_text(CONFIG.format(name=name, folder=tmp_path))
    address = ray.get_runtime_context().gcs_address
    run = [sys.executable, "-m", "cdp_ray_sinks", "run", "pipeline.toml", "--json"]
    done = subprocess.run(
        [*run, "--address", address, "--duration", "6"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=240,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert json.loads(done.stdout)["sinks"]["nothing"]["events"] > 0
    assert len(done.stderr.splitlines()) < 15, done.stderr
    assert "asctime" not in done.stderr
    said = objects(f"{name}/sink/rows")
    assert 1 <= len(said) <= 10
    assert said[0]["pipeline"] == name
    assert "127.0.0.1:1" in said[0]["problem"]
    for key in ("asctime", "levelname", "message", "job_id", "node_id", "actor_id", "name"):
        assert said[0][key], key
    assert objects(f"{name}/sink/nothing") == []
