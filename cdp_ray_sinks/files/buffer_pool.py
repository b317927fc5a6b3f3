"""Preallocated buffers for bytes that must be serialised before they are written."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes


class _Counts:
    """What one thread did; each thread counts in its own, so that none is lost."""

    __slots__ = ("drops", "hits", "misses", "returns")

    def __init__(self) -> None:
        self.hits = self.misses = self.returns = self.drops = 0


class BufferPool:
    """Lends `count` buffers of `buffer_bytes` each; any thread may get and put.

    Neither call ever waits: an empty pool allocates a buffer, which is dropped when it
    comes back. The last one returned is lent first, so buffers that a quiet process
    never needs stay untouched by memory. The pool holds at most count x buffer_bytes.
    """

    def __init__(self, count: int, buffer_bytes: int) -> None:
        if count < 1 or buffer_bytes < 1:
            raise ValueError(f"a pool of {count} buffers of {buffer_bytes} bytes holds nothing")
        self.count = count
        self.buffer_bytes = buffer_bytes
        # The pool keeps its buffers alive, so that no other object can have their id.
        self._owned = [np.empty(buffer_bytes, np.uint8) for _ in range(count)]
        self._free = deque(self._owned)
        self._lent: set[int] = set()
        self._counts: deque[_Counts] = deque()
        self._of_thread = threading.local()

    def get(self) -> Bytes:
        """A buffer of `buffer_bytes` whose content is anything; give it back with `put`."""
        counts = self._counts_here()
        try:
            buffer = self._free.pop()
        except IndexError:
            counts.misses += 1
            return np.empty(self.buffer_bytes, np.uint8)
        self._lent.add(id(buffer))
        counts.hits += 1
        return buffer

    def put(self, buffer: Bytes) -> bool:
        """Give a buffer back; False if it was dropped: not the pool's, or back already.

        The caller and everyone it showed the buffer to must be done with it.
        """
        try:
            # One step of the interpreter: of two threads that return it, one fails.
            self._lent.remove(id(buffer))
        except KeyError:
            self._counts_here().drops += 1
            return False
        self._free.append(buffer)
        self._counts_here().returns += 1
        return True

    @property
    def available(self) -> int:
        """Buffers that can be had now without allocating."""
        return len(self._free)

    @property
    def hits(self) -> int:
        """Gets that found a buffer."""
        return sum(counts.hits for counts in self._counts.copy())

    @property
    def misses(self) -> int:
        """Gets that had to allocate."""
        return sum(counts.misses for counts in self._counts.copy())

    @property
    def returns(self) -> int:
        """Buffers that came back into the pool."""
        return sum(counts.returns for counts in self._counts.copy())

    @property
    def drops(self) -> int:
        """Buffers that came back and were let go."""
        return sum(counts.drops for counts in self._counts.copy())

    @property
    def hit_rate(self) -> float:
        """Share of gets that found a buffer; 1.0 before the first."""
        hits, misses = self.hits, self.misses
        return hits / (hits + misses) if hits + misses else 1.0

    def _counts_here(self) -> _Counts:
        try:
            counts: _Counts = self._of_thread.counts
        except AttributeError:
            counts = self._of_thread.counts = _Counts()
            self._counts.append(counts)
        return counts
