"""Which lane of a sink writes which workspace: asked when a workspace first comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError

QUESTIONS_MAX: Final = 4
"""Open at the same time; one may wait for a process to start."""


class SinkPlaces(Protocol):
    """Finds the lanes of a sink that write some workspaces."""

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        """The lanes' names of those that have one now; waits until one of them does.

        Raises LaneLostError when nobody can tell.
        """
        ...

    async def link(self, lane_name: str) -> LaneLink:
        """A way to a lane. Raises LaneLostError when there is none now."""
        ...


class Placing:
    """Finds the lanes of one sink's new workspaces, however long it takes.

    All that came together are in one question, and what comes while `QUESTIONS_MAX` are open
    is in the next one. `placed` is told lane names by workspace. On the router's event loop.
    """

    def __init__(
        self,
        places: SinkPlaces,
        placed: Callable[[Mapping[int, str]], None],
        random: Callable[[], float],
    ) -> None:
        self._places = places
        self._placed = placed
        self._random = random
        self._wanted: dict[int, None] = {}
        self._questions: set[asyncio.Task[None]] = set()

    def want(self, workspace_id: int) -> None:
        """Find its lane, together with those wanted in this turn of the loop."""
        if not self._wanted:
            asyncio.get_running_loop().call_soon(self._ask)
        self._wanted[workspace_id] = None

    def _ask(self) -> None:
        if self._wanted and len(self._questions) < QUESTIONS_MAX:
            task = asyncio.get_running_loop().create_task(self._find())
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)

    async def _find(self) -> None:
        backoff, attempt = Backoff(delay_ms_max=1_000), 0
        left: dict[int, None] = {}
        while True:
            if not left:
                left, self._wanted = self._wanted, {}
            if not left:
                return
            try:
                found = await self._places.place(list(left))
            except LaneLostError:
                attempt += 1
                await asyncio.sleep(backoff.delay_ms(attempt, self._random) / 1000)
                continue
            for workspace_id in found:
                del left[workspace_id]
            self._placed(found)
