"""A sink's spool as a Ray actor: a lane that writes it, and a thread that empties it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import ray

from cdp_ray_sinks.actors.lane_actor import LaneActor
from cdp_ray_sinks.actors.metric_samples import Sample, spool_samples
from cdp_ray_sinks.actors.router_actor import has_lanes, lanes_of
from cdp_ray_sinks.actors.specs import SpoolSpec
from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.delivery.account_book import spool_book
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.push import Payload
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions
from cdp_ray_sinks.errors import BatchConflictError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.routing.spool_drain import SpoolDrain
from cdp_ray_sinks.routing.table import RoutingTable

POLL_S: Final = 0.1
PART_WAIT_S: Final = 5.0
STALLED_S: Final = 5.0
"""Leaving, a spool is no longer waited for once nothing of it was delivered for so long."""


class SpoolActor(LaneActor):
    """What is pushed to it is durable in the spool; it goes on to the sink by itself."""

    def __init__(self, spec: SpoolSpec) -> None:
        self._spool_spec = spec
        self._spool: Spool | None = None
        self._drain: SpoolDrain | None = None
        self._drain_error: str | None = None
        self._router: Router | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._book = spool_book(Path(spec.accounts_dir), spec.lane.sink_name)
        super().__init__(spec.lane)

    def _new_lane(self) -> Lane:
        spec, config = self._spool_spec, self._spec.config
        options = SpoolOptions(config.spool_bytes_max, config.spool_age_h_max, config.spool_full)
        spool = Spool(
            Path(spec.directory), self._spec.sink_name, options, self._clock, self._note_later
        )
        dead_letters = _dead_letters(self._spec.dead_letter_dir, spec, self._clock)
        lane = Lane(spool, self._clock, dead_letters, random.random, by_workspace=True)
        self._spool = spool
        return lane

    def _on_open(self) -> None:
        threading.Thread(target=self._run_drain, name="spool-drain", daemon=True).start()

    def _run_drain(self) -> None:
        """Empty the spool; begin anew should that ever fail."""
        while self._drain is None or not self._drain.is_stopped:
            try:
                asyncio.run(self._empty())
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it
                self._drain_error = f"{type(error).__name__}: {error}"
                time.sleep(1.0)

    async def _empty(self) -> None:
        assert self._spool is not None
        spec, config = self._spool_spec, self._spec.config
        name = self._spec.sink_name
        in_flight_bytes_max = min(config.max_in_flight_bytes, spec.in_flight_bytes_max)
        route = SinkRoute(
            name, has_lanes(config), True, "block", in_flight_bytes_max,
            lanes_of(config, spec.sink_actors, spec.namespace),
        )  # fmt: skip
        router = Router(
            self._spec.name, RoutingTable((name,)), {name: route}, random.random, time.time_ns
        )
        self._router, self._loop = router, asyncio.get_running_loop()
        self._spool.give_back()
        refused = _dead_letters(self._spec.dead_letter_dir, spec, self._clock, "refused")
        self._drain = SpoolDrain(
            self._spool, name, router, time.time_ns(), self._put,
            lambda batch: refused.put(batch, None, BatchConflictError("id has other content")),
            in_flight_bytes_max=in_flight_bytes_max, note=self._note_later,
        )  # fmt: skip
        await self._drain.run()

    def _note_later(self, header: BatchHeader, outcome: str) -> None:
        """A batch that its producer's accounts have as spooled will not land."""
        self._book.note(header, ((self._spec.sink_name, outcome),))

    def _put(self, batch: Batch) -> Payload:
        """Small ones ride inside the call, others go by the object store."""
        pack = batch.to_pack()
        return pack if pack.held_bytes <= self._spool_spec.inline_bytes_max else ray.put(pack)

    @ray.method(concurrency_group="control")
    def progress(self) -> tuple[int, int]:
        """Batches that are not settled yet, none if the spool is empty, and batches delivered.

        Raises TransientError before it is open.
        """
        self._opened_lane()
        assert self._spool is not None
        state = self._spool.state()
        return 0 if state.is_empty else max(1, state.batches), state.delivered_batches

    @ray.method(concurrency_group="control")
    def part_lane(self, sink_name: str, lane_name: str, wait_s: float) -> None:
        """Leave a lane of the sink that goes; see `Router.part_lane`."""
        if self._router is not None and self._loop is not None:
            parting = self._router.part_lane(sink_name, lane_name, wait_s)
            asyncio.run_coroutine_threadsafe(parting, self._loop).result(wait_s + PART_WAIT_S)

    @ray.method(concurrency_group="control")
    def wait_empty(self, deadline_ms: int) -> bool:
        """Wait for that, as long as it goes on and not past the deadline."""
        if self._lane is None or self._spool is None:
            return False
        until = self._clock.monotonic_ms() + deadline_ms
        delivered, since = -1, self._clock.monotonic_ms()
        while True:
            state = self._spool.state()
            if state.is_empty:
                return True
            now = self._clock.monotonic_ms()
            if state.delivered_batches != delivered:
                delivered, since = state.delivered_batches, now
            if now > until or now - since > STALLED_S * 1000:
                return False
            time.sleep(POLL_S)

    @ray.method(concurrency_group="control")
    def close(self, deadline_ms: int) -> dict[str, Any]:
        """Stop emptying, settle what is queued, close the files."""
        if self._drain is not None:
            self._drain.is_stopped = True
        report = self._close(deadline_ms)
        self._book.close()
        return report

    def _samples(self, report: dict[str, Any]) -> Iterable[Sample]:
        return spool_samples(self._spec.sink_name, report, self._clock.now_ms())

    def _report(self) -> dict[str, Any]:
        report = super()._report()
        if self._spool is not None:
            state = self._spool.state()
            report["spool"] = {name: getattr(state, name) for name in state.__slots__}
            report["last_error"] = report["last_error"] or self._drain_error or self._book.problem
        return report


def _dead_letters(
    directory: str, spec: SpoolSpec, clock: Clock, of: str = "spool"
) -> DeadLetterArchive:
    """An archive of its own: the sink's lane holds the lock of the sink's."""
    return DeadLetterArchive(Path(directory), f"{spec.lane.sink_name}-{of}", clock)
