"""Where an actor runs."""

from __future__ import annotations

import os

import ray

from cdp_ray_sinks.actors.specs import Identity


def identity(name: str, kind: str) -> Identity:
    """Name, kind, process and node of the actor that calls this."""
    node = ray.get_runtime_context().get_node_id()
    return Identity(name=name, kind=kind, pid=os.getpid(), node=node)
