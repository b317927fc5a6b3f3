"""The buffer pool lends, takes back, counts and never waits."""

from __future__ import annotations

import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.files.buffer_pool import BufferPool


def test_a_buffer_has_the_asked_bytes_and_is_writable() -> None:
    """What a pool lends is a flat writable byte array of its size."""
    buffer = BufferPool(2, 4096).get()
    assert (buffer.dtype, buffer.shape) == (np.uint8, (4096,))
    buffer[:] = 7
    assert int(buffer.sum()) == 7 * 4096


def test_the_pool_is_full_at_the_start() -> None:
    """All buffers exist before the first get."""
    assert BufferPool(5, 16).available == 5


def test_a_get_takes_one_and_a_put_brings_it_back() -> None:
    """`available` follows what is lent."""
    pool = BufferPool(3, 16)
    buffer = pool.get()
    assert pool.available == 2
    assert pool.put(buffer)
    assert pool.available == 3


def test_lent_buffers_do_not_overlap() -> None:
    """Two borrowers never write into the same memory."""
    pool = BufferPool(4, 64)
    buffers = [pool.get() for _ in range(6)]
    for number, buffer in enumerate(buffers):
        buffer[:] = number
    assert [set(buffer.tolist()) for buffer in buffers] == [{n} for n in range(6)]


def test_the_last_returned_buffer_is_lent_first() -> None:
    """Memory that is warm is used again, memory that was never needed stays untouched."""
    pool = BufferPool(3, 16)
    buffer = pool.get()
    pool.put(buffer)
    assert pool.get() is buffer


def test_a_found_buffer_is_a_hit() -> None:
    """Gets from a filled pool count as hits."""
    pool = BufferPool(2, 16)
    pool.get()
    pool.get()
    assert (pool.hits, pool.misses) == (2, 0)


def test_an_empty_pool_allocates_and_counts_a_miss() -> None:
    """With everything lent a get still answers at once."""
    pool = BufferPool(1, 16)
    first, second = pool.get(), pool.get()
    assert second.nbytes == 16
    assert second is not first
    assert (pool.hits, pool.misses) == (1, 1)


def test_a_surplus_buffer_is_dropped() -> None:
    """A buffer that a miss allocated does not make the pool grow."""
    pool = BufferPool(1, 16)
    owned, extra = pool.get(), pool.get()
    assert not pool.put(extra)
    assert pool.put(owned)
    assert (pool.available, pool.returns, pool.drops) == (1, 1, 1)


@pytest.mark.parametrize("foreign", [np.empty(16, np.uint8), np.empty(8, np.uint8)])
def test_a_foreign_buffer_is_dropped(foreign: np.ndarray) -> None:
    """Only what the pool lent goes back into it, whatever its size."""
    pool = BufferPool(2, 16)
    pool.get()
    assert not pool.put(foreign)
    assert (pool.available, pool.drops) == (1, 1)


def test_a_view_of_a_lent_buffer_is_not_the_buffer() -> None:
    """A slice cannot come back in place of the whole."""
    pool = BufferPool(1, 16)
    assert not pool.put(pool.get()[:8])
    assert pool.available == 0


def test_a_buffer_put_twice_goes_back_once() -> None:
    """A double return never gives one buffer to two borrowers."""
    pool = BufferPool(2, 16)
    buffer = pool.get()
    assert pool.put(buffer)
    assert not pool.put(buffer)
    assert (pool.available, pool.drops) == (2, 1)
    assert pool.get() is not pool.get()


def test_the_hit_rate_is_hits_over_gets() -> None:
    """One miss in four gets is a rate of 0.75."""
    pool = BufferPool(3, 16)
    for _ in range(4):
        pool.get()
    assert pool.hit_rate == 0.75


def test_the_hit_rate_of_an_unused_pool_is_one() -> None:
    """Nothing was missed yet."""
    assert BufferPool(1, 16).hit_rate == 1.0


def test_steady_use_hits_more_than_99_percent() -> None:
    """A borrower that returns what it takes never allocates again."""
    pool = BufferPool(2, 1024)
    for _ in range(1000):
        pool.put(pool.get())
    assert pool.hit_rate == 1.0
    assert pool.returns == 1000


def test_steady_use_allocates_no_memory() -> None:
    """A thousand gets and puts keep the traced memory flat."""
    pool = BufferPool(2, 1 << 20)
    pool.put(pool.get())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            pool.put(pool.get())
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("count", "buffer_bytes"), [(0, 16), (1, 0), (-1, 16), (1, -16)])
def test_a_pool_that_holds_nothing_is_refused(count: int, buffer_bytes: int) -> None:
    """Count and bytes must be positive, and the error names both."""
    with pytest.raises(ValueError, match=f"{count} buffers of {buffer_bytes} bytes"):
        BufferPool(count, buffer_bytes)


def test_get_never_waits_while_everything_is_lent() -> None:
    """A thousand gets from an exhausted pool end at once, though nobody returns."""
    pool = BufferPool(1, 64)
    kept = [pool.get()]
    started = time.monotonic()
    kept += [pool.get() for _ in range(1000)]
    assert time.monotonic() - started < 30
    assert pool.misses == 1000


def test_threads_never_share_a_buffer_and_lose_no_count() -> None:
    """Under contention each borrower is alone in its buffer and the counts are exact."""
    pool = BufferPool(3, 256)
    torn: list[int] = []

    def borrow(mark: int) -> None:
        for _ in range(500):
            buffer = pool.get()
            buffer[:] = mark
            if int(buffer.min()) != mark or int(buffer.max()) != mark:
                torn.append(mark)
            pool.put(buffer)

    threads = [threading.Thread(target=borrow, args=(mark,)) for mark in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert pool.hits + pool.misses == 3000
    assert pool.returns + pool.drops == 3000
    assert (pool.returns, pool.drops) == (pool.hits, pool.misses)
    assert pool.available == 3


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_any_order_of_gets_and_puts_keeps_the_books(takes: list[bool], count: int) -> None:
    """After any history the pool holds what is not lent, and the counts add up."""
    pool = BufferPool(count, 8)
    lent: list[np.ndarray] = []
    puts = 0
    for take in takes:
        if take or not lent:
            lent.append(pool.get())
        else:
            pool.put(lent.pop())
            puts += 1
    assert pool.available == count - (pool.hits - pool.returns)
    assert pool.returns + pool.drops == puts
    assert len({id(buffer) for buffer in lent}) == len(lent)
