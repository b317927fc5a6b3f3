"""Which chain a workspace gets, and that it keeps it."""

from __future__ import annotations

import asyncio

from cdp_ray_sinks.actors.sink_actor import Placement, SinkActor
from cdp_ray_sinks.actors.specs import SinkSpec


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


def test_those_that_have_a_chain_do_not_wait_for_the_others() -> None:
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


def test_nothing_is_placed_on_a_chain_that_is_being_retired() -> None:
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
