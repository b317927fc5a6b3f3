"""`cdp-sinks replay`: what an archive holds, into other sinks, once however often."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.replay import replay_archive
from cdp_ray_sinks.cli.scan import scan_archive
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper

EVENTS = 30_000


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Events of two workspaces in an archive that nobody writes to."""
    options = {"events": EVENTS, "shape": "tell", "batch_events": 1000, "workspaces": 2}
    keeper = BatchKeeper()
    made = load_source_config("synthetic", options).build(SourceContext("made"))
    made.run(keeper, threading.Event())
    config = DiskBinaryConfig(type="disk_binary", path=str(tmp_path / "old"))
    sink = config.build(SinkContext("archive"))
    sink.open()
    for place, batch in enumerate(keeper.batches):
        sink.write(batch)
        if place % 3 == 2:
            sink.flush()
    sink.close()
    return tmp_path / "old"


def command(*given: object) -> dict[str, Any]:
    """What the command prints as JSON, in a process of its own; it must end well."""
    line = [sys.executable, "-m", "cdp_ray_sinks", "replay", *map(str, given), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_replay_into_a_running_pipeline(
    archive: Path, cluster: None, tmp_path: Path, capfd: Any
) -> None:
    """Twice is as once; of a part, too."""
    config = PipelineConfig(
        pipeline={"name": "replay-cli", "state_dir": tmp_path / "state"},
        delivery={"window_bytes": 32 * 1024 * 1024},
        sinks={"new": {"type": "disk_binary", "path": tmp_path / "new"}},
    )
    with Pipeline(config) as pipeline:
        where = ("--name", "replay-cli", "--address", pipeline.address)
        part = command(archive, *where, "--workspace", 1)
        assert part["events"] == part["sinks"]["new"]["durable"] == EVENTS // 2
        whole = command(archive, *where, "--rate", "100MB")
        assert (whole["events"], whole["damaged"]) == (EVENTS, 0)
    capfd.readouterr()
    assert scan_archive(tmp_path / "new", EVENTS, as_json=True) == 0


def test_where_it_goes_must_be_said(archive: Path, tmp_path: Path, cluster: None) -> None:
    """Exactly one of the two; a pipeline that does not run is named."""
    with pytest.raises(ConfigError, match="give --into FILE, or --name"):
        replay_archive(archive, None, None, None, None, Selection(), True)
    with pytest.raises(ConfigError, match="no pipeline named 'nobody' runs"):
        replay_archive(archive, None, "nobody", None, None, Selection(), True)
