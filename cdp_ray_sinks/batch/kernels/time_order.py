"""Rows in the order of their times: are they already, and if not, which goes where."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.memory import address_of, load_i64, load_u32, store_u32

DIGIT_BITS: Final = 11
DIGITS: Final = 1 << DIGIT_BITS


@njit(nogil=True, cache=True)
def time_range(times: Any, rows: int) -> tuple[int, int, bool]:
    """(lowest, highest, whether no time is below the one before it); needs a row."""
    lowest, highest, falls = times[0], times[0], 0
    for row in range(1, rows):
        falls += times[row] < times[row - 1]
        lowest, highest = min(lowest, times[row]), max(highest, times[row])
    return lowest, highest, falls == 0


@njit(nogil=True, cache=True)
def order_by_time(
    times: Any, rows: int, lowest: int, highest: int, order: Any, other: Any, counts: Any
) -> bool:
    """Sort by digits, equal times in the order they have; False if the order is in `other`.

    `order` and `other` are uint32[rows], `counts` uint32[DIGITS].
    """
    keys, source, target = address_of(times), address_of(order), address_of(other)
    for row in range(rows):
        store_u32(source, 4 * row, row)
    shift, is_order = 0, True
    while shift < 63 and (highest - lowest) >> shift > 0:
        counts[:] = 0
        for row in range(rows):
            counts[((load_i64(keys, 8 * row) - lowest) >> shift) & (DIGITS - 1)] += 1
        before = np.uint32(0)
        for digit in range(DIGITS):
            count = counts[digit]
            counts[digit] = before
            before += count
        for place in range(rows):
            row = load_u32(source, 4 * place)
            digit = ((load_i64(keys, 8 * row) - lowest) >> shift) & (DIGITS - 1)
            to: Any = np.int64(counts[digit])
            store_u32(target, 4 * to, row)
            counts[digit] += 1
        source, target, is_order = target, source, not is_order
        shift += DIGIT_BITS
    return is_order


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    times = np.array([2, 1], np.int64)
    lowest, highest, _ = time_range(times, 2)
    rows = [np.zeros(2, np.uint32) for _ in range(2)]
    order_by_time(times, 2, lowest, highest, rows[0], rows[1], np.zeros(DIGITS, np.uint32))
