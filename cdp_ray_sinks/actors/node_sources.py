"""The sources of a pipeline as actors: one of each, or one for each node that matches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from cdp_ray_sinks.actors import source_actor
from cdp_ray_sinks.actors.nodes import left_to_ray, nodes_for, pinned, reserved
from cdp_ray_sinks.actors.source_actor import FINISHED, SourceActor
from cdp_ray_sinks.actors.source_lives import Report, events_of
from cdp_ray_sinks.actors.specs import SourceSpec
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.placement import Node, weight
from cdp_ray_sinks.sources.base import SourceConfig

DRAIN_S: Final = 20.0
START_S: Final = 60.0
FOUND_S: Final = 5.0


class NodeSources:
    """Creates sources where their placement says, and follows the nodes.

    `create` makes an actor; `spec_of` a source's spec from its actor name, its name, the
    producer's name and its options. One that is on a node of its own choice goes to another
    when it must, and takes up where it was.
    """

    def __init__(
        self,
        prefix: str,
        configs: dict[str, SourceConfig],
        create: Callable[..., Any],
        spec_of: Callable[[str, str, str, SourceConfig], SourceSpec],
    ) -> None:
        self._prefix = prefix
        self._configs = configs
        self._create = create
        self._spec_of = spec_of
        self.actors: dict[str, Any] = {}
        """By producer name."""
        self._where: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.left: dict[str, str] = {}
        """Producers that went with their node, and how."""
        self.moving: dict[str, str] = {}
        """Producers that are between two nodes, and why."""
        self.earlier: dict[str, list[Report]] = {}
        """What producers reported last on the nodes that they are no longer on."""
        self.last_report: Callable[[str], Report | None] = lambda producer: None
        """What a producer reported last, as far as the driver knows."""

    def start(self, nodes: Sequence[Node]) -> list[str]:
        """Create all and let them run; where those are that chose a node.

        Raises ConfigError when one can't be built.
        """
        self._names.update((node.node_id, node.name) for node in nodes)
        for name, config in self._configs.items():
            there = nodes_for(config.placement, list(nodes))
            if config.placement is not None and config.placement.per_node:
                if not there:
                    raise ConfigError(f"sources.{name}.placement: no node matches it")
                for node in there:
                    self._make(name, f"{name}@{node.name}", config, node)
            else:
                self._make_anywhere(name, config, there)
        self._run(list(self.actors))
        return [
            f"source {name!r}: {self._place_of(name)}"
            for name, config in self._configs.items()
            if _wanders(config)
        ]

    def _make(self, name: str, producer: str, config: SourceConfig, node: Node) -> None:
        options = {**reserved(config.placement), **pinned(node.node_id)}
        self._make_one(name, producer, config, options)
        self._where[producer] = node.node_id
        self.left.pop(producer, None)  # a node of that name may be back

    def _make_anywhere(self, name: str, config: SourceConfig, there: Sequence[Node]) -> None:
        """On one of these nodes, the same in every run; Ray finds one where it reserves some."""
        placement = config.placement
        if placement is not None and (not there or placement.num_cpus or placement.resources):
            self._make_one(name, name, config, left_to_ray(placement))
        else:
            home = max(there, key=lambda node: weight(name, node.name))
            self._make(name, name, config, home)

    def _make_one(
        self, name: str, producer: str, config: SourceConfig, options: dict[str, Any]
    ) -> None:
        spec = self._spec_of(f"{self._prefix}{producer}", name, producer, config)
        self.actors[producer] = self._create(
            SourceActor,
            spec.name,
            spec,
            concurrency_groups=source_actor.CONCURRENCY_GROUPS,
            max_restarts=-1 if config.survives_restart else 0,
            **options,
        )

    def _run(self, producers: Sequence[str], timeout_s: float | None = None) -> None:
        calls = [self.actors[producer].start.remote() for producer in producers]
        try:
            ray.get(calls, timeout=timeout_s)
        except ConfigError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None

    def _place_of(self, producer: str) -> str:
        """Where a source is, in words; one that Ray has placed is found first."""
        actor = self.actors[producer]
        if producer not in self._where:
            self._where[producer] = ray.get(actor.identity.remote(), timeout=START_S)["node"]
        node = self._names.get(self._where[producer], self._where[producer][:12])
        address = ray.get(actor.report.remote(), timeout=START_S)["address"]
        return f"at node {node!r}" + (f", listens on {address}" if address else "")

    def use_nodes(self, nodes: Sequence[Node]) -> list[str]:
        """Follow: drain the sources of nodes that are left, start those of nodes that came."""
        told = []
        self._names.update((node.node_id, node.name) for node in nodes)
        alive = {node.node_id for node in nodes}
        for name, config in self._configs.items():
            there = nodes_for(config.placement, [*nodes])
            if config.placement is None:
                continue
            if not config.placement.per_node:
                told += self._keep_going(name, config, there, alive)
                continue
            wanted = {f"{name}@{node.name}": node for node in there}
            own = [p for p in self._where if p.rpartition("@")[0] == name]
            told += [
                self._leave(producer, is_alive=self._where[producer] in alive)
                for producer in own
                if producer not in wanted or wanted[producer].node_id != self._where[producer]
            ]
            for producer, node in wanted.items():
                if producer not in self._where:
                    self._make(name, producer, config, node)
                    self._run([producer])
                    told.append(f"source {producer!r}: started, its node has come")
        return told

    def _leave(self, producer: str, *, is_alive: bool) -> str:
        how = self._take_down(producer, is_alive=is_alive)
        self.left[producer] = how
        return f"source {producer!r}: {how}"

    def _take_down(self, producer: str, *, is_alive: bool) -> str:
        """Stop, settle and end a source; how that went."""
        actor = self.actors.pop(producer)
        report = self.last_report(producer)
        how = "lost with its node"
        if is_alive:
            with contextlib.suppress(ray.exceptions.RayError):
                unsettled = ray.get(actor.drain.remote(DRAIN_S), timeout=3 * DRAIN_S)
                report = ray.get(actor.report.remote(), timeout=DRAIN_S)
                how = f"drained, its node is to be left; {unsettled} batches unsettled"
        if report is not None:
            self.earlier.setdefault(producer, []).append(report)
        del self._where[producer]
        _kill(actor)
        return how

    # -- a source that chose a node ---------------------------------------------------

    def _keep_going(
        self, name: str, config: SourceConfig, there: Sequence[Node], alive: set[str]
    ) -> list[str]:
        """Have it on one of these nodes; what was done."""
        if name in self.left:
            return []
        if name not in self.moving:
            where = self._where.get(name)
            if where not in alive:
                where = self._restarted_at(name)
            if where in {node.node_id for node in there}:
                if where == self._where.get(name):
                    return []
                self._where[name] = str(where)
                self._run([name], START_S)
                return [f"source {name!r}: lost with its node; it goes on {self._place_of(name)}"]
            if where in alive and not there:
                return [f"source {name!r}: no other node matches its placement, it stays"]
            report = self.last_report(name)
            if report is not None and report["state"] == FINISHED:
                return [self._leave(name, is_alive=where in alive)]
            self.moving[name] = "it has stopped"
            self.moving[name] = self._take_down(name, is_alive=where in alive)
        if not there:
            return [f"source {name!r}: {self.moving[name]}; waits for a node that matches"]
        return [self._go_on(name, config, there)]

    def _restarted_at(self, name: str) -> str | None:
        """The node on which Ray has restarted it by itself, if it has."""
        with contextlib.suppress(ray.exceptions.RayError):
            where: str = ray.get(self.actors[name].identity.remote(), timeout=FOUND_S)["node"]
            return where
        return None

    def _go_on(self, name: str, config: SourceConfig, there: Sequence[Node]) -> str:
        """Start it on one of these nodes, from where it was; what came of that."""
        done = events_of(self.earlier.get(name, []))
        try:
            self._make_anywhere(name, config.going_on_after(done), there)
            self._run([name], START_S)
            place = self._place_of(name)
        except (CdpError, ray.exceptions.RayError) as error:
            _kill(self.actors.pop(name, None))
            self._where.pop(name, None)
            reason = str(error).splitlines()[0]
            return f"source {name!r}: can't start on another node, later once more: {reason}"
        return f"source {name!r}: {self.moving.pop(name)}; it goes on {place}"

    def try_again(self, nodes: Sequence[Node]) -> list[str]:
        """Start those that could not be started on another node; what came of it."""
        told = []
        self._names.update((node.node_id, node.name) for node in nodes)
        for name in list(self.moving):
            config = self._configs[name]
            there = nodes_for(config.placement, [*nodes])
            told += [self._go_on(name, config, there)] if there else []
        return told

    def is_on_lost_node(self, producer: str, alive: Sequence[str]) -> bool:
        """Whether the source's actor is not there because its node is not, and others may be.

        One without a placement belongs to the driver's node, and goes with it.
        """
        where = self._where.get(producer)
        config = self._configs.get(producer)
        if not alive or (config is not None and config.placement is None):
            return False
        gone = where is not None and where not in alive
        return gone or producer in self.left or producer in self.moving


def _wanders(config: SourceConfig) -> bool:
    return config.placement is not None and not config.placement.per_node


def _kill(actor: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        if actor is not None:
            ray.kill(actor, no_restart=True)
