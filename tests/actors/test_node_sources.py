"""A source that is on a node of its own choice, and what it counted wherever it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from cdp_ray_sinks.actors.nodes import alive_nodes
from cdp_ray_sinks.actors.source_lives import over_all_lives
from cdp_ray_sinks.actors.supervisor import Supervisor
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.flights import SinkTally
from cdp_ray_sinks.placement import Node
from cdp_ray_sinks.sources.synthetic import SyntheticConfig

Make = Callable[..., PipelineConfig]


def report_once(supervisor: Supervisor, events: int) -> dict[str, Any]:
    """What the source reports once it has made that many."""
    until = time.monotonic() + 120
    while True:
        report: dict[str, Any] = ray.get(supervisor.sources["counting"].report.remote())
        if report["events"] >= events:
            return report
        assert time.monotonic() < until, report
        time.sleep(0.05)


def test_a_source_waits_for_a_node_on_which_it_can_start(make_config: Make) -> None:
    """It stays while there is no other, is missed when it is lost, and goes on when it can."""
    config = make_config(
        sources={
            "counting": {
                "type": "synthetic", "batch_events": 100, "rate_events_per_s": 5000,
                "placement": {},
            }
        },
        sinks={"nothing": {"type": "null"}},
    )  # fmt: skip
    supervisor = Supervisor(config, print)
    sources = supervisor.node_sources
    (home,) = alive_nodes()
    try:
        supervisor.start_sinks(1)
        supervisor.start_router()
        assert supervisor.start_sources() == [f"source 'counting': at node {home.name!r}"]
        assert sources.use_nodes([home]) == []
        (text,) = sources.use_nodes([replace(home, is_draining=True)])
        assert text == "source 'counting': no other node matches its placement, it stays"
        first = report_once(supervisor, 1000)
        sources.last_report = {"counting": first}.get

        (text,) = sources.use_nodes([])
        assert text.endswith("lost with its node; waits for a node that matches")
        assert supervisor.sources == {}
        assert sources.is_on_lost_node("counting", [home.node_id])
        (text,) = sources.use_nodes([Node("e" * 56, "nobody")])
        assert "can't start on another node, later once more" in text
        assert supervisor.sources == {}
        (text,) = sources.try_again([home])
        assert text.endswith(f"lost with its node; it goes on at node {home.name!r}")
        assert sources.try_again([home]) == []
        second = report_once(supervisor, 1000)
        whole = over_all_lives(second, sources.earlier["counting"])
        assert whole["events"] == first["events"] + second["events"]
        assert whole["counters"]["events"] == whole["events"]
    finally:
        supervisor.kill_all()


def test_each_life_of_a_source_counts_once() -> None:
    """What is counted adds up, the rest is as it is now."""

    def report(life: int, events: int, state: str, expected: int | None) -> dict[str, Any]:
        return {
            "life": life, "state": state, "events": events, "events_expected": expected,
            "counters": {"events": events, "errors": 1}, "resends": 2,
            "tallies": {"one": SinkTally(events=events)},
        }  # fmt: skip

    first, now = report(1, 100, "finished", 1000), report(2, 50, "running", 900)
    whole = over_all_lives(now, [first, first])
    assert (whole["events"], whole["events_expected"], whole["state"]) == (150, 1000, "running")
    assert whole["counters"] == {"events": 150, "errors": 2}
    assert whole["tallies"] == {"one": SinkTally(events=150)}
    assert whole["resends"] == 4
    assert over_all_lives(first, [first]) == first
    assert over_all_lives(report(2, 5, "running", None), [first])["events_expected"] is None


def test_a_synthetic_source_goes_on_behind_its_last_number() -> None:
    """So many fewer are left; without an end there is none."""
    config = SyntheticConfig(events=1000, start_number=7)
    after = config.going_on_after(400)
    assert (after.start_number, after.events) == (407, 600)
    assert after.going_on_after(900).events == 0
    assert SyntheticConfig().going_on_after(3).events is None
