"""A source as a Ray actor: the plain source in a thread, its producer beside it."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import ray

from cdp_ray_sinks.actors.garbage import collect_rarely
from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.metric_export import MetricExport, Ticker, pipeline_of
from cdp_ray_sinks.actors.metric_samples import source_samples
from cdp_ray_sinks.actors.near import nearest_router
from cdp_ray_sinks.actors.router_link import RayRouterLink
from cdp_ray_sinks.actors.specs import Identity, SourceSpec
from cdp_ray_sinks.actors.state_log import StateLog
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.delivery.source_flow import NO_FLOW
from cdp_ray_sinks.errors import CdpError, ConfigError, DrainTimeoutError
from cdp_ray_sinks.placeholders import resolved
from cdp_ray_sinks.sources.base import HasProblem, Listens, Source, SourceContext

CONCURRENCY_GROUPS = {"control": 4, "drain": 1}

EVERYWHERE = ("0.0.0.0", "[::]")
CREATED, RUNNING, FINISHED, FAILED = "created", "running", "finished", "failed"


class SourceActor:
    """One source. It does nothing until `start`, so that a restarted one can be seen."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._state = CREATED
        self._error: str | None = None
        self._source: Source | None = None
        self._producer: Producer | None = None
        self._thread: threading.Thread | None = None
        self._metrics = MetricExport(pipeline_of(spec.name))
        self._log = StateLog(spec.name)
        self._ticker = Ticker(self._tick)
        self._life = random.getrandbits(62)

    @ray.method(concurrency_group="control")
    def start(self) -> None:
        """Begin to produce; once only. A source that listens does so on return.

        Raises ConfigError if it can't be built or can't listen.
        """
        with self._starting:
            if self._state == CREATED:
                self._start()

    def _start(self) -> None:
        spec = self._spec
        config = resolved(spec.config, os.environ, f"sources.{spec.source_name}")
        self._source = config.build(SourceContext(spec.source_name))
        self._producer = Producer(
            spec.producer_name,
            RayRouterLink(nearest_router(spec.pipeline, spec.namespace)),
            random.random,
            limits=ProducerLimits(**spec.limits),
            accounts_dir=Path(spec.accounts_dir),
            accounts_days_max=spec.accounts_days_max,
        )
        collect_rarely()
        self._ticker.start()
        self._state = RUNNING
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()
        if isinstance(self._source, Listens):
            while not self._source.ready.wait(0.02):
                if self._state == FAILED:
                    raise ConfigError(f"sources.{spec.source_name}: {self._error}")

    def _run(self) -> None:
        assert self._source is not None
        assert self._producer is not None
        try:
            self._source.run(self._producer, self._stop)
            self._state = FINISHED
        except Exception as error:  # noqa: BLE001 - it must reach the driver, not a worker's log
            is_plain = isinstance(error, CdpError)
            self._error = str(error) if is_plain else f"{type(error).__name__}: {error}"
            self._state = FAILED

    @ray.method(concurrency_group="drain")
    def drain(self, deadline_s: float) -> int:
        """Stop producing, wait until all is settled; how many batches are not in time."""
        self._stop.set()
        if self._producer is None or self._thread is None:
            return 0
        self._thread.join(deadline_s)
        try:
            self._producer.close(deadline_s)
        except DrainTimeoutError as error:
            return error.unsettled
        finally:
            self._ticker.stop()
        return 0

    @ray.method(concurrency_group="control")
    def identity(self) -> Identity:
        """Who and where this is."""
        return identity(self._spec.name, "source")

    @ray.method(concurrency_group="control")
    def report(self) -> dict[str, Any]:
        """Counters, progress, and what each sink has settled of this source's batches."""
        return self._report()

    def _report(self) -> dict[str, Any]:
        counters = self._source.counters() if self._source is not None else {}
        done, expected = self._source.progress() if self._source is not None else (0, None)
        batches, held = self._producer.in_flight() if self._producer is not None else (0, 0)
        return {
            "life": self._life,
            "state": self._state,
            "address": self._address(),
            "error": self._error,
            "problem": self._problem(),
            "counters": counters,
            "events": done,
            "events_expected": expected,
            "in_flight_batches": batches,
            "in_flight_bytes": held,
            "resends": self._producer.resends if self._producer is not None else 0,
            "flow": self._producer.flow() if self._producer is not None else NO_FLOW,
            "tallies": self._producer.tallies() if self._producer is not None else {},
        }

    def _address(self) -> str:
        """Where clients find it, with the node's own address for a listener on all; or nothing."""
        if not isinstance(self._source, Listens) or not self._source.ready.is_set():
            return ""
        host, _, port = self._source.address.rpartition(":")
        node_ip = ray.util.get_node_ip_address()
        return f"{node_ip if host in EVERYWHERE else host}:{port}"

    def _tick(self) -> None:
        report = self._report()
        self._log.tell(report["error"] or report["problem"])
        self._metrics.update(source_samples(self._spec.source_name, report))

    def _problem(self) -> str:
        """What is wrong with the source, or with the accounts of its batches; or nothing."""
        found = self._source.problem() if isinstance(self._source, HasProblem) else ""
        return found or (self._producer.accounts_problem() if self._producer else None) or ""
