"""The router of the own node, by the pipeline's name."""

from __future__ import annotations

from typing import Any

import ray


def router_name(pipeline: str, node_id: str = "") -> str:
    """The actor name of the router of a node; without one, of the driver's node."""
    return f"{pipeline}/router/{node_id[:12]}" if node_id else f"{pipeline}/router"


def nearest_router(pipeline: str, namespace: str) -> Any:
    """The router of this process's node, or the driver's where there is none yet.

    Raises ValueError when there is neither.
    """
    own = router_name(pipeline, str(ray.get_runtime_context().get_node_id()))
    try:
        return ray.get_actor(own, namespace)
    except ValueError:
        return ray.get_actor(router_name(pipeline), namespace)
