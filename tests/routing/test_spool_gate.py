"""When batches go to a sink's spool, and when straight to its lanes again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from cdp_ray_sinks.batch.batch import BatchHeader, Pack
from cdp_ray_sinks.delivery.push import DURABLE, PENDING, SPOOLED, Group, make_group
from cdp_ray_sinks.delivery.router_link import COMPLETE
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.table import RoutingTable

PRODUCER = b"p" * 16
PACK = Pack(np.zeros(100, np.uint8), np.array([0, 100], np.uint64))


class FakeLane:
    """Takes batches, answers as told, and is away while `is_lost`."""

    def __init__(self, outcome: str = DURABLE) -> None:
        self.outcome = outcome
        self.taken: list[int] = []
        self.is_lost = False

    async def hello(self, router_id: str, session: int) -> int:
        if self.is_lost:
            raise LaneLostError("away")
        return session

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        if self.is_lost:
            raise LaneLostError("away")
        self.taken += [header.sequence for header in group.headers]
        return [self.outcome] * len(group.headers)


class FakeSpool(FakeLane):
    """A spool whose emptiness is told, or that delivers what it takes after `delivers_after_s`."""

    def __init__(self, delivers_after_s: float | None = None) -> None:
        super().__init__()
        self.empty = True
        self.is_lost_asking = False
        self.delivered = 0
        self._delivers_after_s = delivers_after_s

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        outcomes = await super().push(router_id, session, number, group)
        if self._delivers_after_s is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._delivers_after_s, self._deliver, len(group.headers))
        return outcomes

    def _deliver(self, count: int) -> None:
        self.delivered += count

    async def lane(self) -> LaneLink:
        return self

    async def progress(self) -> tuple[int, int]:
        if self.is_lost_asking:
            raise LaneLostError("away")
        if self._delivers_after_s is not None:
            return len(self.taken) - self.delivered, self.delivered
        return (0 if self.empty else 5), self.delivered


class Place:
    """The one lane of a sink."""

    def __init__(self, lane: FakeLane) -> None:
        self._lane = lane

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        return dict.fromkeys(workspace_ids, "lane")

    async def link(self, lane_name: str) -> LaneLink:
        return self._lane


def make_router(
    lane: FakeLane, spool: FakeSpool, in_flight_bytes_max: int = 1000, spool_after_s: float = 0.3
) -> Router:
    place = Place(lane)
    route = SinkRoute(
        "sink", False, True, "spool", in_flight_bytes_max, place, spool, spool_after_s
    )
    sessions = itertools.count(1)
    router = Router(
        "r", RoutingTable(("sink",)), {"sink": route}, lambda: 0.0, lambda: next(sessions)
    )
    router.begin(PRODUCER, 1)
    return router


class Sender:
    """Routes batches with running sequences."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._calls = self._sequence = 0

    async def send(self, count: int) -> list[tuple[tuple[str, str], ...]]:
        """Outcomes of `count` batches once they are settled."""
        headers = [
            BatchHeader(PRODUCER, 1, self._sequence + n, 1, 2, 1, "s", 0, 1, 1, 100, 7)
            for n in range(count)
        ]
        self._sequence += count
        self._calls += 1
        group = make_group([(header, PACK) for header in headers], [])
        answer = await self._router.route(PRODUCER, 1, self._calls, group)
        outcomes, states = list(answer.outcomes), list(answer.states)
        while any(state != COMPLETE for state in states):
            places = [n for n, state in enumerate(states) if state != COMPLETE]
            asked = await self._router.settled([(headers[n].batch_id, states[n]) for n in places])
            for n, outcome, state in zip(*asked, strict=True):
                outcomes[places[n]], states[places[n]] = outcome, state
        return outcomes


def state_of(router: Router) -> Any:
    return router.state()["sinks"]["sink"].get("spool", {}).get("state")


async def until(router: Router, state: str) -> None:
    while state_of(router) != state:
        await asyncio.sleep(0.01)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


def test_with_an_empty_spool_batches_go_straight_to_the_lane() -> None:
    """Once that is known, which nobody is after a start."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        router = make_router(lane, spool)
        assert await Sender(router).send(3) == [(("sink", DURABLE),)] * 3
        assert (lane.taken, spool.taken) == ([0, 1, 2], [])

    run(scenario())


def test_nothing_overtakes_what_an_earlier_life_left_in_the_spool() -> None:
    """Batches wait for the answer whether it is empty, and then go behind what is in it."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        spool.empty, spool.is_lost_asking = False, True
        router = make_router(lane, spool)
        sender = Sender(router)
        first = asyncio.ensure_future(sender.send(2))
        await asyncio.sleep(0.6)
        assert (lane.taken, spool.taken, first.done()) == ([], [], False)
        spool.is_lost_asking = False
        assert await first == [(("sink", SPOOLED),)] * 2
        spool.empty = True
        await until(router, "direct")
        assert await sender.send(1) == [(("sink", DURABLE),)]
        assert (lane.taken, spool.taken) == ([2], [0, 1])

    run(scenario())


def test_a_lane_that_is_away_too_long_is_spooled_for() -> None:
    """What was queued for it is taken back, in order, and what comes goes behind that."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        router = make_router(lane, spool)
        sender = Sender(router)
        await sender.send(1)
        lane.is_lost, spool.empty = True, False
        outcomes = await asyncio.gather(sender.send(2), sender.send(2))
        assert outcomes == [[(("sink", SPOOLED),)] * 2] * 2
        assert await sender.send(1) == [(("sink", SPOOLED),)]
        assert spool.taken == [1, 2, 3, 4, 5]
        assert router.state()["sinks"]["sink"]["in_flight_bytes"] == 0
        lane.is_lost, spool.empty = False, True
        await until(router, "direct")
        assert await sender.send(1) == [(("sink", DURABLE),)]
        assert lane.taken == [0, 6]

    run(scenario())


def test_a_lane_that_never_settles_is_spooled_for() -> None:
    """Also what the lane has and is trying: it will know the ids when they come again."""

    async def scenario() -> None:
        lane, spool = FakeLane(PENDING), FakeSpool()
        router = make_router(lane, spool)
        sender = Sender(router)
        assert await sender.send(3) == [(("sink", SPOOLED),)] * 3
        assert spool.taken == [0, 1, 2]
        asked = len(lane.taken)
        await asyncio.sleep(0.6)
        assert len(lane.taken) == asked, "it is not asked about what was taken back"

    run(scenario())


def test_who_leaves_does_not_wait_for_the_sink() -> None:
    """What it has not settled is spooled, also where it would be waited for much longer."""

    async def scenario() -> None:
        lane, spool = FakeLane(PENDING), FakeSpool()
        router = make_router(lane, spool, spool_after_s=3600)
        sending = asyncio.create_task(Sender(router).send(3))
        await until(router, "direct")
        await asyncio.sleep(0.5)
        assert not sending.done()
        spool.empty = False
        router.gates["sink"].spool_rest()
        assert await sending == [(("sink", SPOOLED),)] * 3
        assert spool.taken == [0, 1, 2]

    run(scenario())


def test_a_full_budget_spools_at_once() -> None:
    """Without waiting for the time to pass; nobody is held up."""

    async def scenario() -> None:
        lane, spool = FakeLane(PENDING), FakeSpool()
        router = make_router(lane, spool, in_flight_bytes_max=300)
        sender = Sender(router)
        first = asyncio.ensure_future(sender.send(3))
        await until(router, "direct")
        spool.empty = False
        began = asyncio.get_running_loop().time()
        assert await sender.send(1) == [(("sink", SPOOLED),)]
        assert asyncio.get_running_loop().time() - began < 0.3
        assert await first == [(("sink", SPOOLED),)] * 3
        assert spool.taken == [0, 1, 2, 3]

    run(scenario())


def test_what_is_on_its_way_to_the_spool_keeps_it_from_counting_as_empty() -> None:
    """An old answer "empty" must not let a batch overtake one that is just being spooled."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        router = make_router(lane, spool)
        sender = Sender(router)
        await sender.send(1)
        lane.is_lost = True
        spool.is_lost = True
        waiting = asyncio.ensure_future(sender.send(2))
        await until(router, "spooling")
        lane.is_lost = False
        await asyncio.sleep(0.6)
        assert state_of(router) == "spooling", "it says empty, and two are on their way to it"
        spool.is_lost, spool.empty = False, False
        assert await waiting == [(("sink", SPOOLED),)] * 2
        assert lane.taken == [0]

    run(scenario())


def test_under_a_steady_load_batches_go_direct_again() -> None:
    """There always is one in the spool: what comes is held back until there is none."""

    async def scenario() -> None:
        lane, spool = FakeLane(PENDING), FakeSpool(delivers_after_s=0.2)
        router = make_router(lane, spool)
        sender = Sender(router)
        assert await sender.send(1) == [(("sink", SPOOLED),)]
        lane.outcome = DURABLE
        lane.taken.clear()
        sent = []
        while state_of(router) != "direct":
            sent.append(asyncio.ensure_future(sender.send(1)))
            await asyncio.sleep(0.02)
        await asyncio.gather(*sent)
        assert await sender.send(1) == [(("sink", DURABLE),)]
        assert spool.taken == list(range(len(spool.taken))), "in order, with no gap"
        assert lane.taken == list(range(len(spool.taken), len(sent) + 2))
        assert len(lane.taken) > 1, "what was held back went direct"

    run(scenario())


def test_nothing_is_held_back_while_nothing_is_delivered() -> None:
    """A sink that is away must not cost the others a moment now and then."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        router = make_router(lane, spool)
        sender = Sender(router)
        await sender.send(1)
        lane.is_lost, spool.empty = True, False
        await sender.send(1)
        seen = set()
        for _ in range(30):
            assert await sender.send(1) == [(("sink", SPOOLED),)]
            seen.add(state_of(router))
            await asyncio.sleep(0.03)
        assert seen == {"spooling"}

    run(scenario())


def test_a_spool_that_does_not_get_empty_in_time_is_filled_again() -> None:
    """What was held back goes behind what is in it, in its order."""

    async def scenario() -> None:
        lane, spool = FakeLane(), FakeSpool()
        router = make_router(lane, spool)
        sender = Sender(router)
        await sender.send(1)
        lane.is_lost, spool.empty = True, False
        await sender.send(1)
        spool.delivered = 1
        await until(router, "holding")
        held = [asyncio.ensure_future(sender.send(1)) for _ in range(3)]
        assert await asyncio.gather(*held) == [[(("sink", SPOOLED),)]] * 3
        assert state_of(router) == "spooling"
        assert spool.taken == [1, 2, 3, 4]
        assert lane.taken == [0]

    run(scenario())
