"""One lane's queue in the router: order, grouping, budget and recovery."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.push import Group, Low, make_group
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.routing.flights import RoutedBatch

PUSHES_IN_FLIGHT_MAX = 2


class LaneLostError(CdpError):
    """The lane did not answer; whether it wrote is not known: hello, then resend."""


class LaneLink(Protocol):
    """How the router reaches one lane."""

    async def hello(self, router_id: str, session: int) -> None:
        """Begin a session at push 1. Raises LaneLostError."""
        ...

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        """One outcome per batch once all are settled. Raises LaneLostError."""
        ...


class Budget:
    """A sink's bytes in flight; senders wait their turn for room, first come first served."""

    def __init__(self, in_flight_bytes_max: int) -> None:
        self.in_flight_bytes_max = in_flight_bytes_max
        self.in_flight_bytes = 0
        self.queued_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, group_bytes: int) -> None:
        """Wait for room; a group larger than the budget goes when nothing else is in flight."""
        while self.in_flight_bytes and (
            self.in_flight_bytes + group_bytes > self.in_flight_bytes_max
        ):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.in_flight_bytes += group_bytes

    def give_back(self, group_bytes: int) -> None:
        """A push was settled."""
        self.in_flight_bytes -= group_bytes
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break

    def has_room(self, batch_bytes: int) -> bool:
        """Whether a batch fits with all that is queued and in flight; for `on_full = drop`."""
        held = self.queued_bytes + self.in_flight_bytes
        return held == 0 or held + batch_bytes <= self.in_flight_bytes_max


class LaneSender:
    """Sends batches to one lane, in order, a few groups at a time."""

    def __init__(
        self,
        sink_name: str,
        router_id: str,
        find_lane: Callable[[], Awaitable[LaneLink]],
        budget: Budget,
        lows: Callable[[set[tuple[bytes, int]]], list[Low]],
        random: Callable[[], float],
        new_session: Callable[[], int],
        *,
        lane_bytes_max: int,
        group_batches_max: int,
        group_bytes_max: int,
    ) -> None:
        self._sink_name = sink_name
        self._router_id = router_id
        self._find_lane = find_lane
        self._budget = budget
        self._lows = lows
        self._random = random
        self._new_session = new_session
        self._lane_bytes_max = lane_bytes_max
        self._group_batches_max = group_batches_max
        self._group_bytes_max = min(group_bytes_max, lane_bytes_max)
        self._queue: deque[RoutedBatch] = deque()
        self._pushes: dict[int, list[RoutedBatch]] = {}
        self._number = 0
        self._session = 0
        self._failures = 0
        self._lane: LaneLink | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._push_tasks: set[asyncio.Task[None]] = set()
        self.recoveries = 0
        self.last_error: str | None = None

    def offer(self, batch: RoutedBatch) -> None:
        """Queue a batch that the budget counts as queued; the producers' windows bound it."""
        self._queue.append(batch)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def queued(self) -> tuple[int, int]:
        """Batches queued, and batches pushed but unanswered."""
        return len(self._queue), sum(len(group) for group in self._pushes.values())

    async def _run(self) -> None:
        while True:
            if self._lane is None:
                await self._recover()
            if not self._queue or len(self._pushes) >= PUSHES_IN_FLIGHT_MAX:
                self._changed.clear()
                await self._changed.wait()
                continue
            batches, group_bytes = self._take_group()
            await self._budget.take(group_bytes)
            self._number += 1
            self._pushes[self._number] = batches
            if self._lane is None:  # lost while waiting for room: recovery queues it again
                self._budget.give_back(group_bytes)
                continue
            task = asyncio.get_running_loop().create_task(
                self._push(self._number, batches, group_bytes)
            )
            self._push_tasks.add(task)
            task.add_done_callback(self._push_tasks.discard)

    def _take_group(self) -> tuple[list[RoutedBatch], int]:
        batches = [self._queue.popleft()]
        group_bytes = batches[0].header.record_bytes
        while self._queue and len(batches) < self._group_batches_max:
            next_bytes = self._queue[0].header.record_bytes
            if group_bytes + next_bytes > self._group_bytes_max:
                break
            group_bytes += next_bytes
            batches.append(self._queue.popleft())
        self._budget.queued_bytes -= group_bytes
        return batches, group_bytes

    async def _push(self, number: int, batches: list[RoutedBatch], group_bytes: int) -> None:
        lane, session = self._lane, self._session
        assert lane is not None
        producers = {(b.header.producer, b.header.epoch) for b in batches}
        group = make_group([(b.header, b.payload) for b in batches], self._lows(producers))
        try:
            outcomes = await lane.push(self._router_id, session, number, group)
        except LaneLostError as error:
            self.last_error = str(error)
            self._failures += 1
            self._lane = None
        else:
            self.last_error = None
            self._failures = 0
            del self._pushes[number]
            for batch, outcome in zip(batches, outcomes, strict=True):
                batch.settle(self._sink_name, outcome)
        finally:
            self._budget.give_back(group_bytes)
            self._changed.set()

    async def _recover(self) -> None:
        """Wait for what is under way to end, find the lane again, queue what is unanswered."""
        while self._push_tasks:
            await asyncio.wait(set(self._push_tasks))
        unanswered = [batch for number in sorted(self._pushes) for batch in self._pushes[number]]
        self._pushes.clear()
        self._queue.extendleft(reversed(unanswered))
        self._budget.queued_bytes += sum(batch.header.record_bytes for batch in unanswered)
        if self._session:
            self.recoveries += 1
        backoff = Backoff(delay_ms_max=1_000)
        while True:
            if self._failures:
                await asyncio.sleep(backoff.delay_ms(self._failures, self._random) / 1000)
            try:
                lane = await self._find_lane()
                self._session = max(self._new_session(), self._session + 1)
                await lane.hello(self._router_id, self._session)
            except LaneLostError as error:
                self.last_error = str(error)
                self._failures += 1
                continue
            self._lane, self._number = lane, 0
            return
