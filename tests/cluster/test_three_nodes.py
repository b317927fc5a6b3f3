"""The three nodes of `cluster/three-nodes`, used as cluster/README.md says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300
PORT = 27_380

pytestmark = pytest.mark.soak


def script(*arguments: str) -> str:
    """What `three-nodes` says."""
    done = subprocess.run(
        [str(ROOT / "cluster" / "three-nodes"), *arguments],
        stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S, env=environment(),
    )  # fmt: skip
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ["PATH"]])
    python_path = os.pathsep.join(p for p in sys.path if p)
    base = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    return {**base, "PATH": path, "PYTHONPATH": python_path, "PORT": str(PORT), **more}


@pytest.fixture
def nodes() -> Iterator[dict[str, str]]:
    """The cluster, as variables of a shell that uses it."""
    with tempfile.TemporaryDirectory(prefix="cdp-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        folder = f"{temp}/c"
        try:
            script("up", folder)
            words = script("env", folder).replace("export", "").split()
            variables = dict(word.split("=", 1) for word in words)
            yield environment(**variables, CLUSTER_FOLDER=folder)
        finally:
            script("down", folder)
        left = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False)
        assert left.stdout == ""


def cdp_sinks(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", *arguments],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=variables,
    )  # fmt: skip


def test_a_pipeline_runs_is_watched_and_nobody_gets_in_without_the_token(
    nodes: dict[str, str], tmp_path: Path
) -> None:
    """Run, top, status by the client's port, metrics of each node, a wrong token, none left."""
    text = (ROOT / "cluster" / "pipeline.toml").read_text()
    (tmp_path / "pipeline.toml").write_text(text.replace("/tmp/cdp-cluster", str(tmp_path)))
    run = subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "run", "pipeline.toml", "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=nodes,
    )  # fmt: skip
    try:
        used(nodes, run)
    finally:
        run.terminate()
        out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    count = json.loads(out)["sources"]["made"]["events"]
    checked = cdp_sinks(nodes, "scan", str(tmp_path / "archive"), "--check-synthetic", str(count))
    assert checked.returncode == 0, checked.stdout


def used(nodes: dict[str, str], run: subprocess.Popen[str]) -> None:
    """What one does with a pipeline that runs there."""
    assert run.stderr is not None
    running = next(line for line in run.stderr if line.startswith("running"))
    assert nodes["RAY_ADDRESS"] in running
    top = cdp_sinks(nodes, "top", "--name", "on-the-cluster", "--once", "--json")
    assert top.returncode == 0, top.stderr
    assert {row["name"] for row in json.loads(top.stdout)["sinks"]} == {"archive", "nothing"}
    host = nodes["RAY_ADDRESS"].split(":")[0]
    client = f"ray://{host}:{PORT + 1}"
    status = cdp_sinks(nodes, "status", "--name", "on-the-cluster", "--address", client)
    assert status.returncode == 0, status.stderr
    assert "archive" in status.stdout
    for wrong in ({"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}):
        refused = cdp_sinks({**nodes, **wrong}, "status", "--name", "on-the-cluster")
        assert refused.returncode == 2
        assert "on-the-cluster/" not in refused.stdout
    for number in range(3):
        with urllib.request.urlopen(f"http://{host}:{PORT + 10 + number}/metrics") as answer:
            assert answer.status == 200
