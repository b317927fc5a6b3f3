"""The batches that are measured with: synthetic, distinct, built beforehand."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.sources.base import SourceContext, Ticket
from cdp_ray_sinks.sources.registry import load_source_config


class _Done:
    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        return {}


class _Keeper:
    """A taker that keeps copies."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def submit(self, batch: Batch) -> Ticket:
        self.batches.append(
            Batch(batch.header, batch.records.copy(), batch.offsets.copy(), batch.pattern_ids)
        )
        return _Done()

    def submit_packed(self, batches: Sequence[Batch]) -> list[Ticket]:
        return [self.submit(batch) for batch in batches]


def synthetic_batches(events: int, shape: str, batch_events: int) -> list[Batch]:
    """Batches of the synthetic source with running numbers 0 to events - 1."""
    config = load_source_config(
        "synthetic", {"events": events, "shape": shape, "batch_events": batch_events}
    )
    keeper = _Keeper()
    config.build(SourceContext("bench")).run(keeper, threading.Event())
    return keeper.batches


def moved(batches: Sequence[Batch], workspace_id: int) -> list[Batch]:
    """The same batches for another workspace."""
    return [
        Batch(b.header._replace(workspace_id=workspace_id), b.records, b.offsets, b.pattern_ids)
        for b in batches
    ]
