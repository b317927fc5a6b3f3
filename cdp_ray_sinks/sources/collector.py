"""Gather messages into one open batch per workspace and schema, and hand them over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.builder import BatchBuilder
from cdp_ray_sinks.batch.message_run import MessageGroup, MessageRun
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.sources.base import BatchTaker, Ticket

PACK_BATCHES_MAX: Final = 256
_PACKED_BATCH_BYTES_MAX: Final = 256 * 1024
"""A larger batch travels alone: packing copies it."""
_EARLY_MS: Final = 2
_FREE_BUILDERS_MAX: Final = 256


class BatchCollector:
    """The open builders of one source process. Used by one thread.

    A builder is handed over when it is full, when the hour changes, or when it is
    `batch_age_ms` old; after a quiet time it does not wait that long, so that a lone
    message is on its way at once. All open builders go together, the small ones packed.
    `on_handed_over` gets the workspace and schema of each batch, and its ticket.
    """

    def __init__(
        self,
        taker: BatchTaker,
        source_id: str,
        clock: Clock,
        *,
        batch_bytes_max: int,
        batch_age_ms: int,
        builder_bytes_total_max: int,
        on_handed_over: Callable[[Sequence[tuple[int, int]], Sequence[Ticket]], None] | None = None,
    ) -> None:
        self._taker = taker
        self._source_id = source_id
        self._clock = clock
        self._batch_bytes_max = batch_bytes_max
        self._batch_age_ms = batch_age_ms
        self._builder_bytes_total_max = builder_bytes_total_max
        self._on_handed_over = on_handed_over
        self._open: dict[tuple[int, int], BatchBuilder] = {}
        self._free: list[BatchBuilder] = []
        self._handed_over_at_ms = clock.monotonic_ms() - batch_age_ms
        self._due_at_ms = 0
        self.batches = 0
        self.held_bytes = 0
        """What all buffers weigh together."""

    def take(self, run: MessageRun, peer_ip: Bytes, trust_source_ip: bool) -> None:
        """Copy every message of a checked run that is ok; blocks while the taker does."""
        now_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        for group in run.groups():
            place = 0
            while place < len(group.selected):
                builder = self._builder_for(group, now_ms, monotonic_ms)
                held_before = builder.held_bytes
                place = builder.append(
                    run,
                    group.selected,
                    place,
                    received_at_ms=now_ms,
                    monotonic_ms=monotonic_ms,
                    peer_ip=peer_ip,
                    trust_source_ip=trust_source_ip,
                )
                self.held_bytes += builder.held_bytes - held_before
                if place < len(group.selected) or builder.is_full:
                    self._hand_over([(group.workspace_id, group.schema_type)])

    def _builder_for(self, group: MessageGroup, now_ms: int, monotonic_ms: int) -> BatchBuilder:
        key = (group.workspace_id, group.schema_type)
        builder = self._open.get(key)
        if builder is not None and not builder.takes_hour_of(now_ms):
            self._hand_over([key])
            builder = None
        if builder is None:
            if self.held_bytes > self._builder_bytes_total_max:
                self.flush()
            if not self._open:
                quiet_until_ms = self._handed_over_at_ms + self._batch_age_ms
                self._due_at_ms = min(
                    monotonic_ms + self._batch_age_ms,
                    max(monotonic_ms + _EARLY_MS, quiet_until_ms),
                )
            if self._free:
                builder = self._free.pop()
                builder.reopen(*key)
            else:
                builder = BatchBuilder(*key, self._source_id, self._batch_bytes_max)
                self.held_bytes += builder.held_bytes
            self._open[key] = builder
        return builder

    def is_open(self, key: tuple[int, int]) -> bool:
        """Whether something of this workspace and schema waits to be handed over."""
        return key in self._open

    def due_in_ms(self) -> int | None:
        """How long until `hand_over_due` has something to do; None with nothing open."""
        if not self._open:
            return None
        return max(self._due_at_ms - self._clock.monotonic_ms(), 0)

    def hand_over_due(self) -> None:
        """Hand over everything that is open, if it is time."""
        if self._open and self._clock.monotonic_ms() >= self._due_at_ms:
            self.flush()

    def flush(self) -> None:
        """Hand over everything that is open, now; empty-handed it does nothing."""
        small: list[tuple[int, int]] = []
        for key, builder in list(self._open.items()):
            if builder.record_bytes > _PACKED_BATCH_BYTES_MAX:
                self._hand_over([key])
            else:
                small.append(key)
        for first in range(0, len(small), PACK_BATCHES_MAX):
            self._hand_over(small[first : first + PACK_BATCHES_MAX])
        while self._free and (
            len(self._free) > _FREE_BUILDERS_MAX
            or self.held_bytes > self._builder_bytes_total_max // 2
        ):
            self.held_bytes -= self._free.pop(0).held_bytes

    def _hand_over(self, keys: list[tuple[int, int]]) -> None:
        builders = [self._open.pop(key) for key in keys]
        tickets: Sequence[Ticket]
        if len(builders) == 1:
            tickets = [self._taker.submit(builders[0].build())]
        else:
            tickets = self._taker.submit_packed([builder.build() for builder in builders])
        if self._on_handed_over is not None:
            self._on_handed_over(keys, tickets)
        self._handed_over_at_ms = self._clock.monotonic_ms()
        self.batches += len(builders)
        self._free.extend(builders)
