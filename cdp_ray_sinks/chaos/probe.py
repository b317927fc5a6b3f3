"""Small batches that ask how long it takes until something is durable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.enums import API_KEY_BYTES
from cdp_ray_sinks.chaos.settings import PROBE_EVENTS, PROBE_EVENTS_MAX, WORKSPACES
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.flights import BatchTicket
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.sources.synthetic_source import MessageWriter, Part

ANSWER_S_MAX: Final = 60.0
NAME: Final = "probe"


class Submits(Protocol):
    """As much of a producer as a probe needs."""

    def submit(self, batch: Batch) -> BatchTicket:
        """Take one batch; on return its buffers may be reused."""
        ...


class Probe:
    """Sends a batch to every workspace and waits for all of them.

    Its events carry running numbers from `first_number` on; `events` is how many so far.
    """

    def __init__(
        self, producer: Submits, first_number: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._producer = producer
        self._first_number = first_number
        self._clock = clock
        self._writer = MessageWriter(
            SyntheticConfig(events=PROBE_EVENTS, shape="small"), bytes(API_KEY_BYTES), False
        )
        self.events = 0

    def ask(self, timeout_s: float = ANSWER_S_MAX) -> float | None:
        """Seconds until every workspace's batch was settled, None if that took too long.

        Settled is durable at each sink, or in the spool of one that has a spool.
        """
        if self.events + WORKSPACES * PROBE_EVENTS > PROBE_EVENTS_MAX:
            return 0.0
        began_s = self._clock()
        tickets = [self._submit(workspace_id) for workspace_id in range(1, WORKSPACES + 1)]
        try:
            for ticket in tickets:
                ticket.result(max(0.0, began_s + timeout_s - self._clock()))
        except TimeoutError:
            return None
        return self._clock() - began_s

    def _submit(self, workspace_id: int) -> BatchTicket:
        part = Part(workspace_id, False, self._first_number + self.events, PROBE_EVENTS)
        self.events += PROBE_EVENTS
        batch = self._writer.batch(part, NAME, SystemClock().now_ms())
        return self._producer.submit(batch)
