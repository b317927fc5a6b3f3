"""Windows are held against the store of the node on which their sources are."""

from __future__ import annotations

import pytest

from cdp_ray_sinks.actors.store_windows import check_windows, node_problem
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node

MIB = 1024 * 1024


def node(name: str, store_mib: int, **labels: str) -> Node:
    return Node(f"id-{name}", name, labels, {"object_store_memory": store_mib * MIB})


def config(window_mib: int, **placements: dict[str, object] | None) -> PipelineConfig:
    return PipelineConfig(
        delivery={"window_bytes": window_mib * MIB},
        sources={n: {"type": "synthetic", "placement": p} for n, p in placements.items()},
        sinks={"nothing": {"type": "null"}},
    )


EDGE = {"per_node": True, "label_selector": {"tier": "edge"}}
NODES = [node("driver", 400), node("b", 400, tier="edge"), node("c", 250, tier="edge")]


def problem(wanted: PipelineConfig) -> str:
    try:
        check_windows(wanted, NODES, "id-driver")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("window_mib", "placements", "said"),
    [
        (125, {"one": EDGE}, ""),
        (126, {"one": EDGE}, "1 windows of that size hold 132120576 bytes, more than half of the "
                             "object store's 262144000 of node 'c'"),
        (70, {"one": EDGE, "two": {"per_node": True}}, "2 windows of that size hold 146800640 "),
        (60, {"one": EDGE, "two": {"per_node": True}}, ""),
        (100, {"one": None, "two": None}, ""),
        (101, {"one": None, "two": None}, "of node 'driver'"),
        (130, {"one": {}, "two": {}, "three": {}, "four": {}}, ""),
        (132, {"one": {}, "two": {}, "three": {}, "four": {}}, "4 windows of that size hold "),
        (100, {"one": EDGE, "two": {}, "three": {}, "four": {}, "five": None},
         "6 windows of that size hold "),
        (525, {}, ""),
        (526, {}, "1 windows"),
    ],
)  # fmt: skip
def test_each_node_has_room_for_its_sources_and_all_for_all(
    window_mib: int, placements: dict[str, dict[str, object] | None], said: str
) -> None:
    """`per_node` counts on each node that matches, without a placement the driver's node."""
    found = problem(config(window_mib, **placements))
    assert said in found
    assert bool(said) == bool(found)


def test_a_node_that_comes_is_looked_at_by_itself() -> None:
    """One without sources needs no store, one that does not say how large its is may come."""
    wanted = config(60, one=EDGE)
    come = [node("d", 100, tier="edge"), node("e", 100), node("f", 0, tier="edge")]
    said = [node_problem(wanted, each, [*NODES, *come], "id-driver") for each in come]
    assert said[0] is not None
    assert "of node 'd'" in said[0]
    assert said[1:] == [None, None]


def test_a_node_of_a_fallback_is_looked_at_where_no_other_matches() -> None:
    """While some node has the labels, the fallback's get no source."""
    wanted = config(
        130, one={**EDGE, "label_selector": {"tier": "disk"}, "fallback": [{"tier": "edge"}]}
    )
    assert "of node 'c'" in problem(wanted)
    disk = node("disk", 400, tier="disk")
    assert node_problem(wanted, NODES[2], [*NODES, disk], "id-driver") is None
