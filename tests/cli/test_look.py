"""Rows from looks: rates process by process, several routers and lanes together, problems."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdp_ray_sinks.cli.look import Look, view
from cdp_ray_sinks.latency import LatencyHistogram


def histogram(*latencies_s: float) -> list[int]:
    made = LatencyHistogram()
    for latency_s in latencies_s:
        made.add(latency_s)
    return made.counts()


def source(events: int, latencies: tuple[float, ...] = (), **more: Any) -> dict[str, Any]:
    flow = {"events": events, "bytes": 200 * events, "latency": histogram(*latencies), "lag_s": 1.5}
    return {
        "state": "running", "error": None, "problem": "", "in_flight_batches": 2,
        "in_flight_bytes": 1000, "resends": 0, "flow": flow, **more,
    }  # fmt: skip


def router(events: int, latencies: tuple[float, ...] = (), workspace: str = "7") -> dict[str, Any]:
    counts = {"batches": events // 10, "events": events, "bytes": 200 * events}
    dropped = {"batches": 1, "events": 5, "bytes": 1000}
    latency = histogram(*latencies)
    sink = {
        "queued": 3, "queued_bytes": 300, "in_flight_bytes": 500, "lag_s": 0.25, "recoveries": 1,
        "flow": {"outcomes": {"durable": counts, "dropped": dropped}, "latency": latency},
    }  # fmt: skip
    shown = {
        "events": events, "bytes": 200 * events, "lost_events": 5, "latency": latency,
        "in_flight_bytes": 500, "in_flight_batches": 1, "lag_s": 0.25,
    }  # fmt: skip
    return {
        "batches_routed": events // 10, "in_router": 4, "sinks": {"disk": sink},
        "workspaces": {workspace: shown},
    }  # fmt: skip


def lane(events: int, error: str | None = None) -> dict[str, Any]:
    metrics = {"events_written": events, "bytes_written": 200 * events, "write_errors": 2}
    return {"sink": "disk", "metrics": {**metrics, "dead_letters": 1}, "last_error": error}


def status(pid: int = 1, silent: tuple[str, ...] = (), **reports: dict[str, Any]) -> dict[str, Any]:
    """A status whose actors are named kind_name, on a node for each kind."""
    actors, named = [], {}
    for key, report in reports.items():
        kind, _, name = key.partition("_")
        full = f"main/{kind}/{name}"
        actors.append({"name": full, "kind": kind, "pid": pid, "node": f"{kind}-1234567890abcdef"})
        named[full] = report
    return {"pipeline": "main", "actors": actors, "reports": named, "silent": list(silent)}


def test_one_look_has_totals_and_no_rates() -> None:
    """`status`: what was done since the processes began."""
    found = view(Look(5.0, status(
        source_web=source(1000, (0.01,) * 99), router_0=router(900), chain_0=lane(400),
        chain_1=lane(500, "disk full"), silent=("main/sink/x",),
    )))  # fmt: skip
    json.dumps(found, allow_nan=False)
    assert (found["nodes"], found["actors"], found["interval_s"]) == (3, 4, None)
    assert found["silent"] == ["main/sink/x"]
    assert found["problems"] == ["chain/1: disk full"]
    (web,) = found["sources"]
    assert (web["events"], web["events_per_s"], web["lag_s"]) == (1000, None, 1.5)
    assert web["p50_s"] == pytest.approx(0.0085, rel=0.2)
    (disk,) = found["sinks"]
    assert (disk["lanes"], disk["events"], disk["errors"], disk["dead_letters"]) == (2, 900, 4, 2)
    assert (disk["dropped_events"], disk["state"]) == (5, "retrying")


def test_two_looks_have_rates_and_the_latencies_in_between() -> None:
    """What was slow before does not count any more."""
    slow = (5.0,) * 1000
    before = status(source_web=source(1000, slow), router_0=router(1000, slow), chain_0=lane(1000))
    now = status(
        source_web=source(3000, (*slow, 0.002)), router_0=router(2000, (*slow, 0.002)),
        chain_0=lane(2000), chain_1=lane(700),
    )  # fmt: skip
    found = view(Look(12.0, now), Look(10.0, before))
    assert found["interval_s"] == 2.0
    assert found["sources"][0]["events_per_s"] == 1000
    assert found["sources"][0]["p99_s"] <= 0.002
    assert found["sinks"][0]["events_per_s"] == 500  # a new lane has no rate yet
    assert found["sinks"][0]["bytes_per_s"] == 100_000
    assert found["workspaces"][0]["events_per_s"] == 500
    assert not found["is_restarted"]
    same = view(Look(14.0, now), Look(12.0, now))
    assert same["sources"][0]["p50_s"] is None
    assert same["sources"][0]["events_per_s"] == 0


def test_a_restarted_process_has_no_rate_rather_than_a_wrong_one() -> None:
    """A counter that began anew does not fall; a pipeline that did is said to have."""
    before = status(source_web=source(10**6), router_0=router(10**6), chain_0=lane(10**6))
    now = status(2, source_web=source(10), router_0=router(10), chain_0=lane(10))
    found = view(Look(12.0, now), Look(10.0, before))
    assert found["is_restarted"]
    assert found["sources"][0]["events_per_s"] == 0
    assert found["sinks"][0]["events_per_s"] == 0
    assert found["workspaces"][0]["events_per_s"] == 0


def test_routers_are_added_up_and_workspaces_ordered() -> None:
    """The busiest first; those that are counted together last."""
    now = status(
        router_a=router(1000), router_b=router(500), router_c=router(9000, workspace="0"),
        router_d=router(700, workspace="3"),
    )  # fmt: skip
    found = view(Look(1.0, now))
    assert [row["workspace"] for row in found["workspaces"]] == [7, 3, "others"]
    assert found["workspaces"][0]["events"] == 1500
    assert found["sinks"][0]["queued_batches"] == 12
    assert [row["node"] for row in found["routers"]] == ["router-12345"] * 4
