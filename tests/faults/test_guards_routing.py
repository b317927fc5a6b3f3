"""What each guard of producer, router and spool is for: without it, a fault breaks a promise.

| fault | guard | taken out | then |
| --- | --- | --- | --- |
| SIGKILL of the router | a producer sends again what was not answered | it does not | not there |
| SIGKILL of a chain | a router does | it does not | not there |
| clock set back | the session in force is told | it is not | not there |
| SIGKILL of a source | accounts come before a batch goes | a second later | unaccounted |
| object store full | the window bounds what a producer holds there | it does not | refused |
| a sink that is away | its batches go to a spool | they wait | the others are held up |
| a sink that refuses | it is asked at growing intervals | at once | asked too often |
| a sink that was away | new batches go behind the spool's | they overtake | not there |
| SIGKILL of a spool | a segment stays until all of it is settled | until it was read | not there |
"""

from __future__ import annotations

import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from cdp_ray_sinks.batch.batch import Pack
from cdp_ray_sinks.delivery.account_files import read_accounts
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.flights import Window
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.delivery.router_link import LinkError
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions
from cdp_ray_sinks.delivery.spool_segment import SpoolSegment
from cdp_ray_sinks.delivery.streams import Books
from cdp_ray_sinks.delivery.turns import Turns
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.lane_queue import LaneQueue
from cdp_ray_sinks.routing.spool_gate import SpoolGate
from cdp_ray_sinks.testing import FakeClock, numbered_events

ENDED_S = 20.0


def test_a_producer_sends_again(guards: Any, one_process: Any) -> None:
    """The router is killed with all of it on its way."""

    def scenario(place: Path) -> set[str]:
        with one_process.line(place) as (producer, link, way):
            way.is_away = True
            for number in range(10):
                producer.submit(numbered_events(number))
            time.sleep(0.2)
            link.kill()
            way.is_away = False
            broken = one_process.flushed(producer, guards.patience_s)
        there, _ = guards.stored(place / "kept")
        return broken | guards.broken([], there)

    recover = Producer._recover

    def forget(producer: Producer) -> None:
        recover(producer)
        producer._queue.clear()

    guards.show(scenario, lambda patch: patch.setattr(Producer, "_recover", forget), "not there")


def test_a_router_sends_again(guards: Any, one_process: Any) -> None:
    """A chain is killed with a push on its way."""

    def scenario(place: Path) -> set[str]:
        with one_process.line(place) as (producer, _, way):
            way.lost_pushes = 2
            for number in range(10):
                producer.submit(numbered_events(number))
            broken = one_process.flushed(producer, guards.patience_s)
        there, _ = guards.stored(place / "kept")
        return broken | guards.broken([], there)

    def forget(queue: LaneQueue, batches: Any) -> None:
        list(batches)

    guards.show(scenario, lambda patch: patch.setattr(LaneQueue, "put_back", forget), "not there")


def test_a_router_that_begins_in_the_past_is_told(guards: Any, one_process: Any) -> None:
    """Its predecessor had a later clock; sessions come from that."""

    def scenario(place: Path) -> set[str]:
        with one_process.line(place) as (producer, link, _):
            producer.submit(numbered_events(0))
            broken = one_process.flushed(producer, guards.patience_s)
            link.ahead_ns = -3600 * 10**9
            link.kill()
            producer.submit(numbered_events(1))
            return broken | one_process.flushed(producer, guards.patience_s)

    begin = Turns.begin

    def as_asked(turns: Turns, caller: str, session: int) -> int:
        begin(turns, caller, session)
        return session

    guards.show(scenario, lambda patch: patch.setattr(Turns, "begin", as_asked), "not there")


def test_accounts_are_written_before_a_batch_goes(guards: Any, one_process: Any) -> None:
    """The source is killed as soon as its batches are on their way, and they land."""

    def scenario(place: Path) -> set[str]:
        with one_process.line(place) as (producer, link, _):

            def picture() -> None:
                shutil.rmtree(place / "left", ignore_errors=True)
                shutil.copytree(place / "accounts", place / "left")

            (place / "accounts").mkdir(exist_ok=True)
            link.before_route = picture
            for number in range(3):
                producer.submit(numbered_events(number))
            broken = one_process.flushed(producer, guards.patience_s)
        accounts = read_accounts(place / "left")
        there, _ = guards.stored(place / "kept")
        assert len(there) == 3
        known = {batch_id.sequence for batch_id in accounts.open}
        settled = sum(c.batches for c in accounts.of("sink", "durable").values())
        return broken | ({"unaccounted"} if len(known) + settled < 3 else set())

    guards.show(
        scenario,
        lambda patch: patch.setattr(Books, "write_told", lambda self: None),
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


def test_the_window_bounds_what_a_producer_holds(guards: Any, one_process: Any) -> None:
    """Sinks are slower than the source, and the store has room for two windows."""

    def scenario(place: Path) -> set[str]:
        limits = {"window_bytes": 1 << 20, "inline_bytes_max": 0}
        with one_process.line(place, **limits) as (producer, link, way):
            way.delay_s = 0.05
            link.put = SmallStore(2 << 20).put  # type: ignore[method-assign]
            try:
                for number in range(30):
                    producer.submit(numbered_events(number, record_bytes=100_000))
            except LinkError:
                return {"refused"}
            return one_process.flushed(producer, guards.patience_s)

    guards.show(
        scenario, lambda patch: patch.setattr(Window, "admits", lambda *of: True), "refused"
    )


def test_a_sink_that_is_away_holds_up_nobody(guards: Any, one_process: Any) -> None:
    """The others get all that comes, more than a window of it."""
    on_full = {"on_full": "spool"}

    def scenario(place: Path) -> set[str]:
        with one_process.spooled_line(place, on_full["on_full"]) as (
            producer,
            way,
            draining,
            other,
        ):
            way.is_away = draining.is_away = True

            def submit() -> None:
                for number in range(30):
                    producer.submit(numbered_events(number))

            source = threading.Thread(target=submit)
            source.start()
            in_time = one_process.wait_for(
                lambda: other.snapshot().batches_received == 30, guards.patience_s
            )
            way.is_away = draining.is_away = False
            source.join()
            broken = one_process.flushed(producer, guards.patience_s)
        return broken | (set() if in_time else {"held up"})

    guards.show(scenario, lambda patch: patch.setitem(on_full, "on_full", "block"), "held up")


def test_a_sink_that_refuses_is_asked_at_growing_intervals(guards: Any, one_process: Any) -> None:
    """Each time for what is first in its spool; once it takes that, the rest follows in order."""

    def scenario(place: Path) -> set[str]:
        with one_process.spooled_line(place) as (producer, way, draining, _):
            sink, asked = way.only_lane._sink, []
            flush = sink.flush

            def refuse() -> None:
                asked.append(time.monotonic())
                raise TransientError("not now")

            sink.flush = refuse
            for number in range(30):
                producer.submit(numbered_events(number))
                time.sleep(0.05)
            is_hammered = len(asked) > 40
            sink.flush = flush
            broken = one_process.flushed(producer, guards.patience_s)
            assert one_process.wait_for(draining.has_delivered, ENDED_S)
        there, _ = guards.stored(place / "kept")
        broken |= guards.broken(range(30), there)
        return broken | ({"asked too often"} if is_hammered else set())

    guards.show(
        scenario, lambda patch: patch.setattr(Backoff, "delay_ms", lambda *of: 1), "asked too often"
    )


def test_what_is_new_goes_behind_the_spool(guards: Any, one_process: Any) -> None:
    """The sink is back, and what it has missed takes its time."""

    def scenario(place: Path) -> set[str]:
        with one_process.spooled_line(place) as (producer, way, draining, _):
            way.is_away = draining.is_away = True
            for number in range(8):
                producer.submit(numbered_events(number))
            broken = one_process.flushed(producer, ENDED_S)
            way.is_away = False
            for number in range(8, 16):
                producer.submit(numbered_events(number))
            broken |= one_process.flushed(producer, ENDED_S)
            draining.is_away = False
            assert one_process.wait_for(draining.has_delivered, one_process.ENDED_S)
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


def test_a_spool_keeps_what_is_not_settled(guards: Any, one_process: Any) -> None:
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
        assert one_process.wait_for(lambda: is_sealed(spool, clock), one_process.ENDED_S)
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
