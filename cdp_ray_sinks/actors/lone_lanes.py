"""The lanes of one sink without chains: one, several, or one for each node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node, PlacementConfig, weight

CLOSE_MS_MAX: Final = 30_000
REPORT_TIMEOUT_S: Final = 10.0


class LoneLanes:
    """Keeps a sink's lanes on nodes that match its placement.

    `make_lane` is given an actor name, a node's id ("": left to Ray) and what tells the lane
    apart in the state directory. A lane among several keeps its name wherever it goes.
    """

    def __init__(
        self,
        sink_name: str,
        actor_name: str,
        placement: PlacementConfig | None,
        make_lane: Callable[[str, str, str], Any],
        routers: Callable[[], Sequence[Any]],
    ) -> None:
        self.sink_name = sink_name
        self._actor_name = actor_name
        self._placement = placement or PlacementConfig()
        self._make_lane = make_lane
        self._routers = routers
        self._handles: dict[str, Any] = {}
        self._where: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The lanes' actor names."""
        return tuple(self._handles)

    def handles(self) -> list[Any]:
        """All lanes."""
        return list(self._handles.values())

    def open(self, nodes: Sequence[Node]) -> list[Any]:
        """Make the lanes; their handles. Raises ConfigError where each node should have one
        and there is no node."""
        if self._placement.per_node:
            if not nodes:
                raise ConfigError(f"sinks.{self.sink_name}.placement: no node matches it")
            for node in nodes:
                self._make(self._name_at(node), node.node_id, node.name)
        else:
            for replica in range(self._placement.replicas):
                name = f"{self._actor_name}/{replica}" if replica else self._actor_name
                self._make(name, self._home(replica, nodes), str(replica) if replica else "")
        return self.handles()

    def _name_at(self, node: Node) -> str:
        return f"{self._actor_name}/{node.node_id[:12]}"

    def _home(self, replica: int, nodes: Sequence[Node]) -> str:
        """Replicas take turns over the nodes, which are in an order that lasts."""
        if not nodes:
            return ""
        ranked = sorted(nodes, key=lambda node: weight(self._actor_name, node.name))
        return ranked[replica % len(ranked)].node_id

    def _make(self, name: str, node_id: str, replica: str) -> None:
        self._handles[name] = self._make_lane(name, node_id, replica)
        self._where[name] = node_id

    def use_nodes(self, nodes: Sequence[Node], alive: Sequence[str]) -> list[str]:
        """Have the lanes on these nodes and no others; what was moved."""
        if not nodes:
            return []
        told = self._follow(nodes, alive) if self._placement.per_node else []
        wanted = {node.node_id for node in nodes}
        gone = [n for n, where in self._where.items() if where and where not in wanted]
        for name in gone if not self._placement.per_node else ():
            self._close(name, alive)
            replica = name.removeprefix(self._actor_name).removeprefix("/")
            self._make(name, self._home(int(replica or 0), nodes), replica)
            told.append(f"sink {self.sink_name!r}: lane {name} goes to another node")
        return told

    def _follow(self, nodes: Sequence[Node], alive: Sequence[str]) -> list[str]:
        """A lane on each of these nodes."""
        wanted = {self._name_at(node): node for node in nodes}
        come = wanted.keys() - self._handles.keys()
        gone = self._handles.keys() - wanted.keys()
        for name in come:
            self._make(name, wanted[name].node_id, wanted[name].name)
        if come or gone:
            self._tell_lanes(tuple(wanted))
        for name in gone:
            is_alive = self._where[name] in alive
            wait_s = REPORT_TIMEOUT_S if is_alive else 0.0
            self._ask(_parting(self.sink_name, name, wait_s))
            self._close(name, alive)
            del self._handles[name], self._where[name]
        return [f"sink {self.sink_name!r}: no lane at {name} any more" for name in gone]

    def remind(self) -> None:
        """Tell the routers again which lanes there are: one that was restarted knows the first."""
        if self._placement.per_node:
            self._tell_lanes(self.names)

    def _tell_lanes(self, names: tuple[str, ...]) -> None:
        self._ask(lambda router: router.set_lanes.remote(self.sink_name, names))

    def _ask(self, call: Callable[[Any], Any]) -> None:
        for ref in [call(router) for router in self._routers()]:
            with contextlib.suppress(ray.exceptions.RayError):  # it went with its node
                ray.get(ref, timeout=2 * REPORT_TIMEOUT_S)

    def _close(self, name: str, alive: Sequence[str]) -> None:
        handle = self._handles[name]
        if self._where[name] in alive:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(handle.close.remote(CLOSE_MS_MAX), timeout=2 * CLOSE_MS_MAX / 1000)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(handle, no_restart=True)


def _parting(sink_name: str, lane_name: str, wait_s: float) -> Callable[[Any], Any]:
    return lambda router: router.part_lane.remote(sink_name, lane_name, wait_s)
