"""Rows are put in the order of their times, and those that have it are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.kernels.time_order import DIGITS, order_by_time, time_range

TIMES = st.one_of(
    st.integers(0, 2**63 - 1),
    st.integers(1_700_000_000_000, 1_700_000_003_000),
    st.sampled_from([0, 1, 2**62, 2**63 - 1]),
)


def order_of(times: list[int]) -> list[int]:
    """What the kernel makes of them."""
    values = np.array(times, np.int64)
    lowest, highest, _ = time_range(values, len(values))
    order, other = (np.empty(len(values), np.uint32) for _ in range(2))
    digits = np.empty(DIGITS, np.uint32)
    is_first = order_by_time(values, len(values), lowest, highest, order, other, digits)
    return (order if is_first else other).tolist()


@given(st.lists(TIMES, min_size=1, max_size=200))
def test_the_order_is_that_of_a_stable_sort(times: list[int]) -> None:
    """Equal times stay as they came, however far apart the others are."""
    assert order_of(times) == sorted(range(len(times)), key=times.__getitem__)


@given(st.lists(TIMES, min_size=1, max_size=50))
def test_the_range_tells_whether_there_is_anything_to_do(times: list[int]) -> None:
    """Lowest, highest, and whether they never fall."""
    lowest, highest, is_sorted = time_range(np.array(times, np.int64), len(times))
    assert (lowest, highest) == (min(times), max(times))
    assert is_sorted == (times == sorted(times))


@pytest.mark.parametrize("span", [1, 2_000, 3_600_000, 2**40, 2**62])
def test_many_rows_are_ordered(span: int) -> None:
    """A row group of them, over a second, an hour, and absurd ranges."""
    times = np.random.default_rng(span).integers(0, span, 100_000).tolist()
    order = order_of(times)
    assert [times[row] for row in order] == sorted(times)
    assert sorted(order) == list(range(len(times)))
