"""A whole run from the command line, with SIGKILLs in the middle of it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np

CONFIG = """
[pipeline]
name = "kills"
[sources.made]
type = "synthetic"
workspaces = 3
batch_events = 5000
rate_events_per_s = 130000
[sinks.archive]
type = "disk_binary"
path = "archive"
[sinks.nothing]
type = "null"
[routing]
default = ["archive", "nothing"]
"""
LZ4_CONFIG = """
[pipeline]
name = "lz4-kills"
[sources.made]
type = "synthetic"
workspaces = 2
batch_events = 2000
log_share = 0.1
rate_events_per_s = 40000
[sinks.archive]
type = "disk_binary"
path = "archive"
compression = "lz4"
[sinks.text]
type = "disk_plaintext"
path = "text"
compression = "lz4"
"""


def command(folder: Path, *arguments: str) -> Any:
    """The JSON that a command prints; its exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", *arguments, "--json"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def start_run(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A run that has begun, and its cluster's address."""
    run = subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "run", "run.toml", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        found = re.match(r"running on (\S+);", line)
        if found:
            return run, found[1]
    raise AssertionError("the run did not begin: " + "".join(said))


def kill_one_of(folder: Path, name: str, address: str, kind: str, sink: str, seed: int) -> str:
    """SIGKILL one actor of a sink; its name."""
    found = command(folder, "status", "--name", name, "--address", address)
    victims = [a for a in found["actors"] if a["kind"] == kind and f"/{sink}" in a["name"]]
    victim: dict[str, Any] = random.Random(seed).choice(victims)
    os.kill(victim["pid"], signal.SIGKILL)
    return str(victim["name"])


def lz4_content(path: Path) -> bytes:
    """What a file holds; the standard tool, where there is one, finds nothing wrong with it."""
    if shutil.which("lz4"):
        tested = subprocess.run(["lz4", "-t", path], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        whole = subprocess.run(["lz4", "-dc", path], capture_output=True, check=True)
        return whole.stdout
    with lz4.frame.open(path) as file:
        content: bytes = file.read()
        return content


def test_router_sink_and_chain_killed_in_one_run(tmp_path: Path) -> None:
    """Nothing is missing and nothing there twice, however long the run was."""
    (tmp_path / "run.toml").write_text(CONFIG)
    chance = random.Random(7)
    run, address = start_run(tmp_path)
    killed = []
    for kind in ("chain", "router", "sink"):
        time.sleep(chance.uniform(0.3, 1.0))
        found = command(tmp_path, "status", "--name", "kills", "--address", address)
        victims = [a for a in found["actors"] if a["kind"] == kind and "nothing" not in a["name"]]
        victim = chance.choice(victims)
        os.kill(victim["pid"], signal.SIGKILL)
        killed.append(victim["name"])
        assert run.poll() is None, "the run was over before the kill"
    time.sleep(chance.uniform(0.3, 1.0))
    run.send_signal(signal.SIGTERM)
    output, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    summary = json.loads(output)
    events = summary["sources"]["made"]["events"]
    assert summary["sinks"]["archive"]["events"] == events
    scanned = command(tmp_path, "scan", "archive", "--check-synthetic", str(events))
    assert (scanned["events"], scanned["missing"], scanned["duplicated"]) == (events, 0, 0), killed
    assert command(tmp_path, "verify", "archive")["ok"]


def test_chains_of_compressed_files_killed_in_one_run(tmp_path: Path) -> None:
    """Every file is whole for the `lz4` tool; records and lines are all there, each once."""
    (tmp_path / "run.toml").write_text(LZ4_CONFIG)
    run, address = start_run(tmp_path)
    killed = []
    for seed, sink in enumerate(("archive", "text", "archive")):
        time.sleep(1.0)
        killed.append(kill_one_of(tmp_path, "lz4-kills", address, "chain", sink, seed))
        assert run.poll() is None, "the run was over before the kill"
    run.send_signal(signal.SIGTERM)
    output, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    summary = json.loads(output)
    events = summary["sources"]["made"]["events"]
    assert summary["sinks"]["archive"]["events"] == summary["sinks"]["text"]["events"] == events
    scanned = command(tmp_path, "scan", "archive", "--check-synthetic", str(events))
    assert (scanned["events"], scanned["missing"], scanned["duplicated"]) == (events, 0, 0), killed
    numbers: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    for path in sorted(tmp_path.rglob("*.lz4")):
        content = lz4_content(path)
        if path.name.endswith(".log.lz4"):
            lines = re.findall(rb' payload=\{"n":(\d+),[^\n]*\n', content)
            assert len(lines) == content.count(b"\n")
            numbers.append(np.array(lines, "S20").astype(np.int64))
    assert np.array_equal(np.sort(np.concatenate(numbers)), np.arange(events)), killed
    for sink in ("archive", "text"):
        assert command(tmp_path, "verify", sink)["ok"]
