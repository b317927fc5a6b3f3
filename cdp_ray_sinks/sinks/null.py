"""The null sink: maps each batch, counts it and lets it go."""

from __future__ import annotations

from typing import Literal

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.sinks.base import SinkConfig, SinkContext


class NullConfig(SinkConfig):
    """Options of the null sink; it has none of its own."""

    type: Literal["null"] = "null"

    def build(self, context: SinkContext) -> NullSink:
        """A null sink."""
        return NullSink()


class NullSink:
    """Counts what it is given; durable means mapped and counted."""

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.record_bytes = 0

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Count the batch, and read its last offset so that it really is mapped."""
        if int(batch.offsets[-1]) != len(batch.records):
            raise ValueError(f"batch {batch.header.batch_id}: offsets do not end at the records")
        self.batches += 1
        self.events += batch.header.event_count
        self.record_bytes += len(batch.records)

    def flush(self) -> None:
        """Nothing is buffered."""

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Nothing depends on time."""

    def close(self) -> None:
        """Nothing to release."""
