"""Check what landed against what was sent, by the running numbers in the payloads alone.

A synthetic payload begins `{"n":<number>`, decimal, followed by `,` or `}`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.memory import address_of, load_u8, load_u32

NUMBER_COUNT_MAX: Final = 2**32

_PREFIX = int.from_bytes(b'{"n"', "little")
_COLON = ord(":")
_DIGITS_MAX = 18


@njit(nogil=True, cache=True)
def _number_of(payloads: int, start: Any, end: Any) -> int:
    """The running number of the payload at [start, end), -1 if it has none."""
    if end - start < 7 or load_u32(payloads, start) != _PREFIX:
        return -1
    if load_u8(payloads, start + 4) != _COLON:
        return -1
    first = start + 5
    place = first
    number = 0
    while place < end and place - first < _DIGITS_MAX:
        digit = load_u8(payloads, place) - 48
        if digit < 0 or digit > 9:
            break
        number = 10 * number + digit
        place += 1
    if place in (first, end):
        return -1
    if place - first > 1 and load_u8(payloads, first) == 48:
        return -1
    behind = load_u8(payloads, place)
    if behind != 44 and behind != 125:
        return -1
    return number


@njit(nogil=True, cache=True)
def count_numbers(payloads: Any, offsets: Any, is_seen: Any) -> tuple[int, int]:
    """Mark in `is_seen` (u8) the number of each payload; returns (repeated, foreign).

    Payload i is payloads[offsets[i]:offsets[i + 1]]. `repeated` counts the payloads whose
    number was marked already, `foreign` those without a number below len(is_seen), or
    whose offsets do not lie in order inside `payloads`.
    """
    base = address_of(payloads)
    repeated, foreign = 0, 0
    for row in range(len(offsets) - 1):
        start, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        number = -1
        if 0 <= start <= end <= len(payloads):
            number = _number_of(base, start, end)
        if number < 0 or number >= len(is_seen):
            foreign += 1
        elif is_seen[number]:
            repeated += 1
        else:
            is_seen[number] = 1
    return repeated, foreign


class RunningNumbers:
    """Which of the numbers 0 .. count - 1 have been seen, at one byte each.

    `duplicated` counts payloads seen again, `foreign` payloads that carry no number in
    that range. Raises ValueError for a count that is negative or above NUMBER_COUNT_MAX.
    """

    def __init__(self, count: int) -> None:
        if not 0 <= count <= NUMBER_COUNT_MAX:
            raise ValueError(f"can't check {count} numbers; 0 to {NUMBER_COUNT_MAX} are possible")
        self._is_seen: NDArray[np.uint8] = np.zeros(count, np.uint8)
        self.duplicated = 0
        self.foreign = 0

    def add(self, payloads: pa.Array | pa.ChunkedArray) -> None:
        """Take a column of payloads, of a binary or string type; nulls are foreign."""
        if isinstance(payloads, pa.ChunkedArray):
            for chunk in payloads.chunks:
                self.add(chunk)
            return
        if len(payloads) == 0:
            return
        content, offsets = payload_buffers(payloads)
        repeated, foreign = count_numbers(content, offsets, self._is_seen)
        self.duplicated += int(repeated)
        self.foreign += int(foreign)

    def add_numbers(self, numbers: NDArray[np.uint64]) -> None:
        """Take numbers that are read already."""
        inside = numbers[numbers < len(self._is_seen)]
        self.foreign += len(numbers) - len(inside)
        different = np.unique(inside)
        self.duplicated += len(inside) - len(different)
        self.duplicated += int(np.count_nonzero(self._is_seen[different]))
        self._is_seen[different] = 1

    @property
    def missing(self) -> int:
        """How many numbers have not been seen."""
        return self.missing_in(0, len(self._is_seen))

    def missing_in(self, start: int, end: int) -> int:
        """How many of the numbers start .. end - 1 have not been seen."""
        return end - start - int(np.count_nonzero(self._is_seen[start:end]))

    def first_missing(
        self, count_max: int = 10, start: int = 0, end: int | None = None
    ) -> list[int]:
        """The lowest numbers from start to end - 1 that have not been seen."""
        return [start + int(n) for n in np.flatnonzero(self._is_seen[start:end] == 0)[:count_max]]


def payload_buffers(column: pa.Array) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Bytes and offsets of a binary or string column, nothing copied; int64 or int32."""
    is_large = pa.types.is_large_binary(column.type) or pa.types.is_large_string(column.type)
    if not (is_large or pa.types.is_binary(column.type) or pa.types.is_string(column.type)):
        column, is_large = column.cast(pa.binary()), False
    _, offsets_buffer, content_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64 if is_large else np.int32)
    offsets = offsets[column.offset : column.offset + len(column) + 1]
    content = (
        np.zeros(0, np.uint8) if content_buffer is None else np.frombuffer(content_buffer, np.uint8)
    )
    return readonly(content), readonly(offsets)


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    for kind in (pa.binary(), pa.large_binary()):
        RunningNumbers(1).add(pa.array([b'{"n":0}'], kind))
