"""Creates a pipeline's actors from the driver, watches them, and takes them down.

The driver owns every actor, so none dies with another. What a sink has of lanes is kept by
`ChainKeeper` or `LoneLanes`, what runs on each node follows the nodes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import ray

from cdp_ray_sinks.actors import lane_actor
from cdp_ray_sinks.actors.chain_keeper import ChainKeeper
from cdp_ray_sinks.actors.joining import join_spec, producer_limits
from cdp_ray_sinks.actors.lane_actor import LaneActor
from cdp_ray_sinks.actors.line_printing import LinePrinting
from cdp_ray_sinks.actors.lone_lanes import LoneLanes
from cdp_ray_sinks.actors.near import router_name
from cdp_ray_sinks.actors.node_sources import NodeSources
from cdp_ray_sinks.actors.nodes import (
    alive_nodes,
    left_to_ray,
    nodes_for,
    own_node_id,
    pinned,
    reserved,
)
from cdp_ray_sinks.actors.router_actor import RouterActor
from cdp_ray_sinks.actors.sink_actor import SinkActor
from cdp_ray_sinks.actors.sink_modules import modules_missed
from cdp_ray_sinks.actors.specs import LaneSpec, RouterSpec, SinkSpec, SourceSpec, SpoolSpec
from cdp_ray_sinks.actors.spool_actor import SpoolActor
from cdp_ray_sinks.actors.store_windows import node_problem
from cdp_ray_sinks.actors.warming import warm_kernels
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sources.base import SourceConfig

READY_TIMEOUT_S = 60.0
SPOOLED_TIMEOUT_S = 10.0  # for a sink with a spool, which may be away later too
REPORT_TIMEOUT_S = 10.0
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
        self._lanes: dict[str, LoneLanes] = {}
        self._spools: dict[str, Any] = {}
        self._keepers: dict[str, ChainKeeper] = {}
        self._printing: list[LinePrinting] = []
        self._nodes: list[Node] = []
        self._routers: dict[str, Any] = {}
        self.router: Any = None
        self.node_sources = NodeSources(
            f"{self._name}/source/", config.active_sources(), self._create, self._source_spec
        )

    @property
    def sources(self) -> dict[str, Any]:
        """The sources' actors by the names of their producers, but of those that are moved."""
        nodes = self.node_sources
        return {name: actor for name, actor in nodes.actors.items() if name not in nodes.moving}

    @property
    def router_name(self) -> str:
        """The actor name of the router of the driver's node."""
        return router_name(self._name)

    def _sink_actor_name(self, sink_name: str) -> str:
        return f"{self._name}/sink/{sink_name}"

    def _spool_name(self, sink_name: str) -> str:
        return f"{self._name}/spool/{sink_name}"

    # -- start ------------------------------------------------------------------------

    def start_sinks(self, actors_max: int) -> list[str]:
        """Create every sink's actors and wait until the sinks are open; what is to be said.

        Raises ConfigError with the sink's own words when one can't be opened.
        """
        self._nodes = alive_nodes()
        opening: list[Any] = []
        for name, config in self._config.active_sinks().items():
            is_spooled = config.on_full == "spool"
            wait_s = SPOOLED_TIMEOUT_S if is_spooled else READY_TIMEOUT_S
            lanes = self._open_lanes(name, config, actors_max)
            opening += [(name, lane.ready.remote(wait_s, is_spooled)) for lane in lanes]
            if is_spooled:
                self._spools[name] = self._create_spool(name, config)
                opening.append((name, self._spools[name].ready.remote(READY_TIMEOUT_S)))
        try:
            with modules_missed(self._config.active_sinks()):
                notes = [(name, note) for name, ref in opening for note in ray.get(ref)]
        except ConfigError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None
        for name, lone in self._lanes.items():
            if self._config.active_sinks()[name].prints_lines:
                (lane,) = lone.handles()
                self._printing.append(LinePrinting(name, lane, self._print_text))
                self._printing[-1].start()
        for keeper in self._keepers.values():
            keeper.start()
        return [f"sink {name!r}: {note}" for name, note in notes]

    def _open_lanes(self, name: str, config: SinkConfig, actors_max: int) -> list[Any]:
        """Create a sink's actors; those whose sinks are to be open before anything runs."""
        nodes = nodes_for(config.placement, self._nodes)
        if not config.one_lane_per_workspace:
            lone = LoneLanes(
                name, self._sink_actor_name(name), config.placement,
                lambda actor, node_id, replica: self._create_lane(
                    actor, "sink", name, config, node_id, replica
                ),
                self.routers,
            )  # fmt: skip
            self._lanes[name] = lone
            return lone.open(nodes)
        prefix = f"{self._name}/chain/{name}/"
        spec = SinkSpec(self._sink_actor_name(name), prefix, name, actors_max)
        self._keepers[name] = keeper = ChainKeeper(
            name, self._create(SinkActor, spec.name, spec, **pinned(own_node_id())), prefix,
            lambda actor, node_id: self._create_lane(actor, "chain", name, config, node_id),
            self._senders, self._config.delivery.chain_idle_s,
        )  # fmt: skip
        return [keeper.open_first(nodes)]

    def _senders(self) -> list[Any]:
        """All that send to lanes."""
        return [*self._routers.values(), *self._spools.values()]

    def routers(self) -> list[Any]:
        """Those there are now, one for each node."""
        return list(self._routers.values())

    def start_router(self) -> None:
        """Create a router on each node over the sinks' actors."""
        began = [self._start_router(node.node_id) for node in self._nodes]
        with modules_missed(self._config.active_sinks()):
            ray.get(began, timeout=READY_TIMEOUT_S)

    def _start_router(self, node_id: str) -> Any:
        delivery = self._config.delivery
        is_own = node_id == own_node_id()
        spec = RouterSpec(
            self.router_name if is_own else router_name(self._name, node_id),
            self._config.routing_table(),
            self._config.active_sinks(),
            {name: self._actor_names(name) for name in self._config.active_sinks()},
            self._config.ray.namespace,
            delivery.group_batches_max,
            delivery.group_bytes_max,
            {name: self._spool_name(name) for name in self._spools},
            join_spec(self._config),
        )
        router = self._create(RouterActor, spec.name, spec, **pinned(node_id))
        self._routers[node_id] = router
        if is_own:
            self.router = router
        return router.identity.remote()

    def _actor_names(self, sink_name: str) -> tuple[str, ...]:
        lone = self._lanes.get(sink_name)
        return (self._sink_actor_name(sink_name),) if lone is None else lone.names

    def start_sources(self) -> list[str]:
        """Create every source and let it run; what is to be said. Raises ConfigError when one
        can't be built."""
        return self.node_sources.start(self._nodes)

    def _source_spec(
        self, actor_name: str, name: str, producer: str, config: SourceConfig
    ) -> SourceSpec:
        return SourceSpec(
            actor_name, name, producer, config, self._name, self._config.ray.namespace,
            str(self._config.accounts_dir()), self._config.delivery.accounts_days_max,
            producer_limits(self._config),
        )  # fmt: skip

    # -- follow the nodes -------------------------------------------------------------

    def follow(self, nodes: list[Node]) -> list[str]:
        """Have routers, lanes, chains and sources where the nodes now are; what was moved.

        Sources of a node that is to be left go first, then its lanes, its router with itself.
        """
        known = {node.node_id for node in self._nodes}
        alive = [node.node_id for node in nodes]
        came = [node for node in nodes if node.node_id not in known]
        if came and self._config.active_sources():
            warm_kernels(lambda text: None)
        missing = [node_id for node_id in alive if node_id not in self._routers]
        ray.get([self._start_router(node_id) for node_id in missing], timeout=READY_TIMEOUT_S)
        for node_id in [node_id for node_id in self._routers if node_id not in alive]:
            del self._routers[node_id]
        told = [f"node {node.name!r} has come" for node in came]
        small = [node_problem(self._config, node, nodes, own_node_id()) for node in came]
        told += [text for text in small if text is not None]
        told += [f"node {n.name!r} is gone" for n in self._nodes if n.node_id not in alive]
        told += [f"node {n.name!r} is to be left" for n in nodes if n.is_draining]
        self._nodes = nodes
        told += self.node_sources.use_nodes(nodes)
        for name, config in self._config.active_sinks().items():
            keeper: ChainKeeper | LoneLanes = self._keepers.get(name) or self._lanes[name]
            told += keeper.use_nodes(nodes_for(config.placement, nodes), alive)
        return told

    def remind(self) -> list[str]:
        """Tell routers again what one that was restarted does not know; what else was tried."""
        for lone in self._lanes.values():
            lone.remind()
        return self.node_sources.try_again(self._nodes)

    def is_on_lost_node(self, producer: str) -> bool:
        """Whether a source that does not answer went with its node, one of several."""
        alive = [node.node_id for node in alive_nodes()]
        return self.node_sources.is_on_lost_node(producer, alive)

    # -- actors -----------------------------------------------------------------------

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
            self._actor_names(sink_name),
            self._config.ray.namespace,
            self._config.delivery.inline_bytes_max,
            str(self._config.accounts_dir()),
        )
        groups = lane_actor.CONCURRENCY_GROUPS
        where = pinned(own_node_id())
        return self._create(SpoolActor, spec.lane.name, spec, concurrency_groups=groups, **where)

    def _lane_spec(
        self, name: str, kind: str, sink_name: str, config: SinkConfig, replica: str = ""
    ) -> LaneSpec:
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
            replica=replica,
        )

    def _create_lane(
        self, name: str, kind: str, sink_name: str, config: SinkConfig, node_id: str,
        replica: str = "",
    ) -> Any:  # fmt: skip
        spec = self._lane_spec(name, kind, sink_name, config, replica)
        options = reserved(config.placement)
        if node_id:
            options |= pinned(node_id)
        elif config.placement is not None:
            options = left_to_ray(config.placement)
        groups = lane_actor.CONCURRENCY_GROUPS
        return self._create(LaneActor, name, spec, concurrency_groups=groups, **options)

    # -- watch ------------------------------------------------------------------------

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
        keepers: list[LoneLanes | ChainKeeper] = [*self._lanes.values(), *self._keepers.values()]
        for keeper in keepers:
            yield from [(keeper.sink_name, handle) for handle in keeper.handles()]

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
        for keeper in self._keepers.values():
            keeper.stop()
        for printing in self._printing:
            printing.stop()
        actors = [*self.node_sources.actors.values(), *self._routers.values()]
        actors += [keeper.actor for keeper in self._keepers.values()]
        actors += [*self._spools.values(), *(lane for _, lane in self._all_lanes())]
        for actor in actors:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(actor, no_restart=True)
        for printing in self._printing:
            printing.join()
        self.node_sources.actors.clear()
        self._routers, self.router = {}, None
        for keeper in self._keepers.values():
            keeper.join()
