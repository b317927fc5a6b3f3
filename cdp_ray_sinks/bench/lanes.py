"""How batches are spread when several lanes of a file sink are measured together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count

from cdp_ray_sinks.actors.sink_actor import Placement
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.material import moved
from cdp_ray_sinks.delivery.producer import Producer

FLUSH_TIMEOUT_S = 600


def workspaces_by_lane(lanes: int) -> Iterator[tuple[int, ...]]:
    """For each lap new workspaces, one on each lane, as the sink itself will place them."""
    placement = Placement(lanes)
    waiting: dict[int, list[int]] = {lane: [] for lane in range(lanes)}
    for workspace_id in count(1):
        waiting[placement.chain_of(workspace_id)].append(workspace_id)
        if all(waiting.values()):
            yield tuple(held.pop(0) for held in waiting.values())


def spread(batches: Sequence[Batch], workspaces: Sequence[int]) -> list[Batch]:
    """The batches shared out to the workspaces, of each in turn, so that all lanes have work."""
    lanes = len(workspaces)
    parts = [moved(batches[place::lanes], own) for place, own in enumerate(workspaces)]
    longest = max(map(len, parts))
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


def submitted_s(producer: Producer, batches: Sequence[Batch]) -> float:
    """Seconds until all of the batches are settled."""
    began = time.perf_counter()
    for batch in batches:
        producer.submit(batch)
    producer.flush(FLUSH_TIMEOUT_S)
    return time.perf_counter() - began
