"""Compiles the kernels on each node, before any actor needs them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray


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
