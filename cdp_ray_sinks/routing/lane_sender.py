"""One lane's queue in the router: order, grouping, budget and recovery."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.push import DURABLE, PENDING, Group, Low, make_group
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.lane_queue import LaneQueue

PUSHES_IN_FLIGHT_MAX = 2
GROUP_BATCHES_MIN = 8
"""While a push is under way another one goes only when so many batches wait."""
GROUP_BYTES_MIN = 8 * 1024 * 1024
GROUP_SMALL_MIN = 128
"""To a lane of many workspaces it goes only with so many bytes, or so many small batches: a
commit costs a sync, whatever it carries."""
ASK_AGAIN_S = 0.25
"""How long after a lane answered "pending" the same batch is pushed again, to ask for it."""


class LaneLostError(CdpError):
    """The lane did not answer; whether it wrote is not known: hello, then resend."""


class LaneLink(Protocol):
    """How the router reaches one lane."""

    async def hello(self, router_id: str, session: int) -> int:
        """Begin a session at push 1; the one in force. Raises LaneLostError."""
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
        self._waiting: deque[Callable[[], None]] = deque()

    def try_take(self, group_bytes: int, when_room: Callable[[], None]) -> bool:
        """Take room for a group, or be called when there may be some.

        A group larger than the whole budget goes when nothing else is in flight.
        """
        if self.in_flight_bytes and (self.in_flight_bytes + group_bytes > self.in_flight_bytes_max):
            self._waiting.append(when_room)
            return False
        self.in_flight_bytes += group_bytes
        return True

    def give_back(self, group_bytes: int) -> None:
        """A push ended; those that waited try again, in their order."""
        self.in_flight_bytes -= group_bytes
        waiting, self._waiting = self._waiting, deque()
        for when_room in waiting:
            when_room()

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
        has_workspaces: bool,
        group_batches_max: int,
        group_bytes_max: int,
        durable_as: str = DURABLE,
    ) -> None:
        self._sink_name = sink_name
        self._durable_as = durable_as
        self._router_id = router_id
        self._find_lane = find_lane
        self._budget = budget
        self._lows = lows
        self._random = random
        self._new_session = new_session
        self._has_workspaces = has_workspaces
        self._group_batches_max = group_batches_max
        # Where the lane has a share only, two pushes together must fit into it.
        push_bytes_max = lane_bytes_max // (PUSHES_IN_FLIGHT_MAX if has_workspaces else 1)
        self._group_bytes_max = min(group_bytes_max, push_bytes_max)
        self._queue = LaneQueue(by_workspace=has_workspaces, held_bytes_max=lane_bytes_max)
        self._sent: dict[BatchId, RoutedBatch] = {}
        self._pending: deque[RoutedBatch] = deque()
        self._asking: asyncio.TimerHandle | None = None
        self._number = 0
        self._session = 0
        self._failures = 0
        self._lane: LaneLink | None = None
        self._is_waiting = False
        self._is_paused = False
        self._recovery: asyncio.Task[None] | None = None
        self._pushes: set[asyncio.Task[None]] = set()
        self._questions = 0
        self.recoveries = 0
        self.last_error: str | None = None

    def offer(self, batch: RoutedBatch) -> None:
        """Queue a batch that the budget counts as queued; the producers' windows bound it.

        It goes with the next `send`, so that what arrives together leaves together.
        """
        self._queue.append(batch)

    @property
    def queued(self) -> tuple[int, int]:
        """Batches queued, and batches pushed but not settled."""
        return len(self._queue), len(self._sent)

    @property
    def oldest_s(self) -> float | None:
        """When the longest unsettled batch came to the router; None if there is none."""
        first_sent = next(iter(self._sent.values()), None)
        if first_sent is not None:
            return first_sent.came_s
        return min((batch.came_s for batch in self._queue), default=None)

    def withdraw(self) -> list[RoutedBatch]:
        """Give up all that is unsettled, in order; a late answer about it is not heard."""
        taken = [*self._sent.values(), *self._queue]
        self._budget.queued_bytes -= sum(batch.header.record_bytes for batch in self._queue)
        sent_bytes = sum(batch.header.record_bytes for batch in self._sent.values())
        self._queue.clear()
        self._sent.clear()
        self._pending.clear()
        self._budget.give_back(sent_bytes)
        return taken

    def pause(self) -> None:
        """Push nothing more; what was pushed may still be settled. The lane is to be left."""
        self._is_paused = True

    def part(self) -> list[RoutedBatch]:
        """Leave the lane for good: all that is unsettled, in order."""
        self._is_paused = True
        if self._recovery is not None:
            self._recovery.cancel()
        return self.withdraw()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued, unsettled or under way."""
        return not (self._queue or self._sent or self._pushes or self._recovery)

    def send(self) -> None:
        """Push what is queued as far as pushes and budget allow; find the lane first."""
        if self._lane is None:
            if self._is_paused:
                return
            if self._recovery is None and not self._pushes and (self._queue or self._sent):
                self._recovery = asyncio.get_running_loop().create_task(self._recover())
            return
        while self._may_push():
            batches = self._queue.take(self._group_batches_max, self._group_bytes_max)
            if not batches:
                return  # those that wait may have no more; what settles calls this again
            group_bytes = sum(batch.header.record_bytes for batch in batches)
            if not self._budget.try_take(group_bytes, self._room_came):
                self._is_waiting = True
                self._queue.put_back(batches)
                return
            self._budget.queued_bytes -= group_bytes
            self._sent.update((batch.header.batch_id, batch) for batch in batches)
            self._start_push(self._lane, batches)

    def _may_push(self) -> bool:
        under_way = len(self._pushes) - self._questions  # those take their time
        if self._is_paused or self._is_waiting or under_way >= PUSHES_IN_FLIGHT_MAX:
            return False
        if not under_way:
            return bool(self._queue)
        waiting = len(self._queue)
        if not self._has_workspaces or self._queue.waiting_bytes >= GROUP_BYTES_MIN:
            return waiting >= GROUP_BATCHES_MIN
        return waiting >= GROUP_SMALL_MIN

    def _room_came(self) -> None:
        self._is_waiting = False
        self.send()

    def _start_push(
        self, lane: LaneLink, batches: list[RoutedBatch], *, is_ask: bool = False
    ) -> None:
        self._number += 1
        self._questions += is_ask
        push = self._push(lane, self._number, batches, is_ask)
        self._pushes.add(asyncio.get_running_loop().create_task(push))

    async def _push(
        self, lane: LaneLink, number: int, batches: list[RoutedBatch], is_ask: bool
    ) -> None:
        producers = {(b.header.producer, b.header.epoch) for b in batches}
        group = make_group([(b.header, b.payload) for b in batches], self._lows(producers))
        try:
            outcomes = await lane.push(self._router_id, self._session, number, group)
        except LaneLostError as error:
            self.last_error = str(error)
            self._failures += 1
            self._lane = None
        else:
            self.last_error = None
            self._failures = 0
            self._settle(batches, outcomes, is_ask)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._pushes.discard(task)
            self._questions -= is_ask
            self.send()

    def _settle(self, batches: list[RoutedBatch], outcomes: list[str], is_ask: bool) -> None:
        settled_bytes = 0
        for batch, outcome in zip(batches, outcomes, strict=True):
            if batch.header.batch_id not in self._sent:
                continue  # it was withdrawn meanwhile
            if outcome == PENDING:
                self._pending.append(batch)
            else:
                del self._sent[batch.header.batch_id]
                self._queue.settled(batch)
                settled_bytes += batch.header.record_bytes
                batch.settle(self._sink_name, self._durable_as if outcome == DURABLE else outcome)
        if self._pending and (self._asking is None or (is_ask and settled_bytes)):
            # Where an asked one has settled, others have too: ask for them without a wait.
            self._ask_in(0 if is_ask and settled_bytes else ASK_AGAIN_S)
        self._budget.give_back(settled_bytes)

    def _ask_in(self, delay_s: float) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.get_running_loop().call_later(delay_s, self._ask_again)

    def _ask_again(self) -> None:
        """Push batches again that the lane has but had not settled; they join the first ones."""
        self._asking = None
        if self._lane is None or not self._pending:
            return
        count = min(len(self._pending), self._group_batches_max)
        asked = [self._pending.popleft() for _ in range(count)]
        self._start_push(self._lane, asked, is_ask=True)
        if self._pending:
            self._ask_in(ASK_AGAIN_S)

    async def _recover(self) -> None:
        """Find the lane again, then queue what is unsettled in front of the rest, in order."""
        if self._session:
            self.recoveries += 1
        backoff = Backoff(delay_ms_max=1_000)
        while True:
            if self._failures:
                await asyncio.sleep(backoff.delay_ms(self._failures, self._random) / 1000)
            try:
                lane = await self._find_lane()
                self._session = max(self._new_session(), self._session + 1)
                in_force = await lane.hello(self._router_id, self._session)
                if in_force > self._session:  # the clock was set back since this router's last life
                    self._session = in_force + 1
                    await lane.hello(self._router_id, self._session)
                break
            except LaneLostError as error:
                self.last_error = str(error)
                self._failures += 1
        unsettled_bytes = sum(batch.header.record_bytes for batch in self._sent.values())
        self._queue.put_back(self._sent.values())
        self._sent.clear()
        self._pending.clear()
        self._budget.queued_bytes += unsettled_bytes
        self._lane, self._number, self._recovery = lane, 0, None
        self._budget.give_back(unsettled_bytes)
        self.send()
