"""The pipeline: sources, a router and sinks as Ray actors, started, watched and drained."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cdp_ray_sinks.actors.cluster import connect
from cdp_ray_sinks.actors.joining import producer_limits
from cdp_ray_sinks.actors.leaving import rest_spooled
from cdp_ray_sinks.actors.metric_export import Ticker
from cdp_ray_sinks.actors.node_watch import NodeWatch
from cdp_ray_sinks.actors.producer_metrics import producer_ticker
from cdp_ray_sinks.actors.router_link import RayRouterLink
from cdp_ray_sinks.actors.source_lives import over_all_lives
from cdp_ray_sinks.actors.status import actors_status
from cdp_ray_sinks.actors.status import status as status
from cdp_ray_sinks.actors.supervisor import (
    Supervisor,
    chain_actors_max,
)
from cdp_ray_sinks.actors.warming import warm_kernels
from cdp_ray_sinks.batch.safe_text import printer_to
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.delivery.flights import SinkTally
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.errors import CdpError, ConfigError, DrainTimeoutError
from cdp_ray_sinks.metrics import MetricsSnapshot, hit_rate

POLL_S = 0.25
PROBLEMS_S = 3.0


class SourceFailedError(CdpError):
    """A source ended with an error; its text names the source and the reason."""


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """How far a source is. `events_expected` is None for one that has no end."""

    name: str
    state: str
    events: int
    events_expected: int | None
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What `wait` tells while a pipeline runs."""

    elapsed_s: float
    sources: tuple[SourceProgress, ...]
    in_flight_batches: int
    in_flight_bytes: int


class LinesLostError(CdpError):
    """What a sink would print can't be printed; its text names the sink and the reason."""


class Pipeline:
    """A pipeline from its configuration; a context manager that starts, drains and stops.

    `report` is told in a sentence what takes time, such as compiling kernels. `print_text`
    prints the lines of sinks that have some, on stdout by default; a thread calls it.
    """

    def __init__(
        self,
        config: PipelineConfig,
        report: Callable[[str], None] | None = None,
        print_text: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self._report = report or (lambda text: None)
        self._supervisor = Supervisor(config, print_text or printer_to(sys.stdout))
        self._node_watch = NodeWatch(self._supervisor.follow, self._supervisor.remind, self._report)
        self._producers: dict[str, Producer] = {}
        self._tickers: list[Ticker] = []
        self._source_reports: dict[str, dict[str, Any]] = {}
        self._supervisor.node_sources.last_report = self._source_reports.get
        self._lane_reports: dict[str, list[dict[str, Any]]] = {}
        self._spools: dict[str, dict[str, Any]] = {}
        self._is_private = False
        self.on_connected: Callable[[], None] = lambda: None
        """Called once Ray is joined, which installs signal handlers of its own."""
        self._problems: dict[str, str] = {}
        self._problems_at_s = 0.0
        self._is_started = False
        self._is_drained = False
        self._began_s = 0.0
        self._ended_s: float | None = None

    @classmethod
    def from_toml(cls, path: str | Path, report: Callable[[str], None] | None = None) -> Pipeline:
        """A pipeline from a TOML file. Raises ConfigError."""
        return cls(load(path), report)

    def __enter__(self) -> Pipeline:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Drain unless an error is on its way out, then stop."""
        try:
            if kind is None and not self._is_drained:
                self.drain(self.config.delivery.drain_deadline_s)
        finally:
            self.stop()

    def start(self) -> None:
        """Join or start Ray, create the actors, let the sources run.

        Raises ConfigError when the cluster, a sink or a source can't work as configured;
        nothing is left running then.
        """
        self._is_private = connect(self.config)
        self.on_connected()
        try:
            if self.config.active_sources():
                warm_kernels(self._report)
            memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            actors_max = chain_actors_max(self.config, memory_bytes, os.cpu_count() or 1)
            for note in self._supervisor.start_sinks(actors_max):
                self._report(note)
            self._supervisor.start_router()
            self._began_s = time.monotonic()
            for note in self._supervisor.start_sources():
                self._report(note)
            if not self._is_private:
                self._node_watch.start()
        except BaseException:
            self.stop()
            raise
        self._is_started = True

    @property
    def address(self) -> str:
        """The cluster's address, for `status` from elsewhere."""
        return str(ray.get_runtime_context().gcs_address)

    def producer(
        self, name: str, epoch: int | None = None, *, keeps_accounts: bool = True
    ) -> Producer:
        """A producer of this process, for code that has batches of its own.

        `name` must be unique among the producers and sources of the pipeline. Without accounts
        an audit finds its batches not accounted for; that is for measuring what they cost.
        """
        if name in self._producers or name in self.config.sources:
            raise ConfigError(f"a producer or source named {name!r} exists already")
        limits = ProducerLimits(**producer_limits(self.config))
        made = Producer(
            name, RayRouterLink(self._supervisor.router), random.random, limits=limits,
            epoch=epoch, accounts_dir=self.config.accounts_dir() if keeps_accounts else None,
            accounts_days_max=self.config.delivery.accounts_days_max,
        )  # fmt: skip
        self._producers[name] = made
        self._tickers.append(producer_ticker(self.config.pipeline.name, made))
        self._tickers[-1].start()
        return made

    def wait(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Return when every source has finished, or when `stop` is set.

        Raises SourceFailedError when a source failed or its process was lost for good, and
        LinesLostError when lines can't be printed any more.
        """
        while stop is None or not stop.is_set():
            problem = self._supervisor.printing_problem()
            if problem is not None:
                raise LinesLostError(problem)
            progress = self._poll()
            if on_progress is not None:
                on_progress(progress)
            self._tell_problems()
            if all(source.state in ("finished", "left") for source in progress.sources):
                return
            if stop is None:
                time.sleep(POLL_S)
            else:
                stop.wait(POLL_S)

    def _tell_problems(self) -> None:
        """Say what a sink is retried for or is wrong with a source: new, changed or over."""
        if time.monotonic() - self._problems_at_s < PROBLEMS_S:
            return
        self._problems_at_s = time.monotonic()
        texts = {f"source {n!r}": r["problem"] for n, r in self._source_reports.items()}
        for name, reports in self._supervisor.reports().items():
            text = next((r["last_error"] for r in reports if r["last_error"]), "")
            texts[f"sink {name!r}"] = f"retrying: {text}" if text else ""
        for name, text in texts.items():
            if text != self._problems.get(name, ""):
                self._report(f"{name}: {text or 'well again'}")
        self._problems.update(texts)

    def drain(self, deadline_s: float | None = None) -> None:
        """Stop the sources, settle everything, close the sinks.

        Raises DrainTimeoutError when the deadline passed with batches unsettled, or with a
        sink that could not be closed; what is durable then stays so. Raises LinesLostError
        when lines could not be printed.
        """
        if self._is_drained or not self._is_started:
            return
        deadline_s = self.config.delivery.drain_deadline_s if deadline_s is None else deadline_s
        self._node_watch.stop()
        until = time.monotonic() + deadline_s
        with rest_spooled(self._supervisor.routers, deadline_s):
            unsettled = self._drain_producers(until)
        with contextlib.suppress(SourceFailedError):
            self._poll()
        self._lane_reports = self._supervisor.reports()
        self._spools = self._supervisor.close_spools(max(1.0, until - time.monotonic()))
        self._tell_spools()
        spooled = [name for name, state in self._spools.items() if not state["is_empty"]]
        problems = self._supervisor.close_lanes(max(1.0, until - time.monotonic()), spooled)
        self._lane_reports = self._supervisor.reports()
        self._is_drained = True
        self._ended_s = time.monotonic()
        if unsettled or problems:
            text = [f"{unsettled} batches unsettled after {deadline_s:g} s"] if unsettled else []
            raise DrainTimeoutError("; ".join([*text, *problems]), unsettled)
        problem = self._supervisor.printing_problem()
        if problem is not None:
            raise LinesLostError(problem)

    def _tell_spools(self) -> None:
        """Say what is left in a spool; it is durable there and the next run goes on with it."""
        for name, state in self._spools.items():
            if not state["is_empty"]:
                self._report(
                    f"sink {name!r}: {state['batches']} batches, {state['held_bytes']:,} bytes, "
                    "stay in its spool; the next run goes on with them"
                )
            if state["dropped_batches"]:
                self._report(
                    f"sink {name!r}: its spool dropped {state['dropped_batches']} batches, "
                    f"{state['dropped_events']} events"
                )
            for damage in state["damaged"][:5]:
                self._report(f"sink {name!r}: spool: {damage}")

    def _drain_producers(self, until: float) -> int:
        left_s = max(0.1, until - time.monotonic())
        asked = [source.drain.remote(left_s) for source in self._supervisor.sources.values()]
        unsettled = 0
        for name, producer in self._producers.items():
            try:
                producer.close(max(0.1, until - time.monotonic()))
            except DrainTimeoutError as error:
                self._report(f"producer {name!r}: {error}")
                unsettled += error.unsettled
        for ref in asked:
            try:
                unsettled += ray.get(ref, timeout=max(0.1, until - time.monotonic()) + 10)
            except ray.exceptions.RayError as error:
                self._report(f"a source was lost while draining: {str(error).splitlines()[0]}")
        return unsettled

    def stop(self) -> None:
        """Take the actors down, and a private cluster with them. Safe to call twice."""
        for producer in self._producers.values():
            producer.abandon()
        for ticker in self._tickers:
            ticker.stop()
        self._node_watch.stop()
        self._supervisor.kill_all()
        self._is_started = False
        if self._is_private:
            ray.shutdown()
            self._is_private = False

    def _poll(self) -> Progress:
        """Ask each source how far it is; a restarted one is started again."""
        asked = [(n, s, s.report.remote()) for n, s in self._supervisor.sources.items()]
        for name, source, ref in asked:
            try:
                report = ray.get(ref, timeout=30)
            except ray.exceptions.ActorUnavailableError:
                continue
            except ray.exceptions.ActorDiedError as error:
                if self._is_moved(name, source) or self._supervisor.is_on_lost_node(name):
                    continue
                reason = str(error).splitlines()[0]
                raise SourceFailedError(f"source {name!r} was lost: {reason}") from None
            if self._is_moved(name, source):
                continue
            if report["state"] == "created":
                ray.get(source.start.remote())
            if report["state"] == "failed":
                raise SourceFailedError(f"source {name!r}: {report['error']}")
            self._source_reports[name] = report
        there = self._supervisor.sources.keys() | self._supervisor.node_sources.moving.keys()
        for name in self._source_reports.keys() - there:
            self._source_reports[name]["state"] = "left"  # with its node
        reports = self._all_source_reports()
        return Progress(
            time.monotonic() - self._began_s,
            tuple(
                SourceProgress(
                    name,
                    r["state"],
                    r["events"],
                    r["events_expected"],
                    r["counters"].get("bytes", 0),
                )
                for name, r in reports.items()
            ),
            sum(r["in_flight_batches"] for r in reports.values()),
            sum(r["in_flight_bytes"] for r in reports.values()),
        )

    def _is_moved(self, name: str, source: Any) -> bool:
        """Whether the source has gone to another node, or is about to."""
        return self._supervisor.sources.get(name) is not source

    def _all_source_reports(self) -> dict[str, dict[str, Any]]:
        """Each source's report, with what it counted on nodes that it is no longer on."""
        earlier = self._supervisor.node_sources.earlier
        return {
            name: over_all_lives(report, earlier.get(name, []))
            for name, report in self._source_reports.items()
        }

    def summary(self) -> dict[str, Any]:
        """What was done so far, in the shape that `run --json` prints."""
        ended_s = time.monotonic() if self._ended_s is None else self._ended_s
        tallies: dict[str, SinkTally] = {}
        source_reports = self._all_source_reports()
        per_source = [report["tallies"] for report in source_reports.values()]
        for found in [*per_source, *(p.tallies() for p in self._producers.values())]:
            for sink, tally in found.items():
                tallies.setdefault(sink, SinkTally()).add(tally)
        sinks = {}
        for name, config in self.config.active_sinks().items():
            tally = tallies.get(name, SinkTally())
            reports = self._lane_reports.get(name, [])
            lanes = sum((report["metrics"] for report in reports), MetricsSnapshot())
            sinks[name] = {
                "type": config.type,
                "events": tally.events + tally.spooled,
                "messages": tally.messages,
                "batches": tally.batches,
                "bytes": tally.record_bytes,
                "errors": lanes.write_errors + tally.refused,
                "dropped": tally.dropped,
                "dead_letters": lanes.dead_letters,
                "spooled": tally.spooled,
                "left_in_spool": self._spools.get(name, {}).get("batches", 0),
                "buffer_hit_rate": hit_rate(report["counters"] for report in reports),
            }
        sources = {
            name: {**report["counters"], "resends": report["resends"]}
            for name, report in source_reports.items()
        }
        return {
            "elapsed_s": round(ended_s - self._began_s, 3),
            "sources": sources,
            "sinks": sinks,
        }

    def lane_metrics(self) -> dict[str, MetricsSnapshot]:
        """What each sink's own lanes counted since their processes began."""
        return {
            name: sum((report["metrics"] for report in reports), MetricsSnapshot())
            for name, reports in self._supervisor.reports().items()
        }

    def status(self) -> dict[str, Any]:
        """The pipeline's actors and what each reports; also while it runs elsewhere."""
        return actors_status(self.config.pipeline.name, self.config.ray.namespace)
