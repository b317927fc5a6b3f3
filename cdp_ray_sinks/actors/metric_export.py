"""Hands an actor's numbers to Ray's metrics, a few times a minute and never per batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import ray
from ray.util import metrics as ray_metrics

from cdp_ray_sinks.actors.metric_samples import Sample
from cdp_ray_sinks.actors.metric_table import BOUNDS_S, BY_NAME, Metric
from cdp_ray_sinks.latency import bucket_value_s

TICK_S: Final = 2.0
OBSERVED_MAX: Final = 500
"""So many values of a histogram's series are handed on at a tick; more are thinned out."""

logger = logging.getLogger("cdp_ray_sinks.metrics")


def pipeline_of(actor_name: str) -> str:
    """The pipeline's name, with which the names of all its actors begin."""
    return actor_name.split("/")[0]


class MetricExport:
    """The metrics of one process. Totals are handed on as differences, states as they are."""

    def __init__(self, pipeline: str) -> None:
        node = ray.get_runtime_context().get_node_id()[:12]
        self._tags = {"pipeline": pipeline, "node": node}
        self._metrics: dict[str, Any] = {}
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        self._buckets: dict[tuple[str, tuple[str, ...]], list[int]] = {}

    def update(self, samples: Iterable[Sample]) -> None:
        """Hand on what changed. Raises KeyError for a metric that the table does not have."""
        for sample in samples:
            metric = BY_NAME[sample.name]
            made = self._metrics.get(sample.name)
            if made is None:
                made = self._metrics[sample.name] = _make(metric)
            tags = {**self._tags, **sample.labels}
            series = (sample.name, tuple(sample.labels.values()))
            if isinstance(sample.value, list):
                self._observe(made, series, sample.value, tags)
            elif metric.kind == "gauge":
                made.set(float(sample.value), tags)
            else:
                # A total may begin anew when what counted it did; what it has then is new.
                before = self._totals.get(series)
                if before is None:
                    _begin(made, tags)
                more = sample.value - (before or 0)
                more = sample.value if more < 0 else more
                self._totals[series] = sample.value
                if more > 0:
                    made.inc(float(more), tags)

    def _observe(
        self,
        made: Any,
        series: tuple[str, tuple[str, ...]],
        counts: list[int],
        tags: Mapping[str, str],
    ) -> None:
        before = self._buckets.get(series) or [0] * len(counts)
        self._buckets[series] = counts
        new = [max(0, now - then) for now, then in zip(counts, before, strict=True)]
        part = max(1.0, sum(new) / OBSERVED_MAX)
        for bucket, count in enumerate(new):
            for _ in range(-int(-count // part)):
                made.observe(bucket_value_s(bucket), tags)


def _begin(made: Any, tags: Mapping[str, str]) -> None:
    """Let a total be there before it has risen: Ray's own `inc` refuses to add nothing."""
    made._record(0.0, tags)


def _make(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.help, BOUNDS_S, metric.labels)
    made = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return made(metric.name, metric.help, metric.labels)


class Ticker:
    """Calls something every `TICK_S`, in a thread; what it raises is logged once."""

    def __init__(self, tick: Callable[[], None], name: str = "metrics") -> None:
        self._tick = tick
        self._stopped = threading.Event()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Call it a last time, so that nothing is missing, and no more."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._once()

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            self._once()

    def _once(self) -> None:
        try:
            self._tick()
        except Exception as error:  # noqa: BLE001 - numbers must not stop what they tell of
            self._problem = _log_once(self._problem, error)


async def tick_for_ever(tick: Callable[[], None]) -> None:
    """The same on an event loop."""
    problem = ""
    while True:
        await asyncio.sleep(TICK_S)
        try:
            tick()
        except Exception as error:  # noqa: BLE001 - numbers must not stop what they tell of
            problem = _log_once(problem, error)


def _log_once(known: str, error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if text != known:
        logger.warning("metrics: %s", text)
    return text
