"""Which chain a workspace gets, and that it keeps it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from cdp_ray_sinks.actors.router_actor import LoneLanes
from cdp_ray_sinks.actors.sink_actor import Placement, SinkActor
from cdp_ray_sinks.actors.specs import SinkSpec
from cdp_ray_sinks.routing.lane_sender import LaneLostError


def test_each_workspace_has_its_own_chain_while_there_are_any() -> None:
    """The first so many workspaces are alone in their process."""
    placement = Placement(3)
    assert [placement.chain_of(w) for w in (10, 20, 30)] == [0, 1, 2]
    assert placement.chain_of(20) == 1


def test_further_workspaces_share_by_hash_and_evenly() -> None:
    """No chain gets much more than its part of ten thousand."""
    placement = Placement(4)
    counts = [0] * 4
    for workspace in range(1, 10_001):
        counts[placement.chain_of(workspace)] += 1
    assert min(counts) > 2_200


def test_what_was_decided_before_a_restart_stays_decided() -> None:
    """A workspace keeps its chain, whatever order the questions come in afterwards."""
    before = Placement(3)
    for workspace in range(1, 50):
        before.chain_of(workspace)
    after = Placement(3)
    after.adopt(before.assigned, {})
    asked = {workspace: after.chain_of(workspace) for workspace in range(49, 0, -1)}
    assert asked == before.assigned


def test_a_new_workspace_after_a_restart_gets_a_chain_that_is_free() -> None:
    """Chain numbers already given are not given to a second workspace while others are left."""
    placement = Placement(4)
    placement.adopt({7: 0, 8: 2}, {})
    assert placement.chain_of(9) == 3


def test_a_retired_chain_gives_its_place_to_a_new_one() -> None:
    """Its workspaces are placed anew, on a number that was never used."""
    placement = Placement(2)
    assert [placement.chain_of(w) for w in (1, 2)] == [0, 1]
    placement.forget(0)
    assert placement.chain_of(2) == 1
    assert placement.chain_of(1) == 2


def test_those_that_have_a_chain_do_not_wait_for_the_others(cluster: None) -> None:
    """The others are wished for, once each, and come with a later question."""

    async def scenario() -> None:
        actor = SinkActor(SinkSpec("p/sink/s", "p/chain/s/", "s", 2))
        await actor.adopt({7: 0})
        assert await actor.place([7, 8, 9]) == {7: "p/chain/s/0"}
        asking = asyncio.ensure_future(actor.place([8, 9]))
        is_adopted, wishes, _ = await actor.wishes()
        assert is_adopted
        assert wishes.keys() == {8, 9}
        assert wishes[8] == 1
        assert not asking.done()
        await actor.adopt(wishes)
        assert await asking == {w: f"p/chain/s/{chain}" for w, chain in wishes.items()}
        assert (await actor.report())["workspaces"] == 3

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_nothing_is_placed_on_a_chain_that_is_being_retired(cluster: None) -> None:
    """Until it is gone, or stays after all."""

    async def scenario() -> None:
        actor = SinkActor(SinkSpec("p/sink/s", "p/chain/s/", "s", 2))
        await actor.adopt({7: 0, 8: 1})
        await actor.retire(1)
        assert await actor.place([7, 8]) == {7: "p/chain/s/0"}
        asking = asyncio.ensure_future(actor.place([8]))
        await asyncio.sleep(0.01)
        assert not asking.done()
        await actor.keep(1)
        assert await asking == {8: "p/chain/s/1"}
        await actor.retire(1)
        asking = asyncio.ensure_future(actor.place([8]))
        await asyncio.sleep(0.01)
        await actor.retired(1)
        _, wishes, _ = await actor.wishes()
        await actor.adopt(wishes)
        assert await asking == {8: "p/chain/s/2"}

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_workspace_is_on_the_node_that_hashing_names_in_every_run() -> None:
    """Whatever order they come in, and however often Ray was started on the nodes."""
    one, two = Placement(2), Placement(2)
    one.set_nodes({"a": "id-1", "b": "id-2", "c": "id-3"})
    two.set_nodes({"c": "new-3", "b": "new-2", "a": "new-1"})
    chains = {w: one.chain_of(w) for w in range(1, 301)}
    again = {w: two.chain_of(w) for w in range(300, 0, -1)}
    for workspace in range(1, 301):
        first, second = one.chain_nodes[chains[workspace]], two.chain_nodes[again[workspace]]
        assert first.partition("-")[2] == second.partition("-")[2]
    shares = Counter(one.chain_nodes[chain] for chain in chains.values())
    assert min(shares.values()) > 70
    assert set(Counter(one.chain_nodes.values()).values()) == {2}


def test_only_the_workspaces_of_a_lost_node_move() -> None:
    """Those of the others keep their chains; what comes back by name is given back to it."""
    placement = Placement(2)
    placement.set_nodes({"a": "1", "b": "2"})
    before = {w: placement.chain_of(w) for w in range(1, 101)}
    lost = [chain for chain, node in placement.chain_nodes.items() if node == "2"]
    placement.set_nodes({"a": "1"})
    for chain in lost:
        placement.forget(chain)
    for workspace, chain in before.items():
        if chain not in lost:
            assert placement.chain_of(workspace) == chain
        else:
            assert placement.chain_nodes[placement.chain_of(workspace)] == "1"


def test_the_first_chain_of_a_node_is_used() -> None:
    """The one that was made to see whether the sink can be opened."""
    placement = Placement(2)
    placement.set_nodes({"a": "1"})
    placement.adopt({}, {0: "1"})
    assert [placement.chain_of(w) for w in (5, 6)] == [0, 1]


def test_lanes_of_a_sink_without_chains_are_found_alike_by_all_routers() -> None:
    """By workspace, or at the own node where there is one."""

    async def scenario() -> None:
        names = ("p/sink/s", "p/sink/s/1", "p/sink/s/2")
        one, two = LoneLanes(names, "n"), LoneLanes(names[::-1], "n")
        everything = range(1, 301)
        found = await one.place(everything)
        assert found == await two.place(everything)
        assert set(found.values()) == set(names)
        own = LoneLanes(("p/sink/s/aa", "p/sink/s/bb"), "n", "p/sink/s/bb")
        assert set((await own.place(everything)).values()) == {"p/sink/s/bb"}
        own.actor_names = ("p/sink/s/aa",)
        assert set((await own.place(everything)).values()) == {"p/sink/s/aa"}
        own.actor_names = ()
        with pytest.raises(LaneLostError):
            await own.place(everything)

    asyncio.run(scenario())
