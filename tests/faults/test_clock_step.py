"""A clock that is set, forwards and backwards, under producer, router, lane and sink."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import BatchId, Pack, unpack
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.delivery.push import Group
from cdp_ray_sinks.delivery.router_link import LinkError, OnAnswer, OnSettled
from cdp_ray_sinks.errors import SequenceGapError, SinkError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.table import RoutingTable
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import numbered_events, numbers_in_tables
from cdp_ray_sinks.writers.binary import BinaryReader
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

HOUR_MS = 3_600_000


class SetClock:
    """The system's clock with somebody at its hands; durations stay what they are."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self._system = SystemClock()

    def now_ms(self) -> int:
        return self._system.now_ms() + self.ahead_ms

    def monotonic_ms(self) -> int:
        return self._system.monotonic_ms()

    def sleep_ms(self, duration_ms: int) -> None:
        self._system.sleep_ms(duration_ms)


class OneLane:
    """The way from a router to a lane of this process, and the place of every workspace."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        return dict.fromkeys(workspace_ids, "lane")

    async def link(self, lane_name: str) -> LaneLink:
        return self

    async def hello(self, router_id: str, session: int) -> int:
        return self._lane.hello(router_id, session)

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        packs: Any = group.payloads
        batches = [
            unpack(packs[place], header)
            for header, place in zip(group.headers, group.places, strict=True)
        ]
        try:
            return await asyncio.to_thread(
                self._lane.push, router_id, session, number, group.lows, batches
            )
        except SinkError as error:
            raise LaneLostError(str(error)) from None


class Link:
    """The way from producers to a router, whose life ends with `lose`."""

    def __init__(self, lane: Lane, clock: SetClock) -> None:
        self._lane, self._clock = lane, clock
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.lose()

    def lose(self) -> None:
        """The router begins anew, under its name, and knows nothing."""
        route = SinkRoute("sink", False, True, "block", 1 << 26, OneLane(self._lane))

        def new_session() -> int:
            return self._clock.now_ms() * 1_000_000

        self._router = Router(
            "router", RoutingTable(("sink",)), {"sink": route}, random.random, new_session
        )

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def put(self, pack: Pack) -> Pack:
        return Pack(pack.records.copy(), pack.offsets.copy(), None)

    def begin(self, producer: bytes, session: int) -> int:
        return self._router.begin(producer, session)

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        self._call(self._router.route(producer, session, number, group), on_answer)

    def settled(self, known: Sequence[tuple[BatchId, int]], on_answer: OnSettled) -> None:
        self._call(self._router.settled(known), on_answer)

    def _call(self, call: Any, on_answer: Callable[[Any], None]) -> None:
        def deliver(future: Future[Any]) -> None:
            error = future.exception()
            if error is not None:
                assert isinstance(error, SequenceGapError), error
                on_answer(LinkError(str(error)))
            else:
                on_answer(future.result())

        asyncio.run_coroutine_threadsafe(call, self._loop).add_done_callback(deliver)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def lane_of(clock: SetClock, tmp_path: Path) -> Iterator[Callable[[str], Lane]]:
    """Opens a lane over a sink of that type; each is closed."""
    made: list[Lane] = []

    def make(kind: str) -> Lane:
        config = load_config(kind, {"type": kind, "path": tmp_path / "kept"})
        sink = config.build(SinkContext("kept", clock, tmp_path / "state"))
        letters = DeadLetterArchive(tmp_path / "dead", "kept", clock)
        made.append(Lane(sink, clock, letters, random.random, by_workspace=True))
        made[-1].start()
        return made[-1]

    yield make
    for lane in made:
        lane.close(10_000)


def numbers_of(kind: str, base: Path) -> list[int]:
    """The numbers of the batches there; all of it must be proven."""
    if kind == "parquet":
        assert verify_warehouse(base).ok
        return sorted(numbers_in_tables(base))
    assert verify(base).ok
    found = []
    for path in base.rglob("*.bin"):
        with BinaryReader.open(path) as reader:
            found += [batch.header.sequence for batch in reader.batches()]
    return sorted(found)


@pytest.mark.parametrize("kind", ["disk_binary", "parquet"])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_whatever_the_clock_says(
    kind: str, seed: int, clock: SetClock, lane_of: Callable[[str], Lane], tmp_path: Path
) -> None:
    """Steps of up to two days at random instants; batches carry the times that the clock had."""
    chance = random.Random(seed)
    lane = lane_of(kind)
    link = Link(lane, clock)
    producer = Producer("mine", link, random.random, clock=clock, accounts_dir=tmp_path / "books")
    for number in range(60):
        if chance.random() < 0.2:
            clock.ahead_ms += chance.randint(-48, 48) * HOUR_MS // 2
        producer.submit(numbered_events(number, received_at_ms=clock.now_ms()))
    producer.flush(30)
    producer.close(10)
    assert lane.close(10_000)
    link.end()
    assert numbers_of(kind, tmp_path / "kept") == list(range(60))


def test_a_router_that_begins_anew_in_the_past_is_heard(
    clock: SetClock, lane_of: Callable[[str], Lane], tmp_path: Path
) -> None:
    """Its sessions come from the clock, and the lane has seen later ones."""
    lane = lane_of("disk_binary")
    link = Link(lane, clock)
    producer = Producer("mine", link, random.random, clock=clock)
    for number in range(10):
        producer.submit(numbered_events(number, received_at_ms=clock.now_ms()))
    producer.flush(30)
    clock.ahead_ms -= HOUR_MS
    link.lose()
    for number in range(10, 20):
        producer.submit(numbered_events(number, received_at_ms=clock.now_ms()))
    producer.flush(30)
    producer.close(10)
    assert lane.close(10_000)
    link.end()
    assert numbers_of("disk_binary", tmp_path / "kept") == list(range(20))


def test_a_producer_that_begins_anew_in_the_past_is_heard(
    clock: SetClock, lane_of: Callable[[str], Lane], tmp_path: Path
) -> None:
    """Under its name, as a source that was restarted: its epoch is another one."""
    lane = lane_of("disk_binary")
    link = Link(lane, clock)
    for life in range(3):
        producer = Producer("mine", link, random.random, clock=clock)
        for number in range(10):
            at_ms = clock.now_ms()
            producer.submit(numbered_events(10 * life + number, received_at_ms=at_ms))
        producer.flush(30)
        producer.close(10)
        clock.ahead_ms -= HOUR_MS
    assert lane.close(10_000)
    link.end()
    assert numbers_of("disk_binary", tmp_path / "kept") == sorted([*range(10)] * 3)
