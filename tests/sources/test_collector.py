"""When open batches are handed over, and in whose company."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.sources.collector import PACK_BATCHES_MAX, BatchCollector

PEER = np.zeros(16, np.uint8)


class StepClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at_ms = 1_000_000

    def now_ms(self) -> int:
        return 1_700_000_000_000 + self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms

    def sleep_ms(self, duration_ms: int) -> None:
        self.at_ms += duration_ms


def collector_of(taker: Any, clock: StepClock, **options: int) -> BatchCollector:
    settings = {"batch_bytes_max": 1 << 20, "batch_age_ms": 20, "builder_bytes_total_max": 1 << 26}
    return BatchCollector(taker, "src", clock, **{**settings, **options})


def take(collector: BatchCollector, message: bytes, workspace_id: int = 1, count: int = 1) -> None:
    """The message `count` times, of that workspace."""
    run = MessageRun(count)
    stream = (struct.pack(">I", len(message)) + message) * count
    run.index(np.frombuffer(stream, np.uint8), 0, len(stream), 1 << 24)
    run.check(workspace_id=workspace_id)
    collector.take(run, PEER, False)


def test_after_a_quiet_time_a_message_does_not_wait(taker: Any, wire: Any) -> None:
    """A lone message goes after 2 ms, those right behind it share the next batch."""
    clock = StepClock()
    collector = collector_of(taker, clock)
    assert collector.due_in_ms() is None
    take(collector, wire.message())
    assert collector.due_in_ms() == 2
    clock.at_ms += 2
    collector.hand_over_due()
    assert len(taker.batches) == 1
    for waited_ms in range(20):
        assert collector.due_in_ms() in (None, 20 - waited_ms)
        collector.hand_over_due()
        take(collector, wire.message())
        clock.at_ms += 1
    collector.hand_over_due()
    assert [batch.header.message_count for batch in taker.batches] == [1, 20]


def test_under_load_nothing_is_handed_over_early(taker: Any, wire: Any) -> None:
    """Full batches go when full; what is left does not go 2 ms later."""
    clock = StepClock()
    collector = collector_of(taker, clock, batch_bytes_max=64 * 1024)
    message = wire.message()
    per_batch = 64 * 1024 // (len(message) + 28)
    for _ in range(50):
        take(collector, message, count=per_batch // 4)
        clock.at_ms += 1
        collector.hand_over_due()
    assert len(taker.batches) in (12, 13, 14)
    assert sum(1 for b in taker.batches if b.header.message_count == per_batch) >= 11


def test_small_batches_travel_together_and_large_ones_alone(taker: Any, wire: Any) -> None:
    """All open builders go at once: many workspaces cost few objects."""
    clock = StepClock()
    collector = collector_of(taker, clock)
    for workspace_id in range(1, 601):
        take(collector, wire.message(), workspace_id)
    take(collector, wire.message(payloads=[b"x" * 300_000]), 601)
    clock.at_ms += 20
    collector.hand_over_due()
    assert sorted(taker.packs) == [1, 600 - 2 * PACK_BATCHES_MAX, *[PACK_BATCHES_MAX] * 2]
    assert {b.header.workspace_id for b in taker.batches} == set(range(1, 602))
    assert collector.batches == 601


def test_all_builders_together_are_bounded(taker: Any, wire: Any) -> None:
    """Past the bound everything open is handed over and memory is let go."""
    clock = StepClock()
    collector = collector_of(taker, clock, builder_bytes_total_max=1 << 20)
    for workspace_id in range(1, 2001):
        take(collector, wire.message(), workspace_id)
        assert collector.held_bytes < 1.1 * (1 << 20)
    collector.flush()
    assert taker.events == 2000


def test_buffers_are_used_again(taker: Any, wire: Any) -> None:
    """A thousand rounds over the same workspaces hold no more than the first."""
    clock = StepClock()
    collector = collector_of(taker, clock)
    held = 0
    for turn in range(1000):
        for workspace_id in (1, 2, 3):
            take(collector, wire.message(), workspace_id)
        collector.flush()
        held = held or collector.held_bytes
        assert collector.held_bytes == held, turn
    assert taker.events == 3000
