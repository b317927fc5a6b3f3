"""What `--from`, `--to`, `--workspace` and `--type` let through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cdp_ray_sinks.cli.scan import scan_archive
from cdp_ray_sinks.cli.selecting import make_selection, time_ms
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.testing import BatchKeeper
from cdp_ray_sinks.writers.binary import BinaryWriter

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "is_end", "expected"),
    [
        ("1970-01-02", False, DAY_MS),
        ("1970-01-02", True, 2 * DAY_MS - 1),
        ("1970-01-01T00:00:01Z", False, 1_000),
        ("1970-01-01T01:00:00+01:00", False, 0),
        ("1970-01-01T00:00:00.250", True, 250),
        ("1795362307913", False, 1_795_362_307_913),
    ],
)
def test_times_are_read_as_people_write_them(text: str, is_end: bool, expected: int) -> None:
    """ISO 8601 in UTC, a date for the whole day, or Unix milliseconds."""
    assert time_ms("--from", text, is_end) == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("yesterday", None, "received", [], []), "--from yesterday"),
        (("2026-01-02", "2026-01-01", "received", [], []), "is later than"),
        ((None, None, "sent", [], []), "--time sent"),
        ((None, None, "received", [], ["trakc"]), "--type trakc"),
    ],
)
def test_what_makes_no_sense_is_named(options: tuple[object, ...], named: str) -> None:
    """The error has the option and the value."""
    with pytest.raises(ConfigError, match=named):
        make_selection(*options)  # type: ignore[arg-type]


def archive_of(folder: Path, **options: object) -> list[int]:
    """An archive of synthetic events in two workspaces; the workspaces of its batches."""
    keeper = BatchKeeper()
    config = SyntheticConfig(events=4_000, workspaces=2, batch_events=1_000, **options)
    config.build(SourceContext("made")).run(keeper, threading.Event())
    for workspace in (1, 2):
        chain = Chain(folder, workspace, BinaryWriter(), ChainOptions())
        chain.open()
        for batch in keeper.batches:
            if batch.header.workspace_id == workspace:
                chain.append(batch)
        chain.close()
    return [batch.header.workspace_id for batch in keeper.batches]


def scanned(folder: Path, capsys: pytest.CaptureFixture[str], *options: object) -> int:
    """How many events a scan with those options finds."""
    scan_archive(folder, None, True, make_selection(*options))  # type: ignore[arg-type]
    return int(json.loads(capsys.readouterr().out)["events"])


def test_scan_counts_what_is_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By workspace, by type, by both; types that are complementary add up to all."""
    archive_of(tmp_path, identify_share=0.25, log_share=0.25)
    everything = scanned(tmp_path, capsys, None, None, "received", [], [])
    assert everything == 4_000
    one = scanned(tmp_path, capsys, None, None, "received", [1], [])
    two = scanned(tmp_path, capsys, None, None, "received", [2], [])
    assert one + two == everything
    parts = [
        scanned(tmp_path, capsys, None, None, "received", [], [kind])
        for kind in ("track", "identify", "log")
    ]
    assert all(parts)
    assert sum(parts) == everything
    assert scanned(tmp_path, capsys, None, None, "received", [], ["track,identify"]) == sum(
        parts[:2]
    )
    assert scanned(tmp_path, capsys, "2100-01-01", None, "event", [], []) == 0
    assert scanned(tmp_path, capsys, None, "2100-01-01", "event", [], []) == everything


def test_follow_prints_events_as_they_are_committed(tmp_path: Path) -> None:
    """What was there before stays unsaid; what lands is printed; Ctrl-C ends it quietly."""
    keeper = BatchKeeper()
    config = SyntheticConfig(events=30, batch_events=10)
    config.build(SourceContext("made")).run(keeper, threading.Event())
    chain = Chain(tmp_path, 1, BinaryWriter(), ChainOptions())
    chain.open()
    first, second, third = keeper.batches
    chain.append(first)
    chain.commit()
    follow = subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "cat", str(tmp_path), "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert follow.stdout is not None
    time.sleep(3)
    for batch in (second, third):
        chain.append(batch)
        chain.commit()
    found = [json.loads(follow.stdout.readline())["payload"]["n"] for _ in range(20)]
    assert found == list(range(10, 30))
    os.kill(follow.pid, signal.SIGINT)
    assert follow.wait(10) == 0
    chain.close()
