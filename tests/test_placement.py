"""Which nodes something is placed on."""

from __future__ import annotations

import pytest

from cdp_ray_sinks.config import loads
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placement import Node, PlacementConfig, matching

NODES = [
    Node("1", "a", {"tier": "sink", "zone": "x"}, {"CPU": 4, "disk": 1}),
    Node("2", "b", {"tier": "sink", "zone": "y"}, {"CPU": 4}),
    Node("3", "c", {"tier": "source"}, {"CPU": 4, "disk": 2}),
    Node("4", "d", {"tier": "sink", "zone": "x"}, {"CPU": 4, "disk": 1}, is_draining=True),
]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "abc"),
        ({"label_selector": {"tier": "sink"}}, "ab"),
        ({"label_selector": {"tier": "!sink"}}, "c"),
        ({"label_selector": {"tier": "in(sink, source)", "zone": "!in(y,z)"}}, "ac"),
        ({"resources": {"disk": 0.5}}, "ac"),
        ({"resources": {"disk": 2}}, "c"),
        ({"label_selector": {"tier": "none"}}, ""),
        ({"label_selector": {"tier": "none"}, "fallback": [{"zone": "q"}, {"zone": "y"}]}, "b"),
        ({"label_selector": {"zone": "x"}, "fallback": [{"zone": "y"}]}, "a"),
    ],
)
def test_labels_and_resources_say_which_nodes_match(options: dict[str, object], names: str) -> None:
    """A fallback counts only where nothing before it does; a node that drains never."""
    found = matching(PlacementConfig(**options), reversed(NODES))
    assert "".join(node.name for node in found) == names


@pytest.mark.parametrize(
    ("sink", "placement", "said"),
    [
        ("disk_binary", "replicas = 2", "a file sink has a chain for each workspace"),
        ("null", "replicas = 2\nper_node = true", "either per_node or replicas"),
        ("stdout", "replicas = 2", "one lane"),
        ("null", "replicas = 0", "greater than or equal to 1"),
        ("null", "label_selector = {tier = 'in('}", "in(a,b)"),
        ("null", "resources = {disk = 0}", "an amount above 0"),
        ("null", "resources = {CPU = 1}", "a custom resource"),
        ("null", "nodes = 2", "nodes"),
    ],
)
def test_what_can_not_be_placed_so_is_refused(sink: str, placement: str, said: str) -> None:
    """With the key and what to write instead."""
    path = "path = '/data'" if sink == "disk_binary" else ""
    text = f"""
[sources.made]
type = "synthetic"
[sinks.one]
type = "{sink}"
{path}
[sinks.one.placement]
{placement}
"""
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert said in str(caught.value)
    assert "sinks.one" in str(caught.value)


def test_a_source_has_no_replicas() -> None:
    """Several of one name would number their batches alike; one on each node is told apart."""
    text = """
[sources.made]
type = "synthetic"
placement = {replicas = 2}
[sinks.one]
type = "null"
"""
    with pytest.raises(ConfigError, match="a source may be per_node"):
        loads(text)
