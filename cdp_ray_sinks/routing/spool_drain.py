"""Empties a spool into its sink: takes batches in order, hands them to the sink's lanes.

It sends as a router does, to this one sink, so that order, budget and recovery of a lost lane
are the same. A destination that is away is asked by the lane itself, at growing intervals;
until it answers no more than `in_flight_bytes_max` of the spool is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId
from cdp_ray_sinks.delivery.push import (
    DEAD_LETTERED,
    DEAD_LETTERED_LATER,
    DURABLE,
    REFUSED,
    REFUSED_LATER,
    Payload,
    make_group,
)
from cdp_ray_sinks.delivery.router_link import COMPLETE, OWED, RouteAnswer
from cdp_ray_sinks.delivery.spool import Spool
from cdp_ray_sinks.delivery.spool_segment import SpooledBatch
from cdp_ray_sinks.routing.router import Router

IDLE_S: Final = 0.05
GROUP_BATCHES_MAX: Final = 32
IN_FLIGHT_BATCHES_MAX: Final = 2048
CALLS_OPEN_MAX: Final = 16
"""The router answers a call when its batches are settled, or after a while; a sink that waits
for rows to make one insert of would get the few of one call otherwise."""
_ME: Final = b"spool".ljust(16, b"\0")


class SpoolDrain:
    """Runs on an event loop of its own until `stop` is set.

    `put` makes a batch's payload; `refused` is told of a batch whose id the sink has with
    other content, which can never be delivered; `note` of that and of dead letters.
    """

    def __init__(
        self,
        spool: Spool,
        sink_name: str,
        router: Router,
        session: int,
        put: Callable[[Batch], Payload],
        refused: Callable[[Batch], None],
        *,
        in_flight_bytes_max: int,
        note: Callable[[BatchHeader, str], None] = lambda header, outcome: None,
    ) -> None:
        self._spool = spool
        self._sink_name = sink_name
        self._router = router
        self._session = session
        self._put = put
        self._refused = refused
        self._tell = note
        self._in_flight_bytes_max = in_flight_bytes_max
        self._owed: dict[BatchId, list[SpooledBatch]] = {}
        self._owed_bytes = 0
        self._again: list[SpooledBatch] = []
        self._calls = 0
        self._open_calls: set[asyncio.Task[None]] = set()
        self.is_stopped = False

    async def run(self) -> None:
        """Empty the spool, again and again."""
        self._router.begin(_ME, self._session)
        while not self.is_stopped:
            items = self._take() if len(self._open_calls) < CALLS_OPEN_MAX else []
            if items:
                self._open_calls.add(asyncio.create_task(self._send(items)))
                await asyncio.sleep(0)  # let it begin
            elif self._open_calls:
                done, self._open_calls = await asyncio.wait(
                    self._open_calls, return_when=asyncio.FIRST_COMPLETED
                )
                failed = [error for error in await _errors_of(done) if error is not None]
                if failed:
                    raise failed[0]
            elif self._owed:
                ids = list(self._owed)
                answer = await self._router.settled([(each, OWED) for each in ids])
                further = [ids[place] for place in answer.places]
                self._note(further, RouteAnswer(answer.outcomes, answer.states))
            else:
                await asyncio.sleep(IDLE_S)
        await _errors_of(self._open_calls)

    def _take(self) -> list[SpooledBatch]:
        """What is to be sent once more, else what comes next in the spool and has room."""
        if self._again:
            again, self._again = self._again, []
            return again
        room_bytes = self._in_flight_bytes_max - self._owed_bytes
        room = min(GROUP_BATCHES_MAX, IN_FLIGHT_BATCHES_MAX - len(self._owed))
        if room <= 0 or room_bytes <= 0:
            return []
        taken = self._spool.take(room, room_bytes)
        for item in taken:
            self._owed.setdefault(item.batch.header.batch_id, []).append(item)
            self._owed_bytes += item.batch.header.record_bytes
        return taken

    async def _send(self, items: list[SpooledBatch]) -> None:
        self._calls += 1
        group = make_group([(i.batch.header, self._put(i.batch)) for i in items], [])
        answer = await self._router.route(_ME, self._session, self._calls, group)
        self._note([item.batch.header.batch_id for item in items], answer)

    def _note(self, ids: list[BatchId], answer: RouteAnswer) -> None:
        for batch_id, outcomes, state in zip(ids, answer.outcomes, answer.states, strict=True):
            if state != COMPLETE or batch_id not in self._owed:
                continue
            outcome = dict(outcomes).get(self._sink_name)
            if outcome not in (DURABLE, DEAD_LETTERED, REFUSED):
                self._again += self._owed[batch_id][:1]  # it was lost on its way
                continue
            items = self._owed.pop(batch_id)
            if outcome == REFUSED:
                self._refused(items[0].batch)
            if outcome != DURABLE:
                later = REFUSED_LATER if outcome == REFUSED else DEAD_LETTERED_LATER
                self._tell(items[0].batch.header, later)
            for item in items:
                self._owed_bytes -= item.batch.header.record_bytes
                self._spool.settled(item)


async def _errors_of(calls: Collection[asyncio.Task[None]]) -> list[BaseException | None]:
    """How each of them ended."""
    return await asyncio.gather(*calls, return_exceptions=True)
