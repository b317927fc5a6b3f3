"""What each guard of producer, router and spool is for: without it, a fault breaks a promise.

| fault | guard | taken out | then |
| --- | --- | --- | --- |
| SIGKILL of the router | a producer sends again what was not answered | it does not | not there |
| SIGKILL of a chain | a router does | it does not | not there |
| clock set back | the session in force is told | it is not | not there |
| SIGKILL of a source | accounts come before a batch goes | a second later | unaccounted |
| object store full | the window bounds what a producer holds there | it does not | refused |
| a sink that is away | its batches go to a spool | they wait | the others are held up |
| a sink that was away | new batches go behind the spool's | they overtake | not there |
| SIGKILL of a spool | a segment stays until all of it is settled | until it was read | not there |
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdp_ray_sinks.batch.batch import Batch, BatchId, Pack, unpack
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.account_files import read_accounts
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.flights import Window
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.delivery.push import Group
from cdp_ray_sinks.delivery.router_link import LinkError, OnAnswer, OnSettled
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions
from cdp_ray_sinks.delivery.spool_segment import SpoolSegment
from cdp_ray_sinks.delivery.turns import Turns
from cdp_ray_sinks.errors import DrainTimeoutError, SequenceGapError, SinkError
from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.lane_queue import LaneQueue
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.spool_drain import SpoolDrain
from cdp_ray_sinks.routing.spool_gate import SpoolGate
from cdp_ray_sinks.routing.table import RoutingTable
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import FakeClock, numbered_events

ENDED_S = 20.0


class LaneWay:
    """The way to a lane of this process, which may be cut or slow."""

    def __init__(self, lane: Lane, spool: Spool | None = None) -> None:
        self.is_away = False
        self.lost_pushes = 0
        self.delay_s = 0.0
        self._lane, self._spool = lane, spool

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        return dict.fromkeys(workspace_ids, "lane")

    async def link(self, lane_name: str) -> LaneLink:
        return await self.lane()

    async def lane(self) -> LaneLink:
        if self.is_away:
            await asyncio.sleep(0.02)
            raise LaneLostError("away")
        return self

    async def progress(self) -> tuple[int, int]:
        assert self._spool is not None
        state = self._spool.state()
        return 0 if state.is_empty else max(1, state.batches), state.delivered_batches

    def has_delivered(self) -> bool:
        """Whether nothing is left in the spool."""
        assert self._spool is not None
        return self._spool.state().is_empty

    async def hello(self, router_id: str, session: int) -> int:
        return self._lane.hello(router_id, session)

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        await asyncio.sleep(self.delay_s)
        if self.is_away or self.lost_pushes:
            self.lost_pushes = max(0, self.lost_pushes - 1)
            raise LaneLostError("away")
        packs = [getattr(payload, "pack", payload) for payload in group.payloads]
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
    """The way from a producer to a router, which `kill` replaces by another."""

    def __init__(self, routes: Mapping[str, SinkRoute]) -> None:
        self.ahead_ns = 0
        self.before_route: Callable[[], object] = lambda: None
        self._routes = routes
        self._calls: set[Future[Any]] = set()
        self._stopped: list[asyncio.AbstractEventLoop] = []
        self._start()

    def _start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        table = RoutingTable(tuple(self._routes))
        self._router = Router("router", table, self._routes, random.random, self._session)

    def kill(self) -> None:
        """Calls end without an answer, and nothing of the router goes on; another begins."""
        unanswered = list(self._calls)
        self._stop()
        self._start()
        for call in unanswered:
            call.cancel()

    def _stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._stopped.append(self.loop)

    def end(self) -> None:
        """Put in order what was left lying."""
        self._stop()
        for loop in self._stopped:
            while tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=1))
            loop.close()

    def _session(self) -> int:
        return time.time_ns() + self.ahead_ns

    def put(self, pack: Pack) -> Any:
        return Pack(pack.records.copy(), pack.offsets.copy(), None)

    def begin(self, producer: bytes, session: int) -> int:
        return self._router.begin(producer, session)

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        self.before_route()
        self._call(self._router.route(producer, session, number, group), on_answer)

    def settled(self, known: Sequence[tuple[BatchId, int]], on_answer: OnSettled) -> None:
        self._call(self._router.settled(known), on_answer)

    def _call(self, call: Coroutine[Any, Any, Any], on_answer: Callable[[Any], None]) -> None:
        def deliver(future: Future[Any]) -> None:
            self._calls.discard(future)
            if future.cancelled() or isinstance(future.exception(), SequenceGapError):
                on_answer(LinkError("the router is gone"))
            else:
                on_answer(future.result())

        future = asyncio.run_coroutine_threadsafe(call, self.loop)
        self._calls.add(future)
        future.add_done_callback(deliver)


def lane_of(sink: Any, folder: Path) -> Lane:
    letters = DeadLetterArchive(folder / "dead", "kept", SystemClock())
    lane = Lane(sink, SystemClock(), letters, random.random, by_workspace=True)
    lane.start()
    return lane


def archive_lane(folder: Path, name: str = "kept") -> Lane:
    config = load_config("disk_binary", {"type": "disk_binary", "path": folder / name})
    return lane_of(config.build(SinkContext(name)), folder)


@contextmanager
def line(folder: Path, **limits: Any) -> Iterator[tuple[Producer, Link, LaneWay]]:
    """A producer, a router and an archive in `folder`/kept; the lane is closed at the end."""
    lane = archive_lane(folder)
    way = LaneWay(lane)
    route = SinkRoute("sink", True, True, "block", 1 << 26, way)
    with ended({"sink": route}, folder, [lane], **limits) as (producer, link):
        yield producer, link, way


@contextmanager
def ended(
    routes: Mapping[str, SinkRoute], folder: Path, lanes: Sequence[Lane], **limits: Any
) -> Iterator[tuple[Producer, Link]]:
    """A producer and a router before those sinks."""
    link = Link(routes)
    producer = Producer(
        "mine",
        link,
        random.random,
        accounts_dir=folder / "accounts",
        limits=ProducerLimits(**limits),
    )
    try:
        yield producer, link
    finally:
        producer.abandon()
        link.end()
        for lane in lanes:
            assert lane.close(10_000)


def flushed(producer: Producer, guards: Any) -> set[str]:
    """Empty once all is settled."""
    try:
        producer.flush(guards.patience_s)
    except DrainTimeoutError:
        return {"not there"}
    return set()


def test_a_producer_sends_again(guards: Any) -> None:
    """The router is killed with all of it on its way."""

    def scenario(place: Path) -> set[str]:
        with line(place) as (producer, link, way):
            way.is_away = True
            for number in range(10):
                producer.submit(numbered_events(number))
            time.sleep(0.2)
            link.kill()
            way.is_away = False
            broken = flushed(producer, guards)
        there, _ = guards.stored(place / "kept")
        return broken | guards.broken([], there)

    recover = Producer._recover

    def forget(producer: Producer) -> None:
        recover(producer)
        producer._queue.clear()

    guards.show(scenario, lambda patch: patch.setattr(Producer, "_recover", forget), "not there")


def test_a_router_sends_again(guards: Any) -> None:
    """A chain is killed with a push on its way."""

    def scenario(place: Path) -> set[str]:
        with line(place) as (producer, _, way):
            way.lost_pushes = 2
            for number in range(10):
                producer.submit(numbered_events(number))
            broken = flushed(producer, guards)
        there, _ = guards.stored(place / "kept")
        return broken | guards.broken([], there)

    def forget(queue: LaneQueue, batches: Any) -> None:
        list(batches)

    guards.show(scenario, lambda patch: patch.setattr(LaneQueue, "put_back", forget), "not there")


def test_a_router_that_begins_in_the_past_is_told(guards: Any) -> None:
    """Its predecessor had a later clock; sessions come from that."""

    def scenario(place: Path) -> set[str]:
        with line(place) as (producer, link, _):
            producer.submit(numbered_events(0))
            broken = flushed(producer, guards)
            link.ahead_ns = -3600 * 10**9
            link.kill()
            producer.submit(numbered_events(1))
            return broken | flushed(producer, guards)

    begin = Turns.begin

    def as_asked(turns: Turns, caller: str, session: int) -> int:
        begin(turns, caller, session)
        return session

    guards.show(scenario, lambda patch: patch.setattr(Turns, "begin", as_asked), "not there")


def test_accounts_are_written_before_a_batch_goes(guards: Any) -> None:
    """The source is killed as soon as its batches are on their way, and they land."""

    def scenario(place: Path) -> set[str]:
        with line(place) as (producer, link, _):

            def picture() -> None:
                shutil.rmtree(place / "left", ignore_errors=True)
                shutil.copytree(place / "accounts", place / "left")

            (place / "accounts").mkdir(exist_ok=True)
            link.before_route = picture
            for number in range(3):
                producer.submit(numbered_events(number))
            broken = flushed(producer, guards)
        accounts = read_accounts(place / "left")
        there, _ = guards.stored(place / "kept")
        assert len(there) == 3
        known = {batch_id.sequence for batch_id in accounts.open}
        settled = sum(c.batches for c in accounts.of("sink", "durable").values())
        return broken | ({"unaccounted"} if len(known) + settled < 3 else set())

    guards.show(
        scenario,
        lambda patch: patch.setattr(Producer, "_write_accounts", lambda self: None),
        "unaccounted",
    )


class Held:
    """A pack in a store that has room for so many bytes."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack


class SmallStore:
    """Gives back the room of what nobody refers to any more."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def put(self, pack: Pack) -> Held:
        size = pack.held_bytes
        if size > self.room_bytes:
            raise LinkError("the object store is full")
        self.room_bytes -= size
        held = Held(Pack(pack.records.copy(), pack.offsets.copy(), None))
        weakref.finalize(held, self._give_back, size)
        return held

    def _give_back(self, size: int) -> None:
        self.room_bytes += size


def test_the_window_bounds_what_a_producer_holds(guards: Any) -> None:
    """Sinks are slower than the source, and the store has room for two windows."""

    def scenario(place: Path) -> set[str]:
        limits = {"window_bytes": 1 << 20, "inline_bytes_max": 0}
        with line(place, **limits) as (producer, link, way):
            way.delay_s = 0.05
            link.put = SmallStore(2 << 20).put  # type: ignore[method-assign]
            try:
                for number in range(30):
                    producer.submit(numbered_events(number, record_bytes=100_000))
            except LinkError:
                return {"refused"}
            return flushed(producer, guards)

    guards.show(
        scenario, lambda patch: patch.setattr(Window, "admits", lambda *of: True), "refused"
    )


@contextmanager
def spooled_line(
    folder: Path, on_full: str = "spool"
) -> Iterator[tuple[Producer, LaneWay, LaneWay, Lane]]:
    """A sink with a spool that is being emptied, and beside it one that is never away."""
    spool = Spool(folder / "spool", "sink", SpoolOptions(), SystemClock())
    lanes = [archive_lane(folder), lane_of(spool, folder), archive_lane(folder, "other")]
    way, draining = LaneWay(lanes[0]), LaneWay(lanes[0], spool)
    routes = {
        "sink": SinkRoute(
            "sink", True, True, on_full, 1 << 26, way,
            LaneWay(lanes[1], spool) if on_full == "spool" else None, spool_after_s=0.2,
        ),
        "other": SinkRoute("other", True, True, "block", 1 << 26, LaneWay(lanes[2])),
    }  # fmt: skip
    emptier = Router(
        "emptier", RoutingTable(("sink",)),
        {"sink": SinkRoute("sink", True, True, "block", 1 << 26, draining)},
        random.random, time.time_ns,
    )  # fmt: skip
    drain = SpoolDrain(spool, "sink", emptier, 1, Batch.to_pack, print, in_flight_bytes_max=1)
    with ended(routes, folder, lanes, window_batches=8) as (producer, link):
        task = asyncio.run_coroutine_threadsafe(drain.run(), link.loop)
        yield producer, way, draining, lanes[2]
        drain.is_stopped = True
        wait_for(task.done, ENDED_S)


def wait_for(until: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came to be so in time."""
    end = time.monotonic() + timeout_s
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_sink_that_is_away_holds_up_nobody(guards: Any) -> None:
    """The others get all that comes, more than a window of it."""
    on_full = {"on_full": "spool"}

    def scenario(place: Path) -> set[str]:
        with spooled_line(place, on_full["on_full"]) as (producer, way, draining, other):
            way.is_away = draining.is_away = True

            def submit() -> None:
                for number in range(30):
                    producer.submit(numbered_events(number))

            source = threading.Thread(target=submit)
            source.start()
            in_time = wait_for(lambda: other.snapshot().batches_received == 30, guards.patience_s)
            way.is_away = draining.is_away = False
            source.join()
            broken = flushed(producer, guards)
        return broken | (set() if in_time else {"held up"})

    guards.show(scenario, lambda patch: patch.setitem(on_full, "on_full", "block"), "held up")


def test_what_is_new_goes_behind_the_spool(guards: Any) -> None:
    """The sink is back, and what it has missed takes its time."""

    def scenario(place: Path) -> set[str]:
        with spooled_line(place) as (producer, way, draining, _):
            way.is_away = draining.is_away = True
            for number in range(8):
                producer.submit(numbered_events(number))
            broken = flushed(producer, guards)
            draining.delay_s = 0.05
            way.is_away = draining.is_away = False
            for number in range(8, 16):
                producer.submit(numbered_events(number))
            broken |= flushed(producer, guards)
            assert wait_for(draining.has_delivered, ENDED_S)
        there, _ = guards.stored(place / "kept")
        return broken | guards.broken(range(16), there)

    offer = SpoolGate.offer

    def straight(gate: SpoolGate, batch: RoutedBatch, *, has_room: bool) -> None:
        if gate.state == "spooling" and batch.header.sequence >= 8:
            gate._go_direct(batch)
        else:
            offer(gate, batch, has_room=has_room)

    # What overtakes them says that all below it is settled, so the lane takes them for had.
    guards.show(
        scenario,
        lambda patch: patch.setattr(SpoolGate, "offer", straight),
        "acknowledged and not there",
    )


def test_a_spool_keeps_what_is_not_settled(guards: Any) -> None:
    """All was handed out and nothing has landed when it is killed."""

    def scenario(place: Path) -> set[str]:
        clock = FakeClock()
        spool = Spool(place / "spool", "sink", SpoolOptions(), clock)
        spool.open()
        for number in range(6):
            spool.write(numbered_events(number))
        spool.flush()
        clock.sleep_ms(10_000)
        assert len(spool.take(10, 1 << 30)) == 6
        assert wait_for(lambda: is_sealed(spool, clock), ENDED_S)
        assert spool.take(10, 1 << 30) == []
        shutil.copytree(place / "spool", place / "left")
        successor = Spool(place / "left", "sink", SpoolOptions(), clock)
        successor.open()
        there = [item.batch.header.sequence for item in successor.take(10, 1 << 30)]
        return {"not there"} if there != list(range(6)) else set()

    def is_sealed(spool: Spool, clock: FakeClock) -> bool:
        spool.tick(clock.now_ms())
        return all(segment.is_sealed for segment in spool._segments())

    def remove(spool: Spool, segment: SpoolSegment) -> bool:
        if segment.is_sealed and segment.is_exhausted:
            spool._delete(segment)
        return segment.is_sealed

    guards.show(
        scenario, lambda patch: patch.setattr(Spool, "_remove_if_settled", remove), "not there"
    )
