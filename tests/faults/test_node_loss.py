"""The node's raylet is killed, and with it everything that Ray runs there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cdp_ray_sinks.cli.audit import audit_pipeline
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

CONFIG = """
[pipeline]
name = "node-loss"
state_dir = "state"
[delivery]
populate_object_store = false
window_bytes = 16_777_216
drain_deadline_s = {drain_s}
[ray]
object_store_bytes = 134_217_728
[sources.made]
type = "synthetic"
workspaces = 2
batch_events = 500
{rest}
[sinks.archive]
type = "disk_binary"
path = "archive"
[sinks.tables]
type = "parquet"
path = "tables"
"""


SOON_MISSED = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""How Ray learns within seconds that a node is gone; it takes its time otherwise."""


def children_of(pid: int) -> list[int]:
    """Its child processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def raylet_below(pid: int) -> int:
    """The raylet that this process has started."""
    names = {child: Path(f"/proc/{child}/comm").read_text() for child in children_of(pid)}
    (raylet,) = [child for child, name in names.items() if name.startswith("raylet")]
    return raylet


def wait_for(condition: Callable[[], object], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.1)


def stored_bytes(base: Path) -> int:
    """What the files of that name below `base` hold together."""
    return sum(path.stat().st_size for path in base.rglob("*.bin"))


@pytest.fixture
def audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, int]]:
    """The events at each sink; the audit must be clean."""

    def ask() -> dict[str, int]:
        capsys.readouterr()
        code = audit_pipeline(tmp_path / "run.toml", as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert code == 0, found
        return {name: sink["found"]["events"] for name, sink in found["sinks"].items()}

    return ask


def test_a_killed_raylet_ends_the_run_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audited: Callable[[], dict[str, int]]
) -> None:
    """The run says so and leaves; what was acknowledged is there, nobody is locked out."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "cdp_ray_sinks", "run", "run.toml", "--json"]
    Path("run.toml").write_text(CONFIG.format(drain_s=1, rest="rate_events_per_s = 20000"))
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **SOON_MISSED},
    )  # fmt: skip
    wait_for(lambda: run.poll() is not None or stored_bytes(tmp_path / "archive") > 4_000_000, 120)
    raylet = raylet_below(run.pid)
    workers = children_of(raylet)
    os.kill(raylet, signal.SIGKILL)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    assert "was lost" in errors or "did not end" in errors, errors
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))

    assert verify("archive").ok
    kept = audited()
    assert min(kept.values()) > 0
    Path("run.toml").write_text(CONFIG.format(drain_s=60, rest="events = 20000"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert audited() == {name: events + 20_000 for name, events in kept.items()}
    assert verify("archive").ok
    assert verify_warehouse(Path("tables")).ok
