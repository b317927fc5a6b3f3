"""A pipeline as a Ray job: submitted, stopped in the middle of its work, drained in time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.audit import audit_pipeline
from cdp_ray_sinks.cli.scan import scan_archive
from cdp_ray_sinks.cli.verify import verify_archive

RAY = Path(sys.executable).with_name("ray")
STOP_WAIT_S = 60
PATIENCE_S = 180
SECRET = "never-to-be-seen-0123456789"
CONFIG = """
[pipeline]
name = "job-test"
state_dir = "{folder}/state"
[delivery]
drain_deadline_s = 50
window_bytes = 16_777_216
populate_object_store = false
[sources.made]
type = "synthetic"
workspaces = 2
batch_events = 500
rate_events_per_s = 20_000
[sinks.archive]
type = "disk_binary"
path = "{folder}/${{file:{folder}/name}}"
[sinks.own]
type = "own_sink:Quiet"
"""
OWN_SINK = """
from cdp_ray_sinks import NullSink, SinkConfig

class Quiet(SinkConfig):
    def build(self, context): return NullSink()
"""
"""A sink of the job's own, whose module only its working directory has."""


def free_ports(count: int) -> list[str]:
    """Ports that nobody has at the moment."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def processes_of(temp: str) -> list[int]:
    """Those that have the cluster's folder in their command line: all of it, and nobody else."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if temp.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def head() -> Iterator[str]:
    """A head node of a cluster of its own; the address that jobs are submitted to."""
    with tempfile.TemporaryDirectory(prefix="cdp-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        names = ["port", "dashboard-port", "ray-client-server-port", "metrics-export-port",
                 "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]  # fmt: skip
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        began = subprocess.Popen(
            [
                str(RAY), "start", "--head", "--block", f"--temp-dir={temp}", "--num-cpus=4",
                "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
                "--object-store-memory=150000000", "--min-worker-port=0", "--max-worker-port=0",
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{ports['dashboard-port']}"
        finally:
            began.kill()
            began.wait()
            while pids := processes_of(temp):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)


def until(found: Callable[[], Any], what: Callable[[], object]) -> Any:
    """What `found` gives once it is something."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with suppress(ConnectionError, RuntimeError):
            if answer := found():
                return answer
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def call(command: list[str], directory: Path) -> str:
    """What a command says."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.stdout + done.stderr


def test_a_job_that_is_stopped_drains_and_reports(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was acknowledged is missing, nothing is there twice, and the log says so."""
    from ray.job_submission import JobSubmissionClient

    (tmp_path / "name").write_text(SECRET)
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "pipeline.toml").write_text(CONFIG.format(folder=tmp_path))
    (folder / "own_sink.py").write_text(OWN_SINK)
    # The shell outlives the signal, and tells what the job ended with.
    run = f"{sys.executable} -m cdp_ray_sinks run pipeline.toml --json"
    command = f"trap : TERM; {run}; echo ended $?"
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
    client: Any = until(lambda: JobSubmissionClient(head), lambda: "no dashboard")
    submitted = [
        str(RAY), "job", "submit", "--address", head, "--working-dir", ".", "--no-wait",
        "--submission-id", "mine", "--runtime-env-json", json.dumps(environment),
        "--", "sh", "-c", command,
    ]  # fmt: skip
    said_of_it = ""

    def is_submitted() -> bool:
        nonlocal said_of_it
        said_of_it = call(submitted, folder)
        return "submitted successfully" in said_of_it or "No available agent" not in said_of_it

    # The dashboard answers before the node's agent, which runs the jobs, has come.
    until(is_submitted, lambda: said_of_it)
    assert "submitted successfully" in said_of_it, said_of_it

    def logs() -> str:
        return str(client.get_job_logs("mine"))

    archive = tmp_path / SECRET
    until(lambda: sum(path.stat().st_size for path in archive.rglob("*.bin")) > 1_000_000, logs)
    assert client.get_job_status("mine") == "RUNNING"
    call([str(RAY), "job", "stop", "--address", head, "mine"], folder)
    assert client.get_job_status("mine") == "STOPPED"
    said = logs()
    assert "ended 0" in said, said
    assert "warning" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("{")]
    sent = json.loads(line)["sinks"]["archive"]["events"]
    assert json.loads(line)["sinks"]["own"]["events"] == sent
    assert sent > 5000
    assert len(said.splitlines()) < 15

    assert scan_archive(archive, sent, as_json=False) == 0
    assert verify_archive(archive, as_json=False) == 0
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert audit_pipeline(folder / "pipeline.toml", as_json=False) == 0
    described = json.dumps([vars(job) for job in client.list_jobs()], default=str)
    assert "RAY_JOB_STOP_WAIT_TIME_S" in described
    assert SECRET not in described + said.replace(line, "")
