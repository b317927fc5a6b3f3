"""What empties a spool: many calls at once, in order, and nothing forgotten when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.delivery.push import DURABLE, Group
from cdp_ray_sinks.delivery.router_link import COMPLETE, OWED, RouteAnswer, SettledAnswer
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions
from cdp_ray_sinks.errors import SequenceGapError
from cdp_ray_sinks.routing import spool_drain
from cdp_ray_sinks.routing.spool_drain import SpoolDrain
from cdp_ray_sinks.testing import FakeClock, numbered_batch


class SlowRouter:
    """Answers no call before as many batches have come as its sink wants to have together."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.came: list[BatchHeader] = []
        self.numbers: list[int] = []
        self.fails = False
        self._enough = asyncio.Event()

    def begin(self, producer: bytes, session: int) -> int:
        """Nothing to prepare."""
        return session

    async def route(self, producer: bytes, session: int, number: int, group: Group) -> RouteAnswer:
        """Owed after a while, or complete once enough have come."""
        self.came += group.headers
        self.numbers.append(number)
        if self.fails:
            raise SequenceGapError("a call is missing")
        if len(self.came) >= self.wanted:
            self._enough.set()
        await asyncio.wait([asyncio.ensure_future(self._enough.wait())], timeout=0.05)
        return RouteAnswer(*self._answer([header.batch_id for header in group.headers]))

    async def settled(self, known: Sequence[tuple[Any, int]]) -> SettledAnswer:
        """Of all that came."""
        assert {batch_id for batch_id, _ in known} <= {header.batch_id for header in self.came}
        await asyncio.sleep(0.01)
        if not self._enough.is_set():
            return SettledAnswer([], [], [])
        ids = [batch_id for batch_id, _ in known]
        return SettledAnswer(list(range(len(ids))), *self._answer(ids))

    def _answer(self, ids: Sequence[Any]) -> tuple[Any, Any]:
        if self._enough.is_set():
            return [(("sink", DURABLE),)] * len(ids), [COMPLETE] * len(ids)
        return [()] * len(ids), [OWED] * len(ids)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """With 400 small batches in it."""
    made = Spool(tmp_path / "spool", "sink", SpoolOptions(), FakeClock())
    made.open()
    for number in range(400):
        made.write(numbered_batch(number, 1, 200))
    made.flush()
    return made


def drain_of(spool: Spool, router: SlowRouter) -> SpoolDrain:
    def put(batch: Batch) -> Any:
        return batch.to_pack()

    refused: list[Batch] = []
    return SpoolDrain(
        spool,
        "sink",
        router,
        1,
        put,
        refused.append,
        in_flight_bytes_max=1 << 20,  # type: ignore[arg-type]
    )


async def until_empty(drain: SpoolDrain, spool: Spool) -> None:
    running = asyncio.create_task(drain.run())
    async with asyncio.timeout(30):
        while not spool.state().is_empty and not running.done():
            await asyncio.sleep(0.005)
        drain.is_stopped = True
        await running


@pytest.mark.parametrize("wanted", [1, 400])
def test_what_waits_for_more_gets_more(spool: Spool, wanted: int) -> None:
    """A sink that answers only when it has all 400 gets them, in order; so does a quick one."""
    router = SlowRouter(wanted)
    asyncio.run(until_empty(drain_of(spool, router), spool))
    assert [header.sequence for header in router.came] == list(range(400))
    assert router.numbers == list(range(1, len(router.numbers) + 1))
    assert spool.state().delivered_batches == 400


def test_what_is_on_its_way_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By batches, whatever the bytes."""
    monkeypatch.setattr(spool_drain, "IN_FLIGHT_BATCHES_MAX", 100)
    router = SlowRouter(101)

    async def some_time() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await drain_of(spool, router).run()

    asyncio.run(some_time())
    assert len(router.came) == 100


def test_a_call_that_fails_ends_it(spool: Spool) -> None:
    """Who runs it begins anew, with all that is not settled."""
    router = SlowRouter(400)
    router.fails = True
    with pytest.raises(SequenceGapError, match="a call is missing"):
        asyncio.run(drain_of(spool, router).run())
    spool.give_back()
    router = SlowRouter(400)
    asyncio.run(until_empty(drain_of(spool, router), spool))
    assert [header.sequence for header in router.came] == list(range(400))
