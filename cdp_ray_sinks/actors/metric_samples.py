"""What actors report, as values of metrics: totals, states and histograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from cdp_ray_sinks.metrics import MetricsSnapshot

WORKSPACES_LABELLED_MAX: Final = 100
OTHER: Final = "other"
_LANE_NAMES: Final = {
    "flush_count": "cdp_lane_flushes_total",
}


class Sample(NamedTuple):
    """The value of a metric: a total, a state, or the counts of a histogram's buckets."""

    name: str
    labels: Mapping[str, str]
    value: float | list[int]


def source_samples(name: str, report: Mapping[str, Any]) -> Iterator[Sample]:
    """Of a source actor's report, or of a producer's that looks like one."""
    labels, flow = {"source": name}, report["flow"]
    for total in ("batches", "events", "bytes"):
        yield Sample(f"cdp_source_{total}_total", labels, flow[total])
    yield Sample("cdp_source_in_flight_batches", labels, report["in_flight_batches"])
    yield Sample("cdp_source_in_flight_bytes", labels, report["in_flight_bytes"])
    yield Sample("cdp_source_lag_seconds", labels, flow["lag_s"])
    yield Sample("cdp_source_resends_total", labels, report["resends"])
    yield Sample("cdp_source_running", labels, report["state"] == "running")
    yield Sample("cdp_source_problem", labels, bool(report["problem"] or report["error"]))
    yield Sample("cdp_source_ack_latency_seconds", labels, flow["latency"])


def router_samples(report: Mapping[str, Any]) -> Iterator[Sample]:
    """Of a router's report."""
    yield Sample("cdp_router_batches_total", {}, report["batches_routed"])
    yield Sample("cdp_router_held_batches", {}, report["in_router"])
    for name, sink in report["sinks"].items():
        labels = {"sink": name}
        yield Sample("cdp_router_queued_batches", labels, sink.get("queued", 0))
        yield Sample("cdp_router_queued_bytes", labels, sink["queued_bytes"])
        yield Sample("cdp_router_in_flight_bytes", labels, sink["in_flight_bytes"])
        yield Sample("cdp_router_in_flight_bytes_max", labels, sink["in_flight_bytes_max"])
        yield Sample("cdp_router_lag_seconds", labels, sink["lag_s"])
        yield Sample("cdp_router_lane_recoveries_total", labels, sink.get("recoveries", 0))
        state = sink.get("spool", {}).get("state", "direct")
        yield Sample("cdp_router_spooling", labels, state == "spooling")
        for outcome, counts in sink["flow"]["outcomes"].items():
            both = {"sink": name, "outcome": outcome}
            for total, count in counts.items():
                yield Sample(f"cdp_sink_{total}_total", both, count)
        yield Sample("cdp_sink_ack_latency_seconds", labels, sink["flow"]["latency"])


def lane_samples(sink_name: str, report: Mapping[str, Any]) -> Iterator[Sample]:
    """Of a lane's report."""
    labels = {"sink": sink_name}
    metrics: MetricsSnapshot = report["metrics"]
    for counter, total in metrics.to_dict().items():
        yield Sample(_LANE_NAMES.get(counter, f"cdp_lane_{counter}_total"), labels, total)
    yield Sample("cdp_lane_queued_bytes", labels, report["queued_bytes"])
    yield Sample("cdp_lane_retrying", labels, bool(report["last_error"]))


def spool_samples(sink_name: str, report: Mapping[str, Any], now_ms: int) -> Iterator[Sample]:
    """Of a spool's report; none before it is open."""
    state = report.get("spool")
    if state is None:
        return
    labels, oldest_ms = {"sink": sink_name}, state["oldest_ms"]
    lag_s = 0.0 if oldest_ms is None or state["is_empty"] else max(0, now_ms - oldest_ms) / 1000
    yield Sample("cdp_spool_batches", labels, state["batches"])
    yield Sample("cdp_spool_bytes", labels, state["held_bytes"])
    yield Sample("cdp_spool_lag_seconds", labels, lag_s)
    for total in ("delivered_batches", "dropped_batches", "dropped_events"):
        yield Sample(f"cdp_spool_{total}_total", labels, state[total])
    yield Sample("cdp_spool_damaged_segments", labels, len(state["damaged"]))


def sink_actor_samples(sink_name: str, report: Mapping[str, Any]) -> Iterator[Sample]:
    """Of the report of a sink actor that has chains."""
    yield Sample("cdp_sink_workspaces", {"sink": sink_name}, report["workspaces"])
    yield Sample("cdp_sink_chains", {"sink": sink_name}, report["chains"])


class WorkspaceLabels:
    """Totals per workspace under a bounded number of labels.

    What a workspace sent before it got a label of its own has been counted as `OTHER` and
    stays there, so that every total only rises.
    """

    def __init__(self, labelled_max: int = WORKSPACES_LABELLED_MAX) -> None:
        self._labelled_max = labelled_max
        self._labelled: set[int] = set()
        self._known: dict[int, tuple[int, int]] = {}
        self._totals: dict[str, list[int]] = {}

    def samples(
        self, busiest: list[int], totals: Mapping[int, tuple[int, int]]
    ) -> Iterator[Sample]:
        """From events and bytes of each workspace; workspace 0 stands for several."""
        for workspace_id in busiest:
            if workspace_id and len(self._labelled) < self._labelled_max:
                self._labelled.add(workspace_id)
        for workspace_id, (events, record_bytes) in totals.items():
            known = self._known.get(workspace_id, (0, 0))
            if known == (events, record_bytes):
                continue
            label = str(workspace_id) if workspace_id in self._labelled else OTHER
            total = self._totals.setdefault(label, [0, 0])
            total[0] += events - known[0]
            total[1] += record_bytes - known[1]
            self._known[workspace_id] = (events, record_bytes)
        for label, (events, record_bytes) in self._totals.items():
            labels = {"workspace": label}
            yield Sample("cdp_workspace_events_total", labels, events)
            yield Sample("cdp_workspace_bytes_total", labels, record_bytes)
