"""Batches inside the router: who still owes an answer about each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.push import Outcomes, Payload
from cdp_ray_sinks.delivery.router_link import COMPLETE, OWED, REQUIRED_SETTLED


class RoutedBatch:
    """One batch on its way to its sinks, and the calls that wait for it."""

    __slots__ = (
        "_note",
        "_owed",
        "_owed_required",
        "_waiting",
        "came_s",
        "header",
        "outcomes",
        "payload",
    )

    def __init__(
        self,
        header: BatchHeader,
        payload: Payload,
        sinks: tuple[str, ...],
        required: frozenset[str],
        came_s: float = 0.0,
        note: Callable[[RoutedBatch, str, str], None] | None = None,
    ) -> None:
        """`note` is told of each sink that settles it, and of the outcome."""
        self._note = note
        self.came_s = came_s
        self.header = header
        self.payload = payload
        self.outcomes: dict[str, str] = {}
        self._owed = set(sinks)
        self._owed_required = self._owed & required
        self._waiting: list[tuple[Waiter, int]] = []

    @property
    def state(self) -> int:
        """OWED by a required sink, REQUIRED_SETTLED, or COMPLETE."""
        if self._owed_required:
            return OWED
        return REQUIRED_SETTLED if self._owed else COMPLETE

    def settle(self, sink_name: str, outcome: str) -> None:
        """A sink settled it; wakes the calls whose condition now holds."""
        if sink_name not in self._owed:
            return
        self._owed.discard(sink_name)
        self._owed_required.discard(sink_name)
        self.outcomes[sink_name] = outcome
        if self._note is not None:
            self._note(self, sink_name, outcome)
        state = self.state
        still = []
        for waiter, wanted in self._waiting:
            if state >= wanted:
                waiter.one_less()
            elif not waiter.is_over:
                still.append((waiter, wanted))
        self._waiting = still
        if not self._owed:
            self.payload = None

    def wait(self, waiter: Waiter, wanted: int) -> None:
        """Let the waiter know when the state is `wanted`; counts at once if it is already."""
        if self.state >= wanted:
            waiter.one_less()
            return
        self._waiting = [entry for entry in self._waiting if not entry[0].is_over]
        self._waiting.append((waiter, wanted))

    def result(self) -> Outcomes:
        """(sink, outcome) pairs so far, in a stable order."""
        return tuple(sorted(self.outcomes.items()))


class Waiter:
    """Counts down to the moment when enough batches of one call are settled."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count <= 0:
            self._done.set_result(None)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._done.done()

    def one_less(self) -> None:
        """One batch was settled."""
        self._left -= 1
        if self._left <= 0 and not self._done.done():
            self._done.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Return when enough are, or after `timeout_s`."""
        await asyncio.wait([self._done], timeout=timeout_s)
        self._done.cancel()
