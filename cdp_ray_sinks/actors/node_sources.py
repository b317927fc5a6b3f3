"""The sources of a pipeline as actors: one of each, or one for each node that matches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from cdp_ray_sinks.actors import source_actor
from cdp_ray_sinks.actors.nodes import left_to_ray, nodes_for, pinned, reserved
from cdp_ray_sinks.actors.source_actor import SourceActor
from cdp_ray_sinks.actors.specs import SourceSpec
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node
from cdp_ray_sinks.sources.base import SourceConfig

DRAIN_S: Final = 20.0


class NodeSources:
    """Creates sources where their placement says, and follows the nodes.

    `create` makes an actor; `spec_of` a source's spec from its actor name, its name, the
    producer's name and its options.
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
        self.left: dict[str, str] = {}
        """Producers that went with their node, and how."""

    def start(self, nodes: Sequence[Node]) -> None:
        """Create all and let them run. Raises ConfigError when one can't be built."""
        for name, config in self._configs.items():
            there = nodes_for(config.placement, list(nodes))
            if config.placement is not None and config.placement.per_node:
                if not there:
                    raise ConfigError(f"sources.{name}.placement: no node matches it")
                for node in there:
                    self._make(name, config, node)
            else:
                options = (
                    pinned(there[0].node_id)
                    if config.placement is None
                    else left_to_ray(config.placement)
                )
                self._make_one(name, name, config, options)
        self._run(list(self.actors))

    def _make(self, name: str, config: SourceConfig, node: Node) -> str:
        producer = f"{name}@{node.name}"
        options = {**reserved(config.placement), **pinned(node.node_id)}
        self._make_one(name, producer, config, options)
        self._where[producer] = node.node_id
        return producer

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

    def _run(self, producers: Sequence[str]) -> None:
        try:
            ray.get([self.actors[producer].start.remote() for producer in producers])
        except ConfigError as error:
            raise ConfigError(str(getattr(error, "cause", error))) from None

    def use_nodes(self, nodes: Sequence[Node]) -> list[str]:
        """Follow: drain the sources of nodes that are left, start those of nodes that came."""
        told = []
        alive = {node.node_id for node in nodes}
        for name, config in self._configs.items():
            if config.placement is None or not config.placement.per_node:
                continue
            there = {f"{name}@{node.name}": node for node in nodes_for(config.placement, [*nodes])}
            own = [p for p in self._where if p.rpartition("@")[0] == name]
            told += [
                self._leave(producer, is_alive=self._where[producer] in alive)
                for producer in own
                if producer not in there or there[producer].node_id != self._where[producer]
            ]
            for producer, node in there.items():
                if producer not in self._where:
                    self._run([self._make(name, config, node)])
                    told.append(f"source {producer!r}: started, its node has come")
        return told

    def _leave(self, producer: str, *, is_alive: bool) -> str:
        actor = self.actors[producer]
        how = "lost with its node"
        if is_alive:
            with contextlib.suppress(ray.exceptions.RayError):
                unsettled = ray.get(actor.drain.remote(DRAIN_S), timeout=3 * DRAIN_S)
                how = f"drained, its node is to be left; {unsettled} batches unsettled"
        self.left[producer] = how
        del self.actors[producer], self._where[producer]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor, no_restart=True)
        return f"source {producer!r}: {how}"

    def is_on_lost_node(self, producer: str, alive: Sequence[str]) -> bool:
        """Whether the source's actor can't be there, because its node is not."""
        where = self._where.get(producer)
        return producer in self.left or (where is not None and where not in alive)
