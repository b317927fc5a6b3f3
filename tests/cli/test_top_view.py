"""What `top` draws: within the screen, the important columns kept, nothing drives the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cdp_ray_sinks.cli.top_view import drawn, seconds_text

NAME = "a-source-with-a-name-of-some-length"


def row(**more: Any) -> dict[str, Any]:
    return {
        "name": "archive", "node": "0123456789ab", "state": "running", "events": 10**9,
        "bytes": 10**12, "events_per_s": 1_234_567.0, "bytes_per_s": 3e8, "batches": 5,
        "batches_per_s": 800.5, "held_batches": 4, "in_flight_bytes": 64_000_000,
        "queued_bytes": 1, "queued_batches": 2, "spool_bytes": 10**10, "spool_batches": 1,
        "lag_s": 0.5, "p50_s": 0.0123, "p99_s": None, "errors": 3, "dropped_events": 0,
        "dead_letters": 0, "lanes": 8, "resends": 0, "problem": None, "recoveries": 0,
        "lost_events": 0, **more,
    }  # fmt: skip


def look(**more: Any) -> dict[str, Any]:
    workspaces = [row(workspace=number) for number in range(1, 21)]
    return {
        "pipeline": "main", "interval_s": 3.0, "nodes": 3, "actors": 12, "is_restarted": False,
        "silent": [], "problems": [], "sources": [row(name=NAME)], "routers": [row(name="router")],
        "sinks": [row(), row(name="rows")], "workspaces": workspaces, **more,
    }  # fmt: skip


def lines(found: dict[str, Any], width: int, height: int | None = None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False)
    console.print(drawn(found, width, height))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 140, 300])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    """Columns give way, the first one and the name stay; wide screens show all."""
    shown = lines(look(problems=["x" * 500]), width)
    assert max(map(len, shown)) <= width
    text = "\n".join(shown)
    assert "workspace" in text
    if width >= 80:
        for head in ("events/s", "p99", "errors", "spool", "1,234,567", "300.0"):
            assert head in text
    if width >= 140:
        for head in ("dead letters", "dropped", "node", "resends", "queue", "in flight"):
            assert head in text


def test_a_low_screen_has_fewer_workspaces() -> None:
    """The busiest stay; sources and sinks come first."""
    shown = lines(look(), 100, 20)
    assert len(shown) <= 20
    assert any(line.startswith("rows") for line in shown)
    assert any(line.startswith("1 ") for line in shown)
    assert not any(line.startswith("20 ") for line in shown)


def test_control_characters_are_shown_and_not_obeyed() -> None:
    """Errors quote what clients sent, names are what somebody chose."""
    evil = "\x1b[2J\x1b]0;owned\x07 [bold]not markup[/bold] \u202ereversed\nnew line"
    found = look(problems=[evil], silent=[evil], sinks=[row(name=evil)])
    for width in (60, 400):
        text = "\n".join(lines(found, width))
        assert not set(text) & set("\x1b\x07\u202e")
    assert "[bold]not markup[/bold]" in text


def test_what_is_wrong_is_said_first_and_not_at_length() -> None:
    """A line for each, no more than a few."""
    found = look(problems=[f"sink/{n}: no answer" for n in range(9)], is_restarted=True)
    shown = lines(found, 100)
    assert shown[1] == "! it was started anew since the last look"
    assert shown[2:7] == [f"! sink/{n}: no answer" for n in range(5)]
    assert shown[7] == "! and 4 more; see status"


def test_without_rates_there_are_totals() -> None:
    """The first look, and `status`."""
    text = "\n".join(lines(look(interval_s=None), 140))
    assert "events/s" not in text
    assert "1,000,000,000" in text


@pytest.mark.parametrize(
    ("latency_s", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.0012, "1.2 ms"), (0.0349, "35 ms"), (4.06, "4.1 s"),
     (599.0, "599.0 s"), (7200, "120 min")],
)  # fmt: skip
def test_latencies_are_readable(latency_s: float | None, text: str) -> None:
    """Two or three digits and a unit."""
    assert seconds_text(latency_s) == text
