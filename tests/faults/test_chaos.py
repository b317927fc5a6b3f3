"""`cdp-sinks chaos`, all scenarios for some seconds: real faults, everything read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_ray_sinks.chaos.run import run_chaos
from cdp_ray_sinks.chaos.settings import SCENARIOS, ChaosSettings
from cdp_ray_sinks.cli.audit import audit_pipeline


def test_nothing_is_lost_or_doubled(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of each scenario at least, every destination whole; then a file is missed."""
    said: list[str] = []
    settings = ChaosSettings(3.0, 3, SCENARIOS, 5000, tmp_path / "chaos", said.append)
    report = run_chaos(settings, is_kept=True)
    assert report.broken == [], said
    assert {each.scenario for each in report.injected} == set(SCENARIOS), said
    assert report.events > 0
    assert [one.name for one in report.destinations] == ["archive", "tables", "mirror", "rows"]
    assert all(one.found >= one.expected > report.events for one in report.destinations)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True

    path = tmp_path / "chaos" / "chaos.toml"
    assert audit_pipeline(path, as_json=True) == 0
    capsys.readouterr()
    taken = next((tmp_path / "chaos" / "tables" / "2").rglob("events*.parquet"))
    taken.unlink()
    assert audit_pipeline(path, as_json=False) == 1
    said_now = capsys.readouterr().out
    hour = f"{taken.parts[-3]} {taken.parts[-2]}:00 UTC"
    assert f"workspace 2, {hour}: " in said_now
    assert "events missing (accounted " in said_now


@pytest.mark.soak
def test_a_hundred_kills_over_ten_million_events(cluster: None, tmp_path: Path) -> None:
    """Archive, tables, the spooled mirror and ClickHouse: each number once, and a clean audit."""
    said: list[str] = []
    settings = ChaosSettings(1500.0, 12, ("kills",), 8_000, tmp_path / "chaos", said.append)
    report = run_chaos(settings, is_kept=True)
    assert report.broken == [], said
    kills = [each for each in report.injected if each.what.startswith("SIGKILL")]
    assert len(kills) >= 100
    assert report.events > 10_000_000
    assert len(report.destinations) == 4
    assert audit_pipeline(tmp_path / "chaos" / "chaos.toml", as_json=True) == 0
