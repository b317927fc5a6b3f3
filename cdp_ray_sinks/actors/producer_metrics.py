"""The metrics of a producer that lives in a process of the user's own, such as the driver."""

from __future__ import annotations

from typing import Any

from cdp_ray_sinks.actors.metric_export import MetricExport, Ticker
from cdp_ray_sinks.actors.metric_samples import source_samples
from cdp_ray_sinks.delivery.producer import Producer


def producer_ticker(pipeline: str, producer: Producer) -> Ticker:
    """What hands on a producer's numbers as those of a source of its name; to be started."""
    metrics = MetricExport(pipeline)
    return Ticker(lambda: metrics.update(source_samples(producer.name, _report(producer))))


def _report(producer: Producer) -> dict[str, Any]:
    batches, held_bytes = producer.in_flight()
    return {
        "state": "running",
        "error": None,
        "problem": producer.accounts_problem(),
        "in_flight_batches": batches,
        "in_flight_bytes": held_bytes,
        "resends": producer.resends,
        "flow": producer.flow(),
    }
