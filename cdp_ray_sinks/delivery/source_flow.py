"""What went through one producer: totals, and how long batches waited to be durable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.latency import LatencyHistogram


class SourceFlow:
    """Totals since the producer began; its caller holds the producer's lock."""

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.record_bytes = 0
        self.latency = LatencyHistogram()

    def take(self, headers: Sequence[BatchHeader]) -> None:
        """Count batches that were submitted."""
        self.batches += len(headers)
        for header in headers:
            self.events += header.event_count
            self.record_bytes += header.record_bytes

    def report(self) -> dict[str, Any]:
        """Plain data, for `status`."""
        return {
            "batches": self.batches,
            "events": self.events,
            "bytes": self.record_bytes,
            "latency": self.latency.counts(),
        }


NO_FLOW: Final = {**SourceFlow().report(), "lag_s": 0.0}
"""Of a source that has not begun."""
