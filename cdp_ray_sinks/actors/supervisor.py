"""Creates a pipeline's actors from the driver, watches them, and takes them down.

The driver owns every actor, so none dies with another. Sink actors say which chains they
want; a thread per such sink makes them and tells a restarted sink actor what there is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import ray

from cdp_ray_sinks.actors import lane_actor, source_actor
from cdp_ray_sinks.actors.joining import join_spec, producer_limits
from cdp_ray_sinks.actors.lane_actor import LaneActor
from cdp_ray_sinks.actors.line_printing import LinePrinting
from cdp_ray_sinks.actors.router_actor import RouterActor
from cdp_ray_sinks.actors.sink_actor import SinkActor
from cdp_ray_sinks.actors.source_actor import SourceActor
from cdp_ray_sinks.actors.specs import LaneSpec, RouterSpec, SinkSpec, SourceSpec, SpoolSpec
from cdp_ray_sinks.actors.spool_actor import SpoolActor
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.base import SinkConfig

READY_TIMEOUT_S = 60.0
SPOOLED_TIMEOUT_S = 10.0  # for a sink with a spool, which may be away later too
REPORT_TIMEOUT_S = 10.0
CLOSE_IDLE_MS_MAX = 30_000
CLOSE_SPOOL_MS_MAX = 2_000
CHAIN_MEMORY_BYTES = 150 * 1024 * 1024


def chain_actors_max(config: PipelineConfig, memory_bytes: int, core_count: int) -> int:
    """How many chain actors each file sink of this node may have.

    All together: `max_chain_actors`, or max(4, 2 x cores), and never more than a tenth of
    the memory at 150 MiB each; every file sink gets at least one.
    """
    wanted = config.delivery.max_chain_actors or max(4, 2 * core_count)
    bounded = min(wanted, memory_bytes // 10 // CHAIN_MEMORY_BYTES)
    sinks = sum(1 for sink in config.active_sinks().values() if sink.one_lane_per_workspace)
    return max(1, bounded // max(1, sinks))


class Supervisor:
    """The actors of one pipeline."""

    def __init__(self, config: PipelineConfig, print_text: Callable[[str], None]) -> None:
        self._config = config
        self._print_text = print_text
        self._name = config.pipeline.name
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._lanes: dict[str, Any] = {}
        self._spools: dict[str, Any] = {}
        self._sink_actors: dict[str, Any] = {}
        self._chains: dict[str, dict[int, Any]] = {}
        self._assigned: dict[str, dict[int, int]] = {}
        self._retired_at_s: dict[str, float] = {}
        self._watchers: list[threading.Thread] = []
        self._printing: list[LinePrinting] = []
        self.router: Any = None
        self.sources: dict[str, Any] = {}

    @property
    def router_name(self) -> str:
        """The router's actor name."""
        return f"{self._name}/router"

    def _sink_actor_name(self, sink_name: str) -> str:
        return f"{self._name}/sink/{sink_name}"

    def _chain_prefix(self, sink_name: str) -> str:
        return f"{self._name}/chain/{sink_name}/"

    def _spool_name(self, sink_name: str) -> str:
        return f"{self._name}/spool/{sink_name}"

    # -- start ------------------------------------------------------------------------

    def start_sinks(self, actors_max: int) -> list[str]:
        """Create every sink's actors and wait until the sinks are open; what is to be said.

        Raises ConfigError with the sink's own words when one can't be opened.
        """
        opening: list[Any] = []
        for name, config in self._config.active_sinks().items():
            if config.one_lane_per_workspace:
                spec = SinkSpec(
                    self._sink_actor_name(name), self._chain_prefix(name), name, actors_max
                )
                self._sink_actors[name] = self._create(SinkActor, spec.name, spec)
                self._chains[name], self._assigned[name] = {}, {}
                self._retired_at_s[name] = time.monotonic()
                lane = self._create_chain(name, config, 0)
            else:
                lane = self._create_lane(self._sink_actor_name(name), "sink", name, config)
                self._lanes[name] = lane
            is_spooled = config.on_full == "spool"
            wait_s = SPOOLED_TIMEOUT_S if is_spooled else READY_TIMEOUT_S
            opening.append((name, lane.ready.remote(wait_s, is_spooled)))
            if is_spooled:
                self._spools[name] = self._create_spool(name, config)
                opening.append((name, self._spools[name].ready.remote(READY_TIMEOUT_S)))
        try:
            notes = [(name, note) for name, ref in opening for note in ray.get(ref)]
        except ConfigError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None
        for name, lane in self._lanes.items():
            if self._config.active_sinks()[name].prints_lines:
                self._printing.append(LinePrinting(name, lane, self._print_text))
                self._printing[-1].start()
        for name in self._sink_actors:
            watcher = threading.Thread(
                target=self._watch, args=(name,), name=f"watch-{name}", daemon=True
            )
            watcher.start()
            self._watchers.append(watcher)
        return [f"sink {name!r}: {note}" for name, note in notes]

    def start_router(self) -> None:
        """Create the router over the sinks' actors."""
        delivery = self._config.delivery
        spec = RouterSpec(
            self.router_name,
            self._config.routing_table(),
            self._config.active_sinks(),
            {name: self._sink_actor_name(name) for name in self._config.active_sinks()},
            self._config.ray.namespace,
            delivery.group_batches_max,
            delivery.group_bytes_max,
            {name: self._spool_name(name) for name in self._spools},
            join_spec(self._config),
        )
        self.router = self._create(RouterActor, spec.name, spec)
        ray.get(self.router.identity.remote(), timeout=READY_TIMEOUT_S)

    def start_sources(self) -> None:
        """Create every source and let it run. Raises ConfigError when one can't be built."""
        limits = producer_limits(self._config)
        for name, config in self._config.active_sources().items():
            spec = SourceSpec(
                f"{self._name}/source/{name}", name, config, self.router_name,
                self._config.ray.namespace, str(self._config.accounts_dir()),
                self._config.delivery.accounts_days_max, limits,
            )  # fmt: skip
            self.sources[name] = self._create(
                SourceActor,
                spec.name,
                spec,
                concurrency_groups=source_actor.CONCURRENCY_GROUPS,
                max_restarts=-1 if config.survives_restart else 0,
            )
        try:
            ray.get([source.start.remote() for source in self.sources.values()])
        except ConfigError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None

    def _create(self, actor_class: type, name: str, spec: object, **options: Any) -> Any:
        """A named actor that Ray restarts for ever and whose calls it never repeats."""
        groups = options.pop("concurrency_groups", None)
        wrap: Any = ray.remote
        if groups:
            wrap = ray.remote(concurrency_groups=groups)  # type: ignore[call-overload]
        remote_class = wrap(actor_class)
        settings = {
            "name": name,
            "namespace": self._config.ray.namespace,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,
            "enable_task_events": False,
            **options,
        }
        try:
            return remote_class.options(**settings).remote(spec)
        except ValueError as error:
            if "already" not in str(error):
                raise
            raise ConfigError(
                f"pipeline.name = {self._name!r}: a pipeline of that name runs on this cluster"
            ) from None

    def _create_spool(self, sink_name: str, config: SinkConfig) -> Any:
        spec = SpoolSpec(
            self._lane_spec(self._spool_name(sink_name), "spool", sink_name, config),
            str(self._config.spool_dir() / sink_name),
            self._sink_actor_name(sink_name),
            self._config.ray.namespace,
            self._config.delivery.inline_bytes_max,
            str(self._config.accounts_dir()),
        )
        groups = lane_actor.CONCURRENCY_GROUPS
        return self._create(SpoolActor, spec.lane.name, spec, concurrency_groups=groups)

    def _lane_spec(self, name: str, kind: str, sink_name: str, config: SinkConfig) -> LaneSpec:
        delivery = self._config.delivery
        return LaneSpec(
            name,
            kind,
            sink_name,
            config,
            str(self._config.dead_letter_dir()),
            str(self._config.sinks_dir()),
            delivery.populate_object_store and config.reads_bytes,
            # A workspace may have a quarter of what is in flight; see `delivery.flights.Window`.
            held_bytes_max=min(delivery.window_bytes, config.max_in_flight_bytes) // 4,
            held_batches_max=max(1, delivery.window_batches // 4),
        )

    def _create_lane(self, name: str, kind: str, sink_name: str, config: SinkConfig) -> Any:
        spec = self._lane_spec(name, kind, sink_name, config)
        return self._create(LaneActor, name, spec, concurrency_groups=lane_actor.CONCURRENCY_GROUPS)

    def _create_chain(self, sink_name: str, config: SinkConfig, chain: int) -> Any:
        with self._lock:
            handle = self._chains[sink_name].get(chain)
            if handle is None:
                name = f"{self._chain_prefix(sink_name)}{chain}"
                handle = self._create_lane(name, "chain", sink_name, config)
                self._chains[sink_name][chain] = handle
        return handle

    # -- watch ------------------------------------------------------------------------

    def _watch(self, sink_name: str) -> None:
        """Make the chains that a sink actor wants, for as long as the pipeline runs."""
        config = self._config.active_sinks()[sink_name]
        actor = self._sink_actors[sink_name]
        while not self._stopped.is_set():
            try:
                is_adopted, wishes = ray.get(actor.wishes.remote())
                for workspace_id, chain in wishes.items():
                    self._create_chain(sink_name, config, chain)
                    self._assigned[sink_name][workspace_id] = chain
                if wishes or not is_adopted:
                    noted = wishes if is_adopted else self._assigned[sink_name]
                    ray.get(actor.adopt.remote(noted))
                self._retire_idle(sink_name, actor)
            except ray.exceptions.RayError:
                self._stopped.wait(0.2)

    def _retire_idle(self, sink_name: str, actor: Any) -> None:
        """Take down chains to which nothing came for a while; one always stays."""
        idle_ms_max = self._config.delivery.chain_idle_s * 1000
        now_s = time.monotonic()
        if (now_s - self._retired_at_s[sink_name]) * 4000 < idle_ms_max:
            return
        self._retired_at_s[sink_name] = now_s
        for chain, handle in list(self._chains[sink_name].items()):
            if len(self._chains[sink_name]) == 1:
                return
            report = ray.get(handle.report.remote(), timeout=REPORT_TIMEOUT_S)
            if report["idle_ms"] > idle_ms_max and not report["queued_bytes"]:
                self._retire(sink_name, actor, chain, handle)

    def _retire(self, sink_name: str, actor: Any, chain: int, handle: Any) -> None:
        """Nothing is placed on the chain, the router lets go, the files are sealed, it goes."""
        ray.get(actor.retire.remote(chain))
        lane_name = f"{self._chain_prefix(sink_name)}{chain}"
        if not ray.get(self.router.forget_lane.remote(sink_name, lane_name)):
            ray.get(actor.keep.remote(chain))
            return
        ray.get(handle.close.remote(CLOSE_IDLE_MS_MAX))
        ray.kill(handle, no_restart=True)
        with self._lock:
            del self._chains[sink_name][chain]
        assigned = self._assigned[sink_name]
        self._assigned[sink_name] = {w: c for w, c in assigned.items() if c != chain}
        ray.get(actor.retired.remote(chain))

    def printing_problem(self) -> str | None:
        """Why the lines of a sink can't be printed any more, None while they can."""
        return next((each.problem for each in self._printing if each.problem), None)

    def reports(self) -> dict[str, list[dict[str, Any]]]:
        """Each sink's lanes' reports; a lane that does not answer in time is left out."""
        asked = [(name, lane.report.remote()) for name, lane in self._all_lanes()]
        found: dict[str, list[dict[str, Any]]] = {n: [] for n in self._config.active_sinks()}
        for name, ref in asked:
            with contextlib.suppress(ray.exceptions.RayError):
                found[name].append(ray.get(ref, timeout=REPORT_TIMEOUT_S))
        return found

    def spool_reports(self) -> dict[str, dict[str, Any]]:
        """Each spool's report; one that does not answer in time is left out."""
        asked = [(name, spool.report.remote()) for name, spool in self._spools.items()]
        found = {}
        for name, ref in asked:
            with contextlib.suppress(ray.exceptions.RayError):
                found[name] = ray.get(ref, timeout=REPORT_TIMEOUT_S)
        return found

    def _all_lanes(self) -> Iterable[tuple[str, Any]]:
        with self._lock:
            yield from list(self._lanes.items())
            for name, chains in self._chains.items():
                yield from [(name, handle) for handle in chains.values()]

    # -- stop -------------------------------------------------------------------------

    def close_spools(self, deadline_s: float) -> dict[str, dict[str, Any]]:
        """Empty the spools as far as they get, then close them; the state of each by sink."""
        deadline_ms = int(max(0.0, deadline_s) * 1000)
        until = time.monotonic() + deadline_s + REPORT_TIMEOUT_S
        waits = [spool.wait_empty.remote(deadline_ms) for spool in self._spools.values()]
        for wait in waits:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(wait, timeout=max(0.1, until - time.monotonic()))
        found: dict[str, dict[str, Any]] = {}
        asked = [(n, s.close.remote(CLOSE_SPOOL_MS_MAX)) for n, s in self._spools.items()]
        for name, ref in asked:
            with contextlib.suppress(ray.exceptions.RayError):
                found[name] = ray.get(ref, timeout=REPORT_TIMEOUT_S)["spool"]
        return found

    def close_lanes(self, deadline_s: float, spooled: Collection[str] = ()) -> list[str]:
        """Settle and close every lane; what could not be closed, one sentence each.

        The sinks `spooled` get little time and need not close: what they have not settled
        lies in their spools.
        """
        deadline_ms = int(max(0.0, deadline_s) * 1000)
        asked = [
            (name, lane.close.remote(CLOSE_SPOOL_MS_MAX if name in spooled else deadline_ms))
            for name, lane in self._all_lanes()
        ]
        problems = []
        until = time.monotonic() + deadline_s + REPORT_TIMEOUT_S
        for name, ref in asked:
            try:
                report = ray.get(ref, timeout=max(0.1, until - time.monotonic()))
                if not report["is_closed"] and name not in spooled:
                    problems.append(f"sink {name!r}: {report['last_error'] or 'did not close'}")
            except ray.exceptions.RayError as error:
                problems.append(f"sink {name!r}: {str(error).splitlines()[0]}")
        return problems

    def kill_all(self) -> None:
        """Take every actor down at once. Safe to call twice."""
        self._stopped.set()
        for printing in self._printing:
            printing.stop()
        actors = [*self.sources.values(), self.router, *self._sink_actors.values()]
        actors += [*self._spools.values(), *(lane for _, lane in self._all_lanes())]
        for actor in actors:
            if actor is not None:
                with contextlib.suppress(ray.exceptions.RayError, ValueError):
                    ray.kill(actor, no_restart=True)
        for printing in self._printing:
            printing.join()
        self.sources, self.router = {}, None
        for watcher in self._watchers:
            watcher.join(REPORT_TIMEOUT_S)


def warm_kernels(report: Callable[[str], None]) -> float:
    """Compile the kernels once per node, before any actor needs them; seconds it took."""
    from cdp_ray_sinks.batch.warm import kernels_are_warm

    if not kernels_are_warm():
        report("compiling kernels, first run only")
    began = time.monotonic()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    node_ids = [node["NodeID"] for node in nodes if node["Alive"]]
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    ray.get(
        [
            _warm.options(scheduling_strategy=strategy(node_id, soft=False)).remote()
            for node_id in node_ids
        ]
    )
    return time.monotonic() - began


@ray.remote(num_cpus=0, max_retries=2)
def _warm() -> int:
    from cdp_ray_sinks.batch.warm import compile_kernels

    compile_kernels(lambda text: None)
    return os.getpid()
