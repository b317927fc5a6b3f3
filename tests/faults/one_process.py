"""A producer, a router and lanes in one process, with ways between them that can be cut.

For tests that take something out of them: what is a call of Ray elsewhere is one of a method here.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdp_ray_sinks.batch.batch import Batch, BatchId, Pack, unpack
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.delivery.push import Group
from cdp_ray_sinks.delivery.router_link import LinkError, OnAnswer, OnSettled
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions
from cdp_ray_sinks.errors import DrainTimeoutError, SequenceGapError, SinkError
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.spool_drain import SpoolDrain
from cdp_ray_sinks.routing.table import RoutingTable
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config

ENDED_S = 20.0


class LaneWay:
    """The way to a lane of this process, which may be cut or slow."""

    def __init__(self, lane: Lane, spool: Spool | None = None) -> None:
        self.is_away = False
        self.lost_pushes = 0
        self.delay_s = 0.0
        self.only_lane, self._spool = lane, spool

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
        return self.only_lane.hello(router_id, session)

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
                self.only_lane.push, router_id, session, number, group.lows, batches
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


def flushed(producer: Producer, patience_s: float) -> set[str]:
    """Empty once all is settled."""
    try:
        producer.flush(patience_s)
    except DrainTimeoutError:
        return {"not there"}
    return set()


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
