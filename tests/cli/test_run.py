"""`run` as a process of its own: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdp_ray_sinks.cli.run import Rate, print_summary
from cdp_ray_sinks.cli.scan import scan_archive
from cdp_ray_sinks.cli.verify import verify_archive

CONFIG = """
[pipeline]
name = "run-test"
state_dir = "{folder}/state"
[ray]
object_store_bytes = 200_000_000
[delivery]
window_bytes = 64_000_000
populate_object_store = false
[sources.events]
type = "synthetic"
workspaces = 2
{events}
[sinks.nothing]
type = "null"
[sinks.archive]
type = "disk_binary"
path = "archive"
[sinks.lines]
type = "disk_plaintext"
path = "lines"
compression = "lz4"
"""
SINK_KEYS = [
    "type", "events", "messages", "batches", "bytes", "errors", "dropped", "dead_letters",
    "spooled", "left_in_spool", "buffer_hit_rate",
]  # fmt: skip


def start(folder: Path, events: str) -> subprocess.Popen[str]:
    (folder / "pipeline.toml").write_text(CONFIG.format(folder=folder, events=events))
    return subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "run", "pipeline.toml", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def test_a_run_ends_with_one_object_and_whole_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The documented shape, every event in both sinks, paths under the working directory."""
    process = start(tmp_path, "events = 30_000")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert list(summary) == ["elapsed_s", "sources", "sinks"]
    assert summary["sources"]["events"]["events"] == 30_000
    types = {"nothing": "null", "archive": "disk_binary", "lines": "disk_plaintext"}
    for name, sink_type in types.items():
        sink = summary["sinks"][name]
        assert list(sink) == SINK_KEYS
        assert (sink["type"], sink["events"]) == (sink_type, 30_000)
        assert sink["bytes"] > 30_000 * 100
        assert (sink["errors"], sink["dropped"], sink["dead_letters"]) == (0, 0, 0)
        assert sink["buffer_hit_rate"] == (1.0 if name == "lines" else None)
    assert scan_archive(tmp_path / "archive", 30_000, as_json=False) == 0
    assert verify_archive(tmp_path / "archive", as_json=False) == 0
    print_summary(summary, sys.stdout)
    assert "archive (disk_binary)" in capsys.readouterr().out


def test_a_signal_drains_what_was_taken(tmp_path: Path) -> None:
    """After SIGTERM the archive has every event that the source counts, and the code is 0.

    Twice in a moment is once: `timeout` signals its child and then the child's group.
    """
    process = start(tmp_path, "rate_events_per_s = 20_000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("running"):
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    count = json.loads(out)["sources"]["events"]["events"]
    assert count > 0
    assert scan_archive(tmp_path / "archive", count, as_json=False) == 0


def test_a_rate_follows_what_happens() -> None:
    """It settles within a few steps, and the first look is no rate yet."""
    rate = Rate()
    rate.update(0.0, 0, 0)
    assert rate.text.startswith("0 events  0 events/s")
    for step in range(1, 20):
        rate.update(step * 0.25, step * 1000, step * 200_000)
    assert "4,000 events/s" in rate.text
    assert "800.0 kB/s" in rate.text


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """It does not wait for a drain that can't end; the code says that it was interrupted."""
    process = start(tmp_path, "rate_events_per_s = 20_000")
    assert process.stderr is not None
    address = next(
        line.split()[2].rstrip(";") for line in process.stderr if line.startswith("running")
    )
    status = subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", "status", "--name", "run-test",
         "--address", address, "--json"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    chain = next(a["pid"] for a in json.loads(status.stdout)["actors"] if a["kind"] == "chain")
    os.kill(chain, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert any(line.startswith("draining") for line in process.stderr)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    with contextlib.suppress(ProcessLookupError):
        os.kill(chain, signal.SIGKILL)
