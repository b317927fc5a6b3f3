"""Which way a sink's batches go: straight to its lanes, or behind those in its spool.

They go to the spool when the sink's budget is full, or when one has waited too long. From
then on everything goes there, in order, until the spool is empty again: what is new must not
overtake what waits. Under a steady load it would never be empty by itself, so when little is left
in it and that is being delivered, what comes is held back for a moment. After a start nobody knows
whether the spool is empty; batches wait for that answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.lane_sender import Budget, LaneLostError, LaneSender

LOOK_S: Final = 0.25
HOLD_S: Final = 1.0
HOLD_LOOK_S: Final = 0.03
HOLD_AGAIN_S: Final = 5.0
HOLD_BATCHES_MAX: Final = 256
"""With more left in the spool it would not be empty within a moment."""

UNKNOWN: Final = "unknown"
DIRECT: Final = "direct"
SPOOLING: Final = "spooling"
HOLDING: Final = "holding"


class SpoolLink(Protocol):
    """What the router asks a spool, beside pushing to it."""

    async def progress(self) -> tuple[int, int]:
        """How many batches it owes the sink, and how many it has delivered in this life.

        Raises LaneLostError.
        """
        ...


class SpoolGate:
    """One sink's gate. All methods run on the router's event loop.

    `withdraw` takes back what the sink's lanes have not settled, `oldest_s` says when the
    longest of that came; `go_direct` queues a batch at its lane, `send_direct` lets those go on.
    """

    def __init__(
        self,
        sender: LaneSender,
        budget: Budget,
        link: SpoolLink,
        *,
        spool_after_s: float,
        withdraw: Callable[[], list[RoutedBatch]],
        oldest_s: Callable[[], float | None],
        go_direct: Callable[[RoutedBatch], None],
        send_direct: Callable[[], None],
    ) -> None:
        self.state = UNKNOWN
        self.switches = 0
        self._sender = sender
        self._budget = budget
        self._link = link
        self._spool_after_s = spool_after_s
        self._withdraw = withdraw
        self._oldest_s = oldest_s
        self._go_direct = go_direct
        self._send_direct = send_direct
        self._waiting: list[RoutedBatch] = []
        self._offered = 0
        self._delivered = 0
        self._hold_at_s = 0.0
        self._watch: asyncio.Task[None] | None = None

    def offer(self, batch: RoutedBatch, *, has_room: bool) -> None:
        """Send a batch whichever way is open; `has_room` says whether the budget has."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._look())
        if self.state in (UNKNOWN, HOLDING):
            self._waiting.append(batch)
        elif self.state == DIRECT and has_room:
            self._go_direct(batch)
        else:
            self._begin_spooling()
            self._spool(batch)

    def spool_rest(self) -> None:
        """From now on the sink is not waited for: what it has not settled goes to the spool."""
        self._spool_after_s = 0.0

    def send(self) -> None:
        """Let what was spooled leave for the spool."""
        self._sender.send()

    def report(self) -> dict[str, Any]:
        """The state, for `status`: "spooling" means that the sink's circuit is open."""
        queued, pushed = self._sender.queued
        return {
            "state": self.state,
            "switches": self.switches,
            "queued": queued + len(self._waiting),
            "pushed": pushed,
            "last_error": self._sender.last_error,
        }

    def _spool(self, batch: RoutedBatch) -> None:
        self._budget.queued_bytes += batch.header.record_bytes
        self._sender.offer(batch)
        self._offered += 1

    def _begin_spooling(self) -> None:
        if self.state == SPOOLING:
            return
        self.state = SPOOLING
        self.switches += 1
        for batch in self._withdraw():
            self._spool(batch)

    async def _look(self) -> None:
        """Switch when it is time, for as long as the router lives."""
        loop = asyncio.get_running_loop()
        while True:
            if self.state == DIRECT:
                oldest_s = self._oldest_s()
                if oldest_s is not None and loop.time() - oldest_s > self._spool_after_s:
                    self._begin_spooling()
                    self._sender.send()
            elif await self._look_into_spool() and loop.time() >= self._hold_at_s:
                await self._hold()
            await asyncio.sleep(LOOK_S)

    async def _look_into_spool(self) -> bool:
        """Go direct if it is empty; if not, whether it might be if nothing more came."""
        offered, is_idle = self._offered, self._sender.is_idle
        try:
            left, delivered = await self._link.progress()
        except LaneLostError:
            return False
        is_moving = delivered > self._delivered
        self._delivered = delivered
        if is_idle and offered == self._offered:
            if not left:
                self.state = DIRECT
            elif self.state == UNKNOWN:
                self.state = SPOOLING
            self._release()
        return self.state == SPOOLING and is_moving and left <= HOLD_BATCHES_MAX

    async def _hold(self) -> None:
        """Hold back what comes until the spool is empty; not for long, and then not soon again."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + HOLD_S
        self.state = HOLDING
        while self.state == HOLDING and loop.time() < until_s:
            await asyncio.sleep(HOLD_LOOK_S)
            await self._look_into_spool()
        if self.state == HOLDING:
            self.state = SPOOLING
            self._hold_at_s = loop.time() + HOLD_AGAIN_S
            self._release()

    def _release(self) -> None:
        """Let what was held back go its way, once there is one."""
        if self.state in (DIRECT, SPOOLING):
            waiting, self._waiting = self._waiting, []
            now_s = asyncio.get_running_loop().time()
            for batch in waiting:
                batch.came_s = now_s  # it was not the sink that it has waited for
                self.offer(batch, has_room=True)
            self._sender.send()
            self._send_direct()
