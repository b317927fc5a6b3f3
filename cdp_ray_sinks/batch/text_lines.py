"""Batches as lines of text, into buffers of any size.

One line per event or log entry, per metric, trace or snapshot message, and per message that
does not decode; what is in them, and how to tell one field from the next, is in
`kernels.text_fields` and `kernels.escape`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes, Offsets
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.text import (
    DONE,
    EVENT,
    FILLED,
    FREE_BYTES_MIN,
    FULL,
    MESSAGE,
    STATE_COUNT,
    format_lines,
)
from cdp_ray_sinks.batch.kernels.text_fields import new_memory, words
from cdp_ray_sinks.batch.kernels.text_long import format_long_line

BUFFER_BYTES_MIN: Final = 2 * FREE_BYTES_MIN

_WORDS: Final = readonly(words())
_NO_RECORDS: Final = np.zeros(0, np.uint8)
_NO_OFFSETS: Final = np.zeros(1, np.uint64)


class TextLines:
    """Formats one batch after the other. One thread at a time calls it."""

    def __init__(self) -> None:
        self._memory = new_memory()
        self._state = np.zeros(STATE_COUNT, np.int64)
        self._records: Bytes = _NO_RECORDS
        self._offsets: Offsets = _NO_OFFSETS
        self._schema_type = 0
        self._is_inside_line = False
        self.is_done = True
        """Whether all lines of the batch are written."""

    def start(self, batch: Batch) -> None:
        """Begin with a batch; its buffers must stay valid until it is done."""
        self._records, self._offsets = readonly(batch.records), readonly(batch.offsets)
        self._schema_type = batch.header.schema_type
        self._state[:] = 0
        self._is_inside_line = False
        self.is_done = False

    @property
    def place(self) -> tuple[int, int]:
        """The message, and the event in it, that is written next."""
        return int(self._state[MESSAGE]), int(self._state[EVENT])

    def fill(self, out: Bytes, filled_bytes: int = 0) -> int:
        """Write lines behind the first `filled_bytes` of `out`; returns the bytes in it then.

        Unless `is_done`, give it the next buffer: `out` has no room for another line, which
        may leave a few thousand bytes unused, or ends inside a line that is longer. Raises
        ValueError if `out` has not BUFFER_BYTES_MIN bytes.
        """
        if len(out) < BUFFER_BYTES_MIN:
            raise ValueError(f"a buffer of {len(out)} bytes; lines need {BUFFER_BYTES_MIN}")
        state = self._state
        state[FILLED] = filled_bytes
        while not self.is_done:
            if self._is_inside_line:
                answer = format_long_line(self._records, _WORDS, self._memory, out, state)
                self._is_inside_line = answer != DONE
            else:
                answer = format_lines(
                    self._records,
                    self._offsets,
                    self._schema_type,
                    _WORDS,
                    self._memory,
                    out,
                    state,
                )
                self.is_done = answer == DONE
                self._is_inside_line = answer not in (DONE, FULL)
            if answer == FULL:
                break
        if self.is_done:
            self._records, self._offsets = _NO_RECORDS, _NO_OFFSETS
        return int(state[FILLED])


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    out = np.empty(BUFFER_BYTES_MIN, np.uint8)
    memory, state = new_memory(), np.zeros(STATE_COUNT, np.int64)
    records, offsets = readonly(_NO_RECORDS), readonly(_NO_OFFSETS)
    format_lines(records, offsets, 1, _WORDS, memory, out, state)
    format_long_line(records, _WORDS, memory, out, state)
