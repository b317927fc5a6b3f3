"""What the router promises: every sink gets its batches in order, whatever happens to a lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import BatchHeader, Pack
from cdp_ray_sinks.delivery.push import DROPPED, DURABLE, PENDING, Group, make_group
from cdp_ray_sinks.delivery.router_link import COMPLETE, OWED, REQUIRED_SETTLED, SettledAnswer
from cdp_ray_sinks.errors import SequenceGapError
from cdp_ray_sinks.routing import lane_sender
from cdp_ray_sinks.routing import router as router_module
from cdp_ray_sinks.routing.lane_sender import GROUP_BYTES_MIN, LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.table import RoutingTable

PRODUCER = b"p" * 16
PACK = Pack(np.zeros(100, np.uint8), np.array([0, 100], np.uint64))


def header(sequence: int, workspace_id: int = 1, record_bytes: int = 100) -> BatchHeader:
    return BatchHeader(
        PRODUCER, 1, sequence, 1, 2, workspace_id, "s", 0, 1, 1, record_bytes, sequence
    )


def group(*headers: BatchHeader) -> Group:
    return make_group([(h, PACK) for h in headers], [(PRODUCER, 1, headers[0].sequence)])


class FakeLane:
    """Keeps what it is pushed; `gate` holds answers back, `fail` loses the lane."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.groups: list[int] = []
        self.sessions: list[int] = []
        self.lows: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Callable[[int], bool] = lambda number: False
        self.outcome: Callable[[int], str] = lambda sequence: DURABLE
        self._next = 1

    async def hello(self, router_id: str, session: int) -> int:
        self.sessions.append(session)
        self._next = 1
        return session

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        assert session == self.sessions[-1]
        if self.fail(number):
            raise LaneLostError("gone")
        assert number == self._next
        self._next += 1
        self.taken += [h.sequence for h in group.headers]
        self.lows += [low for _, _, low in group.lows]
        self.groups.append(len(group.headers))
        await self.gate.wait()
        return [self.outcome(h.sequence) for h in group.headers]


class Places:
    """Finds lanes: one per workspace, or the same for all. Some may have none for now."""

    def __init__(self, lanes: dict[int, FakeLane] | FakeLane) -> None:
        self._lanes = lanes
        self.away = 0
        self.asked: list[list[int]] = []
        self.have_none: set[int] = set()

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        if self.away:
            self.away -= 1
            raise LaneLostError("nobody there")
        self.asked.append(list(workspace_ids))
        while self.have_none.issuperset(workspace_ids):
            await asyncio.sleep(0.001)
        found = [w for w in workspace_ids if w not in self.have_none]
        return {w: "0" if isinstance(self._lanes, FakeLane) else str(w) for w in found}

    async def link(self, lane_name: str) -> LaneLink:
        return self._lanes if isinstance(self._lanes, FakeLane) else self._lanes[int(lane_name)]


def make_router(
    sinks: dict[str, Places], *, drop: set[str] = frozenset(), optional: set[str] = frozenset(),
    by_workspace: bool = False, in_flight_bytes_max: int = 1000, **options: Any,
) -> Router:  # fmt: skip
    sessions = iter(range(1, 1000))
    routes = {
        name: SinkRoute(
            name, by_workspace, name not in optional, "drop" if name in drop else "block",
            in_flight_bytes_max, places,
        )
        for name, places in sinks.items()
    }  # fmt: skip
    router = Router(
        "r", RoutingTable(tuple(sinks)), routes, lambda: 0.0, lambda: next(sessions), **options
    )
    router.begin(PRODUCER, 1)
    return router


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for what is settled, however slow the machine; they answer early otherwise."""
    monkeypatch.setattr(router_module, "ANSWER_WAIT_S", 30.0)


@pytest.mark.usefixtures("patient")
def test_a_group_is_answered_when_every_sink_has_it() -> None:
    """Outcomes name each sink, and nothing stays in the router."""

    async def scenario() -> None:
        one, two = FakeLane(), FakeLane()
        router = make_router({"one": Places(one), "two": Places(two)})
        answer = await router.route(PRODUCER, 1, 1, group(header(0), header(1)))
        assert answer.outcomes == [(("one", DURABLE), ("two", DURABLE))] * 2
        assert answer.states == [COMPLETE, COMPLETE]
        assert one.taken == two.taken == [0, 1]
        assert router.state()["in_router"] == 0

    run(scenario())


@pytest.mark.parametrize(
    ("by_workspace", "record_bytes", "groups"),
    [
        (False, 100, [1, 8, 3]),
        (True, GROUP_BYTES_MIN // 8, [1, 8, 3]),
        (True, 100, [1, 11]),
        (True, 100, [1, 128, 2]),
    ],
)
def test_what_queues_up_while_pushes_are_under_way_goes_as_one_group(
    by_workspace: bool, record_bytes: int, groups: list[int]
) -> None:
    """A second push goes once eight wait, or many small ones; the rest waits for both."""

    async def scenario() -> None:
        lane = FakeLane()
        lane.gate.clear()
        router = make_router(
            {"one": Places(lane)},
            by_workspace=by_workspace,
            in_flight_bytes_max=10**9,
            group_batches_max=200,
        )
        calls = []
        count = sum(groups)
        for n in range(count):
            call = router.route(PRODUCER, 1, n + 1, group(header(n, record_bytes=record_bytes)))
            calls.append(asyncio.ensure_future(call))
            for _ in range(8):
                await asyncio.sleep(0)
        assert lane.groups == groups[: len(groups) - 1]
        lane.gate.set()
        await asyncio.gather(*calls)
        assert lane.taken == list(range(count))
        assert lane.groups == groups

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_lost_lane_gets_everything_unanswered_again_in_order() -> None:
    """After a loss: hello with a new session, then all unanswered batches from the first."""

    async def scenario() -> None:
        lane = FakeLane()
        losses = iter([False, True, True, False])
        lane.fail = lambda number: next(losses, False)
        router = make_router({"one": Places(lane)}, group_batches_max=2, in_flight_bytes_max=10**6)
        calls = []
        for n in range(9):
            call = router.route(PRODUCER, 1, n + 1, group(header(n)))
            calls.append(asyncio.ensure_future(call))
            await asyncio.sleep(0.001)
        answers = await asyncio.gather(*calls)
        assert all(a.states == [COMPLETE] for a in answers)
        assert sorted(set(lane.taken)) == list(range(9))
        assert lane.taken == sorted(lane.taken)
        assert len(lane.sessions) >= 2
        assert lane.sessions == sorted(set(lane.sessions))

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_lane_that_is_away_is_waited_for() -> None:
    """No lane to be found is a reason to ask again, not to fail."""

    async def scenario() -> None:
        lane, places = FakeLane(), None
        places = Places(lane)
        places.away = 3
        router = make_router({"one": places})
        answer = await router.route(PRODUCER, 1, 1, group(header(0)))
        assert answer.outcomes == [(("one", DURABLE),)]

    run(scenario())


def test_new_workspaces_are_asked_for_together() -> None:
    """A thousand of them cost a few questions, and those that have a lane do not wait."""

    async def scenario() -> None:
        lane = FakeLane()
        places = Places(lane)
        places.have_none = {3, 500}
        router = make_router({"one": places}, by_workspace=True, in_flight_bytes_max=10**6)
        calls = [
            router.route(
                PRODUCER, 1, 1 + n, group(*(header(w, w) for w in range(100 * n, 100 * (n + 1))))
            )
            for n in range(10)
        ]
        answers = await asyncio.gather(*calls)
        owed = [n for n in range(1000) if answers[n // 100].states[n % 100] == OWED]
        assert owed == [3, 500]
        assert len(places.asked) <= 10
        places.have_none = {3}
        (answer,) = (await router.settled([(header(500, 500).batch_id, OWED)])).states
        assert answer == COMPLETE
        places.have_none = set()
        assert (await router.settled([(header(3, 3).batch_id, OWED)])).places == [0]
        assert sorted(lane.taken) == list(range(1000))

    run(scenario())


def test_a_stuck_workspace_does_not_hold_up_another() -> None:
    """Each workspace has its lane; only the stuck one waits."""

    async def scenario() -> None:
        stuck, free = FakeLane(), FakeLane()
        stuck.gate.clear()
        router = make_router({"one": Places({1: stuck, 2: free})}, by_workspace=True)
        first, second = await asyncio.gather(
            router.route(PRODUCER, 1, 1, group(header(0, 1))),
            router.route(PRODUCER, 1, 2, group(header(1, 2))),
        )
        assert (first.states, second.states) == ([OWED], [COMPLETE])
        poll = asyncio.ensure_future(router.settled([(header(0, 1).batch_id, OWED)]))
        await asyncio.sleep(0.01)
        stuck.gate.set()
        assert (await poll).states == [COMPLETE]

    run(scenario())


def test_a_sink_never_has_more_bytes_in_flight_than_its_budget() -> None:
    """With block, what does not fit waits in the router."""

    async def scenario() -> None:
        lane = FakeLane()
        lane.gate.clear()
        router = make_router({"one": Places(lane)}, in_flight_bytes_max=300)
        call = asyncio.ensure_future(
            router.route(PRODUCER, 1, 1, group(*(header(n) for n in range(10))))
        )
        for _ in range(50):
            await asyncio.sleep(0)
        assert router.state()["sinks"]["one"]["in_flight_bytes"] <= 300
        assert len(lane.taken) <= 3
        lane.gate.set()
        await call
        assert lane.taken == list(range(10))
        assert router.state()["sinks"]["one"]["in_flight_bytes"] == 0

    run(scenario())


def test_drop_lets_go_of_what_exceeds_the_budget_and_says_so() -> None:
    """A full sink with on_full = drop never holds the others up."""

    async def scenario() -> None:
        slow, fast = FakeLane(), FakeLane()
        slow.gate.clear()
        router = make_router(
            {"slow": Places(slow), "fast": Places(fast)}, drop={"slow"}, optional={"slow"},
            in_flight_bytes_max=250,
        )  # fmt: skip
        answer = await router.route(PRODUCER, 1, 1, group(*(header(n) for n in range(5))))
        assert [dict(o)["fast"] for o in answer.outcomes] == [DURABLE] * 5
        dropped = [n for n, o in enumerate(answer.outcomes) if dict(o).get("slow") == DROPPED]
        assert dropped == [2, 3, 4]
        assert answer.states == [REQUIRED_SETTLED] * 2 + [COMPLETE] * 3
        slow.gate.set()
        known = [(header(n).batch_id, REQUIRED_SETTLED) for n in (0, 1)]
        later = await router.settled(known)
        assert [dict(o)["slow"] for o in later.outcomes] == [DURABLE, DURABLE]
        assert router.state()["in_router"] == 0

    run(scenario())


def test_an_optional_sink_does_not_hold_up_the_answer() -> None:
    """The call answers for required sinks; `settled` answers for all."""

    async def scenario() -> None:
        slow, fast = FakeLane(), FakeLane()
        slow.gate.clear()
        router = make_router({"slow": Places(slow), "fast": Places(fast)}, optional={"slow"})
        answer = await router.route(PRODUCER, 1, 1, group(header(0)))
        assert answer.outcomes == [(("fast", DURABLE),)]
        assert answer.states == [REQUIRED_SETTLED]
        slow.gate.set()
        later = await router.settled([(header(0).batch_id, REQUIRED_SETTLED)])
        assert later.outcomes == [(("fast", DURABLE), ("slow", DURABLE))]

    run(scenario())


def test_settled_refuses_batches_it_does_not_know() -> None:
    """A restarted router says so instead of never answering."""

    async def scenario() -> None:
        router = make_router({"one": Places(FakeLane())})
        with pytest.raises(SequenceGapError, match="not known"):
            await router.settled([(header(5).batch_id, OWED)])

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_resent_batch_that_is_still_in_the_router_is_not_pushed_twice() -> None:
    """Same id in flight: both calls get the one answer."""

    async def scenario() -> None:
        lane = FakeLane()
        lane.gate.clear()
        router = make_router({"one": Places(lane)})
        first = asyncio.ensure_future(router.route(PRODUCER, 1, 1, group(header(0))))
        while lane.taken != [0]:
            await asyncio.sleep(0)
        router.begin(PRODUCER, 2)
        second = asyncio.ensure_future(router.route(PRODUCER, 2, 1, group(header(0))))
        for _ in range(8):
            await asyncio.sleep(0)  # it has taken its turn by then
        lane.gate.set()
        assert (await first).outcomes == (await second).outcomes
        assert lane.taken == [0]

    run(scenario())


def test_calls_that_overtake_each_other_are_taken_in_order() -> None:
    """Call 2 waits for call 1."""

    async def scenario() -> None:
        lane = FakeLane()
        router = make_router({"one": Places(lane)})
        second = asyncio.ensure_future(router.route(PRODUCER, 1, 2, group(header(1))))
        await asyncio.sleep(0.01)
        await router.route(PRODUCER, 1, 1, group(header(0)))
        await second
        assert lane.taken == [0, 1]

    run(scenario())


def test_a_call_of_an_older_session_is_refused() -> None:
    """Its producer has begun anew; the call is a ghost."""

    async def scenario() -> None:
        router = make_router({"one": Places(FakeLane())})
        router.begin(PRODUCER, 2)
        with pytest.raises(SequenceGapError, match="session 1"):
            await router.route(PRODUCER, 1, 1, group(header(0)))

    run(scenario())


def test_a_batch_that_no_sink_wants_is_complete_at_once() -> None:
    """Routing to nothing is a decision, not a leak."""

    async def scenario() -> None:
        router = make_router({"one": Places(FakeLane())})
        router._table = RoutingTable(())
        answer = await router.route(PRODUCER, 1, 1, group(header(0)))
        assert answer.outcomes == [()]
        assert answer.states == [COMPLETE]

    run(scenario())


def test_the_producers_low_travels_with_each_push() -> None:
    """Lanes prune their ledgers by it."""

    async def scenario() -> None:
        lane = FakeLane()
        router = make_router({"one": Places(lane)})
        await router.route(PRODUCER, 1, 1, group(header(7)))
        assert lane.lows == [7]

    run(scenario())


def test_a_pending_batch_is_asked_for_again_while_others_of_its_push_are_settled() -> None:
    """A lane that retries one workspace answers for the rest of the group."""

    async def scenario() -> None:
        lane = FakeLane()
        asked: list[int] = []

        def outcome(sequence: int) -> str:
            asked.append(sequence)
            return PENDING if sequence == 1 and asked.count(1) < 3 else DURABLE

        lane.outcome = outcome
        router = make_router({"one": Places(lane)})
        answer = await router.route(PRODUCER, 1, 1, group(header(0), header(1), header(2)))
        assert answer.states == [COMPLETE, OWED, COMPLETE]
        assert router.state()["sinks"]["one"]["in_flight_bytes"] == 100
        states: list[int] = []
        while not states:
            states = (await router.settled([(header(1).batch_id, OWED)])).states
        assert states == [COMPLETE]
        assert asked.count(0) == asked.count(2) == 1
        assert router.state()["sinks"]["one"]["in_flight_bytes"] == 0

    run(scenario())


def test_many_pending_batches_are_asked_for_without_a_wait_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a held back flush is over, one wait is enough for all; twenty would not fit."""
    monkeypatch.setattr(lane_sender, "ASK_AGAIN_S", 1.0)

    async def scenario() -> None:
        lane = FakeLane()
        is_flushed = False
        lane.outcome = lambda sequence: DURABLE if is_flushed else PENDING
        router = make_router({"one": Places(lane)}, in_flight_bytes_max=1_000_000)
        for number in range(20):
            headers = [header(sequence) for sequence in range(32 * number, 32 * number + 32)]
            await router.route(PRODUCER, 1, number + 1, group(*headers))
        assert router.state()["sinks"]["one"]["in_flight_bytes"] == 64_000
        is_flushed = True
        while router.state()["sinks"]["one"]["in_flight_bytes"]:
            await asyncio.sleep(0.01)

    run(scenario())


def test_a_lane_lost_with_pending_batches_gets_them_again_first() -> None:
    """Order is kept: what was sent before goes before what is queued."""

    async def scenario() -> None:
        lane = FakeLane()
        lane.outcome = lambda sequence: PENDING if len(lane.sessions) == 1 else DURABLE
        losses = iter([False, True])
        lane.fail = lambda number: next(losses, False)
        router = make_router({"one": Places(lane)})
        await router.route(PRODUCER, 1, 1, group(header(0), header(1)))
        answer = await router.route(PRODUCER, 1, 2, group(header(2)))
        assert answer.states == [COMPLETE]
        assert lane.taken == [0, 1, 0, 1, 2]

    run(scenario())


def test_an_answer_about_many_names_only_those_that_are_further() -> None:
    """By their place in the question; the others are asked about again."""

    async def scenario() -> None:
        stuck, free = FakeLane(), FakeLane()
        stuck.gate.clear()
        router = make_router({"one": Places({1: stuck, 2: free})}, by_workspace=True)
        headers = [header(n, 1 + n % 2) for n in range(20)]
        free.gate.clear()
        await router.route(PRODUCER, 1, 1, group(*headers[:10]))
        await router.route(PRODUCER, 1, 2, group(*headers[10:]))
        asking = asyncio.ensure_future(router.settled([(h.batch_id, OWED) for h in headers]))
        await asyncio.sleep(0)
        free.gate.set()
        answer = await asking
        while len(answer.places) < 10:  # it may have come between two pushes
            left = [h for h in headers if h.batch_id in router._batches]
            more = await router.settled([(h.batch_id, OWED) for h in left])
            places = [headers.index(left[place]) for place in more.places]
            answer = SettledAnswer(answer.places + places, [], answer.states + more.states)
        assert sorted(answer.places) == list(range(1, 20, 2))
        assert set(answer.states) == {COMPLETE}
        stuck.gate.set()

    run(scenario())


def test_small_workspaces_are_done_while_a_large_one_floods_their_lane() -> None:
    """All share one lane: the flood came first and is long, and each small one has its turn.

    The lane answers push by push, so that the order is that of the queue and not of a clock.
    """

    async def scenario() -> None:
        lane = FakeLane()
        lane.gate.clear()
        router = make_router(
            {"one": Places(lane)}, by_workspace=True, in_flight_bytes_max=40_000,
            group_batches_max=32,
        )  # fmt: skip
        flood = [header(n, workspace_id=1, record_bytes=1000) for n in range(300)]
        small = [header(300 + w, workspace_id=w, record_bytes=100) for w in range(2, 52)]
        flooding = asyncio.ensure_future(router.route(PRODUCER, 1, 1, group(*flood)))
        while not lane.groups:
            await asyncio.sleep(0.001)
        asking = asyncio.ensure_future(router.route(PRODUCER, 1, 2, group(*small)))
        in_flight = []
        while any(h.sequence not in lane.taken for h in small):
            in_flight.append(router.state()["sinks"]["one"]["in_flight_bytes"])
            lane.gate.set()
            await asyncio.sleep(0)
            lane.gate.clear()
            await asyncio.sleep(0.001)
        before = [n for n in lane.taken if n < 300]
        assert 5 <= len(before) < 30
        assert max(in_flight) <= 10_000
        lane.gate.set()
        await flooding
        assert set((await asking).states) == {COMPLETE}
        left = [h for h in flood if h.batch_id in router._batches]
        while left:
            await router.settled([(h.batch_id, OWED) for h in left])
            left = [h for h in left if h.batch_id in router._batches]
        assert [n for n in lane.taken if n < 300] == list(range(300))

    run(scenario())
