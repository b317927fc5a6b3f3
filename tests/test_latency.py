"""Latencies in buckets: none is lost, quantiles are within a bucket, counts subtract and add."""

from __future__ import annotations

import pytest

from cdp_ray_sinks.latency import BOUNDS_S, LatencyHistogram, added, bucket_value_s, quantile_s


def test_every_latency_is_in_the_bucket_whose_bounds_hold_it() -> None:
    """Bounds rise, belong to the bucket below them, and what is longer has a bucket too."""
    assert list(BOUNDS_S) == sorted(set(BOUNDS_S))
    for bucket, bound in enumerate([*BOUNDS_S, 1e6]):
        histogram = LatencyHistogram()
        histogram.add(bound)
        assert histogram.counts().index(1) == bucket
        histogram.add(bucket_value_s(bucket))
        assert histogram.counts()[bucket] == 2


def test_quantiles_are_within_the_bucket() -> None:
    """Half below, one in a hundred above; nothing of nothing."""
    histogram = LatencyHistogram()
    assert quantile_s(histogram.counts(), 0.5) is None
    for millisecond in range(1, 1001):
        histogram.add(millisecond / 1000)
    assert quantile_s(histogram.counts(), 0.5) == pytest.approx(0.5, rel=0.02)
    assert quantile_s(histogram.counts(), 0.99) == pytest.approx(0.99, rel=0.02)
    assert quantile_s(histogram.counts(), 0.0) is not None
    histogram = LatencyHistogram()
    histogram.add(1e9)
    assert quantile_s(histogram.counts(), 0.5) == BOUNDS_S[-1]


def test_counts_of_several_add_up() -> None:
    """Lanes and routers are shown together."""
    one, other = LatencyHistogram(), LatencyHistogram()
    one.add(0.001)
    other.add(0.001)
    other.add(50.0)
    together = added([one.counts(), other.counts()])
    assert sum(together) == 3
    assert together[0] == 2
