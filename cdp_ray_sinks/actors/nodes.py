"""The nodes of the cluster that this process has joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from cdp_ray_sinks.placement import NAME_LABEL, Node, PlacementConfig, matching


def own_node_id() -> str:
    """The node of the process that calls this."""
    return str(ray.get_runtime_context().get_node_id())


def alive_nodes() -> list[Node]:
    """All nodes that are alive, and which of them are to be left; their names differ."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in found if node["Alive"]]
    draining = draining_nodes()
    names = [_name(node) for node in alive]
    return [
        Node(
            node["NodeID"],
            name if names.count(name) == 1 else f"{name}-{node['NodeID'][:8]}",
            node.get("Labels", {}),
            node["Resources"],
            node["NodeID"] in draining,
        )
        for node, name in zip(alive, names, strict=True)
    ]


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("Labels", {}).get(NAME_LABEL) or node.get("NodeName") or node["NodeID"][:8])


def draining_nodes() -> frozenset[str]:
    """The ids of nodes that somebody drains or a cloud will take away soon."""
    import ray._raylet as raylet  # the public list of nodes does not say it

    address = ray.get_runtime_context().gcs_address
    client: Any = raylet.GcsClient(address=address)  # type: ignore[attr-defined]
    return frozenset(client.get_draining_nodes())


def pinned(node_id: str) -> dict[str, Any]:
    """Actor options for that node and no other: when it is gone the actor is too."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    return {"scheduling_strategy": strategy(node_id, soft=False)}


def reserved(placement: PlacementConfig | None) -> dict[str, Any]:
    """Actor options for what one of these takes from its node."""
    if placement is None:
        return {}
    return {"num_cpus": placement.num_cpus, "resources": dict(placement.resources)}


def left_to_ray(placement: PlacementConfig) -> dict[str, Any]:
    """Actor options with which Ray finds a node, or its autoscaler makes one."""
    options = reserved(placement)
    if placement.label_selector:
        options["label_selector"] = dict(placement.label_selector)
    if placement.fallback:
        options["fallback_strategy"] = [{"label_selector": dict(s)} for s in placement.fallback]
    return options


def nodes_for(placement: PlacementConfig | None, nodes: list[Node]) -> list[Node]:
    """Where something may run; without a placement on the node of this process, the driver's."""
    if placement is None:
        return [node for node in nodes if node.node_id == own_node_id()]
    return matching(placement, nodes)
