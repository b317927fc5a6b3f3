"""A whole run from the command line, with SIGKILLs in the middle of it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVENTS = 2_000_000
CONFIG = f"""
[pipeline]
name = "kills"
[sources.made]
type = "synthetic"
events = {EVENTS}
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


def test_router_sink_and_chain_killed_in_one_run(tmp_path: Path) -> None:
    """Two million events, three SIGKILLs: nothing is missing, nothing is there twice."""
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
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    summary = json.loads(output)
    assert summary["sinks"]["archive"]["events"] == EVENTS
    scanned = command(tmp_path, "scan", "archive", "--check-synthetic", str(EVENTS))
    assert (scanned["events"], scanned["missing"], scanned["duplicated"]) == (EVENTS, 0, 0), killed
    assert command(tmp_path, "verify", "archive")["ok"]
