"""Whether the nodes' object stores hold what the pipeline's sources may have unsettled there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node, matching

_STORE: Final = "object_store_memory"


def windows_bytes(config: PipelineConfig) -> int:
    """What all producers of a pipeline on one node may hold, the driver's own included."""
    return config.delivery.window_bytes * max(1, len(config.active_sources()))


def check_windows(config: PipelineConfig, nodes: Sequence[Node], driver_id: str) -> None:
    """Each node must have twice the windows of its own sources, all together twice all windows.

    A source's batches lie on its node, and copies of them where sinks are. Raises ConfigError
    that names the first node whose store is too small.
    """
    for node in nodes:
        problem = node_problem(config, node, nodes, driver_id)
        if problem is not None:
            raise ConfigError(problem)
    placed = [source.placement for source in config.active_sources().values()]
    count = sum(
        len(matching(placement, nodes)) if placement is not None and placement.per_node else 1
        for placement in placed
    )
    store_bytes = int(sum(node.resources.get(_STORE, 0) for node in nodes))
    problem = _problem(config, max(1, count), store_bytes, "")
    if problem is not None:
        raise ConfigError(problem)


def node_problem(
    config: PipelineConfig, node: Node, nodes: Sequence[Node], driver_id: str
) -> str | None:
    """Why the store of one of the nodes is too small for the sources that are always there."""
    count = 0
    for source in config.active_sources().values():
        if source.placement is None:
            count += node.node_id == driver_id
        elif source.placement.per_node:
            count += node in matching(source.placement, nodes)
    return _problem(config, count, int(node.resources.get(_STORE, 0)), f" of node {node.name!r}")


def _problem(config: PipelineConfig, count: int, store_bytes: int, whose: str) -> str | None:
    wanted = config.delivery.window_bytes * count
    if not store_bytes or wanted <= store_bytes // 2:
        return None
    return (
        f"delivery.window_bytes = {config.delivery.window_bytes}: "
        f"{count} windows of that size hold {wanted} bytes, "
        f"more than half of the object store's {store_bytes}{whose}; lower it, or raise "
        "ray.object_store_bytes, on a cluster --object-store-memory"
    )
