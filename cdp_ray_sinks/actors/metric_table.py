"""Every metric there is, in one table; its page is `python -m cdp_ray_sinks.actors.metric_table`.

Names follow Prometheus: `_total` for what only rises, the unit at the end. Ray puts `ray_` in
front of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "ray_"
"""What Ray puts in front of every name."""
BOUNDS_S: Final = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
]  # fmt: skip
"""The histograms' buckets, in seconds: some of those that are counted inside."""
LABELS: Final = {
    "pipeline": "the pipeline's name",
    "node": "the first 12 digits of the id of the Ray node",
    "source": "the source's name, or the producer's",
    "sink": "the sink's name",
    "outcome": "durable, spooled, dropped, dead_lettered, refused or lost",
    "workspace": "the workspace's number, or `other`",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without Ray's prefix, its own labels besides pipeline and node."""

    name: str
    kind: Kind
    own_labels: tuple[str, ...]
    unit: str
    help: str

    @property
    def labels(self) -> tuple[str, ...]:
        """All its labels."""
        return ("pipeline", "node", *self.own_labels)


_SOURCE, _SINK = ("source",), ("sink",)
_SETTLED = ("sink", "outcome")

METRICS: Final = (
    Metric("cdp_source_batches_total", "counter", _SOURCE, "batches", "Batches submitted."),
    Metric("cdp_source_events_total", "counter", _SOURCE, "events", "Events in them."),
    Metric("cdp_source_bytes_total", "counter", _SOURCE, "bytes", "Their records."),
    Metric("cdp_source_in_flight_batches", "gauge", _SOURCE, "batches",
           "Submitted and not settled by every sink."),
    Metric("cdp_source_in_flight_bytes", "gauge", _SOURCE, "bytes",
           "The same in bytes of the object store; `delivery.window_bytes` bounds it."),
    Metric("cdp_source_lag_seconds", "gauge", _SOURCE, "seconds",
           "How long the oldest unsettled batch has waited."),
    Metric("cdp_source_resends_total", "counter", _SOURCE, "batches",
           "Batches sent again because a router was lost."),
    Metric("cdp_source_running", "gauge", _SOURCE, "0 or 1", "Whether it produces."),
    Metric("cdp_source_problem", "gauge", _SOURCE, "0 or 1",
           "Whether something is wrong with it; `status` says what."),
    Metric("cdp_source_ack_latency_seconds", "histogram", _SOURCE, "seconds",
           "From submission until every required sink has settled a batch."),
    Metric("cdp_router_batches_total", "counter", (), "batches", "Batches that came."),
    Metric("cdp_router_held_batches", "gauge", (), "batches", "Not settled by all their sinks."),
    Metric("cdp_router_queued_batches", "gauge", _SINK, "batches", "Waiting to be pushed."),
    Metric("cdp_router_queued_bytes", "gauge", _SINK, "bytes", "The same in bytes."),
    Metric("cdp_router_in_flight_bytes", "gauge", _SINK, "bytes", "Pushed and not settled."),
    Metric("cdp_router_in_flight_bytes_max", "gauge", _SINK, "bytes",
           "The sink's `max_in_flight_bytes`, the bound of that."),
    Metric("cdp_router_lag_seconds", "gauge", _SINK, "seconds",
           "How long the oldest batch that the sink owes has waited."),
    Metric("cdp_router_lane_recoveries_total", "counter", _SINK, "times",
           "A lane did not answer and was found again."),
    Metric("cdp_router_spooling", "gauge", _SINK, "0 or 1", "Whether batches go to its spool."),
    Metric("cdp_sink_batches_total", "counter", _SETTLED, "batches", "Batches settled."),
    Metric("cdp_sink_events_total", "counter", _SETTLED, "events", "Events in them."),
    Metric("cdp_sink_bytes_total", "counter", _SETTLED, "bytes", "Their records."),
    Metric("cdp_sink_ack_latency_seconds", "histogram", _SINK, "seconds",
           "From a batch's arrival in the router until the sink has settled it."),
    Metric("cdp_sink_workspaces", "gauge", _SINK, "workspaces", "Workspaces that have a chain."),
    Metric("cdp_sink_chains", "gauge", _SINK, "processes", "Chain actors that have workspaces."),
    Metric("cdp_workspace_events_total", "counter", ("workspace",), "events", "Events that came."),
    Metric("cdp_workspace_bytes_total", "counter", ("workspace",), "bytes", "Their records."),
    Metric("cdp_lane_batches_received_total", "counter", _SINK, "batches",
           "Batches pushed, without those that it had already."),
    Metric("cdp_lane_batches_written_total", "counter", _SINK, "batches", "Batches made durable."),
    Metric("cdp_lane_messages_written_total", "counter", _SINK, "messages", "Messages in them."),
    Metric("cdp_lane_events_written_total", "counter", _SINK, "events", "Events in them."),
    Metric("cdp_lane_bytes_written_total", "counter", _SINK, "bytes", "Their records."),
    Metric("cdp_lane_write_errors_total", "counter", _SINK, "times", "A write or flush failed."),
    Metric("cdp_lane_flushes_total", "counter", _SINK, "times", "Flushes, which are commits."),
    Metric("cdp_lane_dropped_total", "counter", _SINK, "batches",
           "Batches let go of because the sink said so."),
    Metric("cdp_lane_dead_letters_total", "counter", _SINK, "messages", "Messages refused."),
    Metric("cdp_lane_retries_total", "counter", _SINK, "times", "Rounds that are tried again."),
    Metric("cdp_lane_duplicates_total", "counter", _SINK, "batches", "Pushed and had already."),
    Metric("cdp_lane_queued_bytes", "gauge", _SINK, "bytes", "Taken and not settled."),
    Metric("cdp_lane_retrying", "gauge", _SINK, "0 or 1",
           "Whether something fails and is tried again; `status` says what."),
    Metric("cdp_spool_batches", "gauge", _SINK, "batches", "Batches that wait in the spool."),
    Metric("cdp_spool_bytes", "gauge", _SINK, "bytes", "What the spool holds on disk."),
    Metric("cdp_spool_lag_seconds", "gauge", _SINK, "seconds", "Age of its oldest segment."),
    Metric("cdp_spool_delivered_batches_total", "counter", _SINK, "batches",
           "Batches that went on to the sink."),
    Metric("cdp_spool_dropped_batches_total", "counter", _SINK, "batches",
           "Batches let go of because it was full or they were old."),
    Metric("cdp_spool_dropped_events_total", "counter", _SINK, "events", "Events in them."),
    Metric("cdp_spool_damaged_segments", "gauge", _SINK, "segments", "Segments found damaged."),
)  # fmt: skip

BY_NAME: Final = {metric.name: metric for metric in METRICS}


def exported_names() -> set[str]:
    """The names of all series as Prometheus has them, a histogram's three included."""
    names = set()
    for metric in METRICS:
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {f"{PREFIX}{metric.name}{ending}" for ending in endings}
    return names


def page() -> str:
    """The table as a page of Markdown."""
    rows = [
        f"| `{PREFIX}{m.name}` | {m.kind} | {', '.join(m.own_labels)} | {m.unit} | {m.help} |"
        for m in METRICS
    ]
    labels = [f"| `{name}` | {text} |" for name, text in LABELS.items()]
    return "\n".join([_HEAD, *rows, _LABELS_HEAD, *labels, _NOTES])


_HEAD: Final = """# Metrics

Each node of the cluster serves them on its metrics port, `ray start --metrics-export-port`;
[prometheus.yml](prometheus.yml) scrapes all nodes. Every process counts by itself and hands
its numbers on every two seconds; Ray takes them up every ten (`RAY_metrics_report_interval_ms`).
The endpoint needs Ray with its agents: `pip install 'cdp-ray-sinks[cluster]'`.

| name | type | labels besides `pipeline`, `node` | unit | what it is |
| --- | --- | --- | --- | --- |"""

_LABELS_HEAD: Final = """
| label | what it is |
| --- | --- |"""

_NOTES: Final = """
Ray adds `WorkerId`, the process, and `NodeAddress`: sum over them. Counters of a process that
has ended stay for as long as its node's agent runs, so that sums do not fall; its gauges go.

- `cdp_router_…` and `cdp_sink_…_total` are counted by routers: a batch that is sent again because
  a router was lost counts again there. `cdp_lane_…_written_total` are counted where it is written.
- Histograms take at most 500 values of a series every two seconds, spread like all that came:
  quantiles hold, and how many batches there were is told by the counters.
- `workspace`: the 20 busiest of a router get a label of their own, no more than 100 in its life;
  the others are `other`.

This page is made by `python -m cdp_ray_sinks.actors.metric_table`.
"""

if __name__ == "__main__":
    print(page(), end="")
