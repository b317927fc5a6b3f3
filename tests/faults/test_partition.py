"""A node is cut off from the network under load, not killed: it goes on until it is fenced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

SOON_MISSED = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""How Ray learns within seconds that a node is gone; it takes its time otherwise."""


@lru_cache
def why_no_namespaces() -> str:
    """What keeps this process from making network namespaces; nothing if it can."""
    space, cable = f"cdptry{os.getpid()}", f"cdpt{os.getpid() % 100_000}"
    steps = [
        ["ip", "netns", "add", space],
        ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space],
        ["ip", "link", "add", f"{cable}b", "type", "bridge"],
        ["ip", "link", "set", cable, "master", f"{cable}b", "up"],
        ["ip", "netns", "exec", space, "true"],
    ]
    problem = ""
    try:
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, timeout=30, check=False)
            if done.returncode:
                problem = f"{' '.join(step)}: {done.stderr.strip()}"
                break
        for thing in (["link", "del", f"{cable}b"], ["netns", "del", space]):
            subprocess.run(["ip", *thing], capture_output=True, timeout=30, check=False)
    except OSError as error:
        problem = f"ip: {error}"
    return problem


@pytest.mark.soak
def test_a_node_that_is_cut_off_is_fenced_and_comes_back(tmp_path: Path) -> None:
    """Its workspaces go on elsewhere while its lanes still run; one of them finds its successor.

    What the driver's producer had acknowledged is there once, what the sources of the nodes had
    acknowledged is there as it was accounted for, that of the node that was cut off too.
    """
    problem = why_no_namespaces()
    if problem:
        pytest.skip(f"no network namespaces here: {problem}")
    script = Path(__file__).with_name("partition_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, **SOON_MISSED}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"] == ""
    assert found["were_there"] == found["chains"] != []
    assert found["fenced"]
    assert any("was lost with its node" in text for text in found["said"])
    assert "source 'made@b': started, its node has come" in found["said"]
    assert found["verified"]
    assert found["found"] == found["events"] == found["acked_events"] > 40_000
    assert (found["audited"], found["differences"]) == (True, [])
