"""A lane that goes: what it owes and what waits for it is placed anew, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from cdp_ray_sinks.batch.batch import BatchHeader, Pack
from cdp_ray_sinks.delivery.push import DURABLE, Group, make_group
from cdp_ray_sinks.delivery.router_link import COMPLETE
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.table import RoutingTable

PRODUCER = b"p" * 16
PACK = Pack(np.zeros(100, np.uint8), np.array([0, 100], np.uint64))


def group(first: int, end: int) -> Group:
    headers = [
        BatchHeader(PRODUCER, 1, n, 1, 2, 1 + n % 2, "s", 0, 1, 1, 100, n)
        for n in range(first, end)
    ]
    return make_group([(each, PACK) for each in headers], [(PRODUCER, 1, first)])


class Lane:
    """Keeps what it is pushed; answers while `gate` is set, is gone while `is_lost`."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_lost = False

    async def hello(self, router_id: str, session: int) -> int:
        if self.is_lost:
            raise LaneLostError("gone")
        return session

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        self.taken += [header.sequence for header in group.headers]
        await self.gate.wait()
        if self.is_lost:
            raise LaneLostError("gone")
        return [DURABLE for _ in group.headers]


class Places:
    """All workspaces have the lane that `now` names; none while that is empty."""

    def __init__(self, lanes: dict[str, Lane], now: str) -> None:
        self.lanes = lanes
        self.now = now

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        while not self.now:
            await asyncio.sleep(0.001)
        return dict.fromkeys(workspace_ids, self.now)

    async def link(self, lane_name: str) -> LaneLink:
        return self.lanes[lane_name]


def stage() -> tuple[Router, Places]:
    places = Places({"old": Lane(), "new": Lane()}, "old")
    sessions = iter(range(1, 1000))
    routes = {"files": SinkRoute("files", True, True, "block", 100_000, places)}
    table = RoutingTable(("files",))
    router = Router("r", table, routes, lambda: 0.0, lambda: next(sessions))
    router.begin(PRODUCER, 1)
    return router, places


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


def of_workspace(lane: Lane, remainder: int) -> list[int]:
    return [sequence for sequence in lane.taken if sequence % 2 == remainder]


def test_what_a_lost_lane_owed_goes_to_the_next_one_in_order() -> None:
    """Nobody waits for the old one, and none is left out."""

    async def scenario() -> None:
        router, places = stage()
        old, new = places.lanes["old"], places.lanes["new"]
        old.gate.clear()
        first = asyncio.ensure_future(router.route(PRODUCER, 1, 1, group(0, 6)))
        await asyncio.sleep(0.02)
        assert old.taken
        places.now = ""
        old.is_lost = True
        old.gate.set()
        await asyncio.sleep(0.02)
        await router.part_lane("files", "old", 0)
        second = asyncio.ensure_future(router.route(PRODUCER, 1, 2, group(6, 12)))
        await asyncio.sleep(0.02)
        assert not new.taken
        places.now = "new"
        await first
        assert (await second).states == [COMPLETE] * 6
        assert of_workspace(new, 0) == [0, 2, 4, 6, 8, 10]
        assert of_workspace(new, 1) == [1, 3, 5, 7, 9, 11]
        held = router.state()["sinks"]["files"]
        assert (held["in_flight_bytes"], held["queued_bytes"]) == (0, 0)

    run(scenario())


def test_a_lane_that_is_left_settles_what_it_was_sent() -> None:
    """What comes meanwhile waits and goes to the next one, nothing goes to both."""

    async def scenario() -> None:
        router, places = stage()
        old, new = places.lanes["old"], places.lanes["new"]
        old.gate.clear()
        first = asyncio.ensure_future(router.route(PRODUCER, 1, 1, group(0, 4)))
        await asyncio.sleep(0.02)
        places.now = ""
        parting = asyncio.ensure_future(router.part_lane("files", "old", 5))
        late = asyncio.ensure_future(router.route(PRODUCER, 1, 2, group(4, 8)))
        await asyncio.sleep(0.05)
        assert not parting.done()
        old.gate.set()
        await parting
        places.now = "new"
        assert (await first).states == (await late).states == [COMPLETE] * 4
        assert sorted(old.taken + new.taken) == list(range(8))
        assert of_workspace(new, 0) == [n for n in range(0, 8, 2) if n not in old.taken]

    run(scenario())
