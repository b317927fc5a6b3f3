"""What a router counts: by sink and outcome, by workspace, within bounds."""

from __future__ import annotations

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.latency import quantile_s
from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.flow import OTHERS, SHOWN_MAX, RouterFlow
from cdp_ray_sinks.testing import numbered_batch


class Now:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def header(workspace_id: int, number: int = 0) -> BatchHeader:
    return numbered_batch(number, workspace_id, record_bytes=1000).header


def test_a_sink_is_told_of_by_outcome_and_latency() -> None:
    """Each settlement counts once, with the time since the batch came."""
    now = Now()
    flow = RouterFlow(now)
    batch = RoutedBatch(header(7), None, ("a", "b"), frozenset("a"), now(), flow.settled)
    flow.accepted(batch.header)
    now.now_s += 0.5
    batch.settle("a", "durable")
    batch.settle("a", "durable")  # a second answer about it is not heard
    batch.settle("b", "dropped")
    found = flow.sink_report("a")
    assert found["outcomes"] == {"durable": {"batches": 1, "events": 1, "bytes": 1000}}
    assert sum(found["latency"]) == 1
    assert 0.3 <= (quantile_s(found["latency"], 0.5) or 0) <= 0.5
    assert list(flow.sink_report("b")["outcomes"]) == ["dropped"]
    assert flow.sink_report("nobody")["outcomes"] == {}
    workspace = flow.workspace_reports([])["7"]
    assert (workspace["events"], workspace["bytes"], workspace["lost_events"]) == (1, 1000, 1)


def test_the_busiest_workspaces_are_told_of_and_what_of_them_is_here() -> None:
    """Who sent most since the last ranking, not who ever did."""
    now = Now()
    flow = RouterFlow(now)
    for workspace in range(1, 101):
        for _ in range(1000 if workspace == 1 else workspace):
            flow.accepted(header(workspace))
    flow.rank()
    assert list(flow.workspace_reports([])) == ["1", *map(str, range(100, 81, -1))]
    for workspace in range(40, 60):
        flow.accepted(header(workspace))
    flow.rank()
    waiting = RoutedBatch(header(45), None, ("a",), frozenset(), now())
    now.now_s += 3
    found = flow.workspace_reports([waiting])
    assert sorted(map(int, found)) == list(range(40, 60))
    assert len(found) == SHOWN_MAX
    assert found["45"]["in_flight_batches"] == 1
    assert found["45"]["in_flight_bytes"] == 1000
    assert found["45"]["lag_s"] == 3
    assert found["46"]["lag_s"] == 0


def test_workspaces_beyond_the_bound_are_counted_together() -> None:
    """However many there are, so many entries and one more; no event goes uncounted."""
    flow = RouterFlow(Now(), workspaces_max=3)
    for workspace in range(1, 1001):
        flow.accepted(header(workspace))
    flow.rank()
    found = flow.workspace_reports([RoutedBatch(header(500), None, ("a",), frozenset())])
    assert set(found) == {"1", "2", "3", str(OTHERS)}
    assert found[str(OTHERS)]["events"] == 997
    assert found[str(OTHERS)]["in_flight_batches"] == 1
    _, totals = flow.workspace_totals()
    assert sum(events for events, _ in totals.values()) == 1000
