"""Rows of several nodes, simulated: raylets of one machine, which share its cores.

So a rate says what the control path costs where there is more than one node, not what more
machines bring. Which bytes cross between nodes does not depend on that, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from cdp_ray_sinks.actors.several_nodes import Feeders, SeveralNodes, copies
from cdp_ray_sinks.bench.material import moved, synthetic_batches
from cdp_ray_sinks.bench.rows import Row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline

MIB = 1024 * 1024
GIB = 1024 * MIB
BATCH_EVENTS = 10_000
REFERENCES = 16
NODE_COUNTS = (1, 2, 4)
LIMITS = {"window_bytes": GIB, "window_batches": 4096, "group_bytes_max": GIB}


def node_rows(settings: Settings) -> Iterator[Row]:
    """By reference with a lane on each of 1, 2 and 4 nodes, then what crosses between four."""
    first: float | None = None
    for count in NODE_COUNTS:
        settings.say(f"by reference, {count} raylets on this machine")
        config = _config(f"bench-nodes-{count}", {"here": {"type": "null", **_placed(None)}})
        with SeveralNodes(count, config.ray.namespace), Pipeline(config, settings.say):
            rate, row = _by_reference(config, count, first, settings)
            first = first or rate
            yield row
    settings.say("what crosses between 4 raylets")
    config = _config("bench-crossing", _far_sinks(), _rules())
    with SeveralNodes(4, config.ray.namespace), Pipeline(config, settings.say) as pipeline:
        for workspace_id, (what, _) in enumerate(ROUTES, 1):
            yield _crossing(pipeline, workspace_id, what, settings)


def _placed(node: str | None) -> dict[str, object]:
    where = {"per_node": True} if node is None else {"label_selector": {"cdp-node": node}}
    return {"placement": where, "max_in_flight_bytes": 64 * GIB}


def _config(
    name: str, sinks: dict[str, object], routing: dict[str, object] | None = None
) -> PipelineConfig:
    delivery = {"window_bytes": 64 * MIB, "group_bytes_max": GIB, "populate_object_store": False}
    more = {} if routing is None else {"routing": routing}
    return PipelineConfig(pipeline={"name": name}, sinks=sinks, delivery=delivery, **more)


ROUTES = (
    ("to a sink of the own node", ("at_n1",)),
    ("to a sink of another node", ("at_n2",)),
    ("to two sinks of another node", ("at_n2", "also_at_n2")),
    ("to sinks of two other nodes", ("at_n2", "at_n3")),
    ("to sinks of all four nodes", ("at_n1", "at_n2", "also_at_n2", "at_n3", "at_n4")),
)


def _far_sinks() -> dict[str, object]:
    names = sorted({name for _, sinks in ROUTES for name in sinks})
    return {name: {"type": "null", **_placed(name[-2:])} for name in names}


def _rules() -> dict[str, object]:
    rules = [
        {"match": {"workspace": workspace_id}, "sinks": sinks}
        for workspace_id, (_, sinks) in enumerate(ROUTES, 1)
    ]
    return {"default": ["at_n1"], "rules": rules}


def _by_reference(
    config: PipelineConfig, nodes: int, first: float | None, settings: Settings
) -> tuple[float, Row]:
    """Each node's producer sends to its own node's lane; the rate of one of them."""
    batches = synthetic_batches(REFERENCES * BATCH_EVENTS, settings.shape, BATCH_EVENTS)
    record_bytes = sum(batch.header.record_bytes for batch in batches)
    feeders = Feeders(config.pipeline.name, config.ray.namespace, LIMITS)
    feeders.keep(batches)
    count = max(REFERENCES, settings.events // BATCH_EVENTS)
    feeders.lap_s(REFERENCES)
    took_s = median(feeders.lap_s(count) for _ in range(settings.repeat))
    crossed = feeders.copies()
    feeders.close()
    rate = count * BATCH_EVENTS / took_s
    row = Row(
        "nodes",
        f"by reference, {nodes} raylets, for each",
        count * BATCH_EVENTS,
        count * BATCH_EVENTS,
        events_per_s=rate,
        limit=None if first is None else "one raylet",
        ratio=None if first is None else rate / first,
        bytes_per_event=crossed * record_bytes / REFERENCES / (nodes * REFERENCES * BATCH_EVENTS),
    )
    return rate, row


def _crossing(pipeline: Pipeline, workspace_id: int, what: str, settings: Settings) -> Row:
    """Objects of the driver's node, routed once; on how many other nodes they lie then."""
    producer = pipeline.producer(f"crossing-{workspace_id}")
    made = synthetic_batches(REFERENCES * BATCH_EVENTS, settings.shape, BATCH_EVENTS)
    kept = [(b.header, producer.put(b.to_pack())) for b in moved(made, workspace_id)]
    tickets = [producer.submit_reference([h], payload)[0] for h, payload in kept]
    settled = sum(1 for ticket in tickets if ticket.result(300))
    events = sum(header.event_count for header, _ in kept)
    record_bytes = sum(header.record_bytes for header, _ in kept)
    crossed = copies([payload for _, payload in kept]) * record_bytes / REFERENCES
    return Row(
        "nodes",
        f"{what}, crossed",
        events,
        settled * BATCH_EVENTS,
        limit="the bytes themselves",
        bytes_per_event=crossed / events,
        limit_bytes_per_event=record_bytes / events,
        ratio=crossed / record_bytes,
    )
