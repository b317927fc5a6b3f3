"""Several raylets on one machine, for measuring what crosses between nodes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import ray

from cdp_ray_sinks.actors.near import nearest_router
from cdp_ray_sinks.actors.nodes import alive_nodes, own_node_id, pinned
from cdp_ray_sinks.actors.router_link import RayRouterLink
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.placement import NAME_LABEL

STORE_BYTES: Final = 512 * 1024 * 1024
FLUSH_S: Final = 300.0


class SeveralNodes:
    """So many raylets, named n1, n2, …; this process has joined the first. A context manager."""

    def __init__(self, count: int, namespace: str) -> None:
        self._count = count
        self._namespace = namespace
        self._cluster: Any = None

    def __enter__(self) -> SeveralNodes:
        """Start them and join."""
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._cluster = Cluster()
        for number in range(1, self._count + 1):
            self._cluster.add_node(
                num_cpus=4, labels={NAME_LABEL: f"n{number}"}, object_store_memory=STORE_BYTES
            )
        ray.init(address=self._cluster.address, namespace=self._namespace, log_to_driver=False)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave and end them."""
        ray.shutdown()
        self._cluster.shutdown()


def copies(references: Sequence[Any]) -> int:
    """On how many nodes other than this one the objects lie, summed over them."""
    found = ray.experimental.get_object_locations(list(references))
    own = own_node_id()
    return sum(len(set(each["node_ids"]) - {own}) for each in found.values())


class _Feeder:
    """A producer of its node that sends the same references again and again."""

    def __init__(self, pipeline: str, namespace: str, name: str, limits: dict[str, int]) -> None:
        link = RayRouterLink(nearest_router(pipeline, namespace))
        self._producer = Producer(name, link, random.random, limits=ProducerLimits(**limits))
        self._kept: list[Any] = []

    def keep(self, batches: list[Batch]) -> None:
        self._kept = [(b.header, self._producer.put(b.to_pack())) for b in batches]

    def lap_s(self, count: int) -> float:
        began = time.perf_counter()
        for number in range(count):
            header, payload = self._kept[number % len(self._kept)]
            self._producer.submit_reference([header], payload)
        self._producer.flush(FLUSH_S)
        return time.perf_counter() - began

    def copies(self) -> int:
        return copies([payload for _, payload in self._kept])


class Feeders:
    """A feeder on each node of the cluster, all with the same batches."""

    def __init__(self, pipeline: str, namespace: str, limits: dict[str, int]) -> None:
        feeder: Any = ray.remote(_Feeder)
        self._actors = [
            feeder.options(num_cpus=0, enable_task_events=False, **pinned(node.node_id)).remote(
                pipeline, namespace, f"feeder@{node.name}", limits
            )
            for node in alive_nodes()
        ]

    def keep(self, batches: list[Batch]) -> None:
        """Put the batches into each node's store."""
        ray.get([actor.keep.remote(batches) for actor in self._actors])

    def lap_s(self, count: int) -> float:
        """Send so many from each node at once; seconds until all are settled."""
        began = time.perf_counter()
        ray.get([actor.lap_s.remote(count) for actor in self._actors])
        return time.perf_counter() - began

    def copies(self) -> int:
        """How many copies on other nodes there are of what they have."""
        return sum(ray.get([actor.copies.remote() for actor in self._actors]))

    def close(self) -> None:
        """Take them down."""
        for actor in self._actors:
            ray.kill(actor)
