"""How long things took, counted into buckets: cheap to add to, and two counts subtract."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BOUNDS_S: Final = tuple(
    round(step * 10.0**power, 9) for power in range(-3, 2) for step in (1, 1.5, 2, 3, 5, 7)
)
"""Upper bounds of the buckets, 1 ms to 70 s, in seconds; one more takes what is longer."""


class LatencyHistogram:
    """Counts of latencies since it was made. One thread adds, any reads."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)

    def add(self, latency_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS_S, latency_s)] += 1

    def counts(self) -> list[int]:
        """How many fell into each bucket; one bucket more than there are bounds."""
        return list(self._counts)


def bucket_value_s(bucket: int) -> float:
    """A latency that stands for those of a bucket: its middle, or the last bound."""
    if bucket >= len(BOUNDS_S):
        return BOUNDS_S[-1] * 1.5
    return (BOUNDS_S[bucket] + (BOUNDS_S[bucket - 1] if bucket else 0.0)) / 2


def quantile_s(counts: Sequence[int], share: float) -> float | None:
    """Below which latency `share` of them are, in seconds; None if there are none.

    Within a bucket they are taken to be spread evenly. What is longer than the last bound
    counts as that.
    """
    total = sum(counts)
    if not total:
        return None
    left = share * total
    for bucket, count in enumerate(counts[: len(BOUNDS_S)]):
        if count and left <= count:
            low = BOUNDS_S[bucket - 1] if bucket else 0.0
            return low + (BOUNDS_S[bucket] - low) * left / count
        left -= count
    return BOUNDS_S[-1]


def added(histograms: Sequence[Sequence[int]]) -> list[int]:
    """Several histograms' counts together."""
    return [sum(column) for column in zip(*histograms, strict=True)]
