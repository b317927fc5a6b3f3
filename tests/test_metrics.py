"""Counters of a sink."""

from __future__ import annotations

import pickle
import threading

import pytest

from cdp_ray_sinks.metrics import COUNTER_NAMES, MetricsSnapshot, SinkMetrics, hit_rate


def test_everything_starts_at_zero() -> None:
    """A sink that did nothing shows a zero for every counter, by name."""
    assert SinkMetrics().snapshot().to_dict() == dict.fromkeys(COUNTER_NAMES, 0)


def test_added_counts_show_in_the_next_snapshot() -> None:
    """What `add` was given is summed per name."""
    metrics = SinkMetrics()
    metrics.add(batches_received=2, bytes_written=100)
    metrics.add(batches_received=1, retries=4)
    snapshot = metrics.snapshot()
    assert (snapshot.batches_received, snapshot.bytes_written, snapshot.retries) == (3, 100, 4)


def test_the_hit_rate_is_over_all_lanes() -> None:
    """Lanes that lent more weigh more; a sink without buffers has no rate."""
    lanes = [{"pool_hits": 98, "pool_misses": 0}, {"pool_hits": 0, "pool_misses": 2}, {}]
    assert hit_rate(lanes) == 0.98
    assert hit_rate([{"batches": 3}, {"pool_hits": 0, "pool_misses": 0}]) is None
    assert hit_rate([]) is None


def test_a_snapshot_does_not_change_afterwards() -> None:
    """A snapshot is a picture, not a window, and cannot be written to."""
    metrics = SinkMetrics()
    before = metrics.snapshot()
    metrics.add(dropped=1)
    assert before.dropped == 0
    with pytest.raises(AttributeError):
        before.dropped = 5  # type: ignore[misc]


def test_snapshots_of_lanes_add_up() -> None:
    """The sum of two lanes has every counter of both."""
    left = MetricsSnapshot(*range(len(COUNTER_NAMES)))
    total = left + MetricsSnapshot(events_written=10)
    expected = left.to_dict() | {"events_written": left.events_written + 10}
    assert total.to_dict() == expected
    assert sum([left, left], MetricsSnapshot()) == left + left


def test_adding_something_else_is_a_type_error() -> None:
    """Only snapshots add up."""
    with pytest.raises(TypeError):
        MetricsSnapshot() + 1  # type: ignore[operator]


@pytest.mark.parametrize("counts", [{"bites_written": 1}, {"retries": -1}])
def test_an_unknown_or_negative_count_changes_nothing(counts: dict[str, int]) -> None:
    """A mistake is refused as a whole: the good names beside it are not counted either."""
    metrics = SinkMetrics()
    with pytest.raises(ValueError, match=next(iter(counts))):
        metrics.add(dropped=1, **counts)
    assert metrics.snapshot() == MetricsSnapshot()


def test_threads_lose_no_count() -> None:
    """Counting from four threads at once ends at the exact sum."""
    metrics = SinkMetrics()

    def count() -> None:
        for _ in range(2000):
            metrics.add(events_written=3, flush_count=1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot().events_written == 24_000
    assert metrics.snapshot().flush_count == 8_000


def test_a_snapshot_survives_pickling() -> None:
    """Lanes are other processes: their snapshots travel."""
    snapshot = MetricsSnapshot(retries=7)
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
