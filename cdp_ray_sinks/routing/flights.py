"""Batches inside the router: who still owes an answer about each."""

from __future__ import annotations

import asyncio

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.push import Outcomes, Payload


class RoutedBatch:
    """One batch on its way to its sinks, and the calls that wait for it."""

    __slots__ = ("_owed", "_owed_required", "_waiting", "header", "outcomes", "payload")

    def __init__(
        self,
        header: BatchHeader,
        payload: Payload,
        sinks: tuple[str, ...],
        required: frozenset[str],
    ) -> None:
        self.header = header
        self.payload = payload
        self.outcomes: dict[str, str] = {}
        self._owed = set(sinks)
        self._owed_required = self._owed & required
        self._waiting: list[tuple[Waiter, bool]] = []

    @property
    def is_complete(self) -> bool:
        """Whether every sink has settled it."""
        return not self._owed

    def settle(self, sink_name: str, outcome: str) -> None:
        """A sink settled it; wakes the calls whose condition now holds."""
        if sink_name not in self._owed:
            return
        self._owed.discard(sink_name)
        self._owed_required.discard(sink_name)
        self.outcomes[sink_name] = outcome
        still: list[tuple[Waiter, bool]] = []
        for waiter, wants_all in self._waiting:
            if self.is_settled(wants_all):
                waiter.one_less()
            else:
                still.append((waiter, wants_all))
        self._waiting = still
        if not self._owed:
            self.payload = None

    def is_settled(self, wants_all: bool) -> bool:
        """Whether all sinks (or, else, all required ones) have settled it."""
        return not (self._owed if wants_all else self._owed_required)

    def wait(self, waiter: Waiter, wants_all: bool) -> None:
        """Let the waiter know when it is settled; counts at once if it is already."""
        if self.is_settled(wants_all):
            waiter.one_less()
        else:
            self._waiting.append((waiter, wants_all))

    def result(self) -> Outcomes:
        """(sink, outcome) pairs so far, in a stable order."""
        return tuple(sorted(self.outcomes.items()))


class Waiter:
    """Counts down to the moment when all batches of one call are settled."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not count:
            self._done.set_result(None)

    def one_less(self) -> None:
        """One batch was settled."""
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)

    async def wait(self) -> None:
        """Return when all are."""
        await self._done
