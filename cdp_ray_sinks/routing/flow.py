"""What goes through a router, by sink and by workspace: a few additions for each batch."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.push import DURABLE, SPOOLED
from cdp_ray_sinks.latency import LatencyHistogram
from cdp_ray_sinks.routing.flights import RoutedBatch

WORKSPACES_MAX: Final = 10_000
"""So many workspaces are counted one by one; the others are counted together."""
OTHERS: Final = 0
"""Stands for those; no workspace has this number."""
SHOWN_MAX: Final = 20
"""Of so many workspaces a report tells: those that sent most since the last ranking."""


class SinkFlow:
    """What one sink settled: batches, events and bytes by outcome, and how soon."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[int]] = {}
        self.latency = LatencyHistogram()

    def add(self, header: BatchHeader, outcome: str, latency_s: float) -> None:
        """One batch was settled."""
        counts = self.outcomes.setdefault(outcome, [0, 0, 0])
        counts[0] += 1
        counts[1] += header.event_count
        counts[2] += header.record_bytes
        self.latency.add(latency_s)


class WorkspaceFlow:
    """What came of one workspace, how soon it was settled, and events that no sink took."""

    __slots__ = ("events", "events_ranked", "latency", "lost_events", "record_bytes")

    def __init__(self) -> None:
        self.events = self.events_ranked = self.record_bytes = self.lost_events = 0
        self.latency = LatencyHistogram()


class RouterFlow:
    """Counts since the router began. `now_s` is the clock of `RoutedBatch.came_s`."""

    def __init__(self, now_s: Callable[[], float], *, workspaces_max: int = WORKSPACES_MAX) -> None:
        self._now_s = now_s
        self._workspaces_max = workspaces_max
        self._sinks: dict[str, SinkFlow] = {}
        self._workspaces: dict[int, WorkspaceFlow] = {}
        self._shown: list[int] = []

    def accepted(self, header: BatchHeader) -> None:
        """A batch came that the router did not have."""
        flow = self._workspace(header.workspace_id)
        flow.events += header.event_count
        flow.record_bytes += header.record_bytes

    def settled(self, batch: RoutedBatch, sink_name: str, outcome: str) -> None:
        """A sink settled a batch."""
        latency_s = self._now_s() - batch.came_s
        sink = self._sinks.get(sink_name)
        if sink is None:
            sink = self._sinks[sink_name] = SinkFlow()
        sink.add(batch.header, outcome, latency_s)
        workspace = self._workspace(batch.header.workspace_id)
        workspace.latency.add(latency_s)
        if outcome not in (DURABLE, SPOOLED):
            workspace.lost_events += batch.header.event_count

    def rank(self) -> None:
        """Choose of which workspaces reports tell from now on; to be called now and then."""
        recent = {key: flow.events - flow.events_ranked for key, flow in self._workspaces.items()}
        self._shown = heapq.nlargest(SHOWN_MAX, recent, key=lambda key: (recent[key], -key))
        for flow in self._workspaces.values():
            flow.events_ranked = flow.events

    def sink_report(self, sink_name: str) -> dict[str, Any]:
        """Batches, events and bytes by outcome, and the latencies' histogram."""
        flow = self._sinks.get(sink_name) or SinkFlow()
        names = ("batches", "events", "bytes")
        outcomes = {o: dict(zip(names, c, strict=True)) for o, c in flow.outcomes.items()}
        return {"outcomes": outcomes, "latency": flow.latency.counts()}

    def workspace_reports(self, in_router: Iterable[RoutedBatch]) -> dict[str, dict[str, Any]]:
        """The busiest workspaces: totals, latencies, and what of them is `in_router`.

        The key "0" stands for those that are not counted one by one.
        """
        if len(self._shown) < min(SHOWN_MAX, len(self._workspaces)):
            self.rank()
        now_s = self._now_s()
        found: dict[int, dict[str, Any]] = {}
        for key in self._shown:
            flow = self._workspaces[key]
            found[key] = {
                "events": flow.events,
                "bytes": flow.record_bytes,
                "lost_events": flow.lost_events,
                "latency": flow.latency.counts(),
                "in_flight_batches": 0,
                "in_flight_bytes": 0,
                "lag_s": 0.0,
            }
        for batch in in_router:
            workspace_id = batch.header.workspace_id
            entry = found.get(workspace_id if workspace_id in self._workspaces else OTHERS)
            if entry is not None:
                entry["in_flight_batches"] += 1
                entry["in_flight_bytes"] += batch.header.record_bytes
                entry["lag_s"] = max(entry["lag_s"], now_s - batch.came_s)
        return {str(key): entry for key, entry in found.items()}

    def workspace_totals(self) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """The busiest ones in order, and events and bytes of every one."""
        return self._shown, {k: (f.events, f.record_bytes) for k, f in self._workspaces.items()}

    def _workspace(self, workspace_id: int) -> WorkspaceFlow:
        flow = self._workspaces.get(workspace_id)
        if flow is None:
            if len(self._workspaces) >= self._workspaces_max and workspace_id != OTHERS:
                return self._workspace(OTHERS)
            flow = self._workspaces[workspace_id] = WorkspaceFlow()
        return flow
