"""Nodes of a cluster go and come under load; nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOON_MISSED = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""How Ray learns within seconds that a node is gone; it takes its time otherwise."""


def played(scenario: str, folder: Path) -> dict[str, Any]:
    """What came of a scenario of nodes_run.py."""
    script = Path(__file__).with_name("nodes_run.py")
    done = subprocess.run(
        [sys.executable, str(script), scenario, str(folder)],
        env={**os.environ, **SOON_MISSED}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def check_kept(found: dict[str, Any]) -> None:
    """Every event that was taken is in the archive, once, and was said to be."""
    assert found["verified"]
    assert found["found"] == found["events"] == found["acked_events"] > 40_000
    assert found["sinks"]["archive"]["errors"] == found["sinks"]["archive"]["dropped"] == 0
    assert found["failed"] == ""
    assert set(found["answered"]) <= set(found["posted"])


def moved(found: dict[str, Any], source: str) -> str:
    """What was said when a source that chose its node had gone to another."""
    (text,) = [t for t in found["said"] if t.startswith(f"source '{source}'") and "goes on" in t]
    return text


def test_a_lost_node_s_workspaces_go_on_elsewhere(tmp_path: Path) -> None:
    """Each node had a router, chains, a lane and its source; the others take over."""
    found = played("kill", tmp_path)
    check_kept(found)
    at_b = {
        name.rstrip("0123456789abcdef") for name, node in found["before"].items() if node == "b"
    }
    assert at_b == {
        "chain/archive/", "router/", "sink/counted/", "source/made@", "source/counting",
        "source/taking",
    }  # fmt: skip
    assert {found["after"]["source/counting"], found["after"]["source/taking"]} == {"a"}
    assert "lost with its node; it goes on at node 'a'" in moved(found, "counting")
    assert "lost with its node; it goes on at node 'a', listens on 1" in moved(found, "taking")
    assert any("chain" in text and "was lost" in text for text in found["said"])


@pytest.mark.soak
def test_a_node_that_comes_is_used_when_another_is_lost(tmp_path: Path) -> None:
    """It gets a source and a lane at once, and chains when workspaces need some."""
    found = played("join", tmp_path)
    check_kept(found)
    assert "source 'made@c': started, its node has come" in found["said"]


@pytest.mark.soak
def test_a_node_that_drains_is_left_before_it_is_lost(tmp_path: Path) -> None:
    """Its source settles all, its chains close; when it goes there is nothing to move."""
    found = played("drain", tmp_path)
    check_kept(found)
    assert any("made@b" in text and "0 batches unsettled" in text for text in found["said"])
    assert any("leaves its node" in text for text in found["said"])
    assert not any("was lost with its node" in text for text in found["said"])
    assert "0 batches unsettled; it goes on at node 'a', listens on " in moved(found, "taking")
    assert "0 batches unsettled; it goes on at node 'a'" in moved(found, "counting")
    assert found["posted"] == found["answered"]
    assert found["numbers"] == found["counted_events"] > 0
