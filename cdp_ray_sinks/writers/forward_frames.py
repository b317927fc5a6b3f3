"""Batches to frames for another collector: its key and the client's address in each message.

Data is not touched. Small messages are copied behind their new envelopes; of large ones only
the envelopes are made, and sent together with slices of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.rewrap import (
    DATA_TOO_LARGE,
    PREFIX_BYTES,
    envelope_template,
    rewrap_records,
)

SLICED_BYTES_MIN: Final = 32 * 1024
"""Messages of so many bytes on average are sent as slices: copying them would cost more."""


class Wrapped(NamedTuple):
    """The frames of a batch, in pieces to be sent one after the other.

    `refused` are the places of messages that can't be sent, and why. Good until the next
    batch is wrapped, and as long as the batch's own buffers are.
    """

    pieces: Sequence[memoryview]
    frame_bytes: int
    frame_count: int
    refused: Sequence[tuple[int, str]]


class FrameWrapper:
    """Makes frames under one key of 16 bytes; its buffers are used again and again."""

    def __init__(
        self,
        key: bytes,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        sliced_bytes_min: int = SLICED_BYTES_MIN,
    ) -> None:
        self._template = envelope_template(key)
        self._frame_bytes_max = frame_bytes_max
        self._sliced_bytes_min = sliced_bytes_min
        self._out: Bytes = np.empty(0, np.uint8)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        self._data: NDArray[np.int64] = np.empty((0, 2), np.int64)

    def wrap(self, batch: Batch, *, is_sliceable: bool) -> Wrapped:
        """The frames of a batch whose offsets fit; in one piece unless `is_sliceable`."""
        count = len(batch.offsets) - 1
        is_copied = not is_sliceable or len(batch.records) < count * self._sliced_bytes_min
        room = PREFIX_BYTES * count + (len(batch.records) if is_copied else 0)
        if room > len(self._out):
            self._out = np.empty(max(room, 2 * len(self._out)), np.uint8)
        if count > len(self._ends):
            self._ends, self._data = np.empty(count, np.int64), np.empty((count, 2), np.int64)
        out_bytes = int(
            rewrap_records(
                readonly(batch.records),
                readonly(batch.offsets.view(np.int64)),
                self._template,
                self._frame_bytes_max,
                is_copied,
                self._out,
                self._ends,
                self._data,
            )
        )
        data = self._data[:count]
        bad = np.flatnonzero(data[:, 0] < 0).tolist()
        refused = [(place, self._reason(int(data[place, 0]))) for place in bad]
        out = self._out.data
        if is_copied:
            return Wrapped([out[:out_bytes]], out_bytes, count - len(bad), refused)
        frame_bytes = out_bytes + int(data[:, 1].sum())
        return Wrapped(self._sliced(batch, out), frame_bytes, count - len(bad), refused)

    def _sliced(self, batch: Batch, out: memoryview) -> list[memoryview]:
        """Envelope, data, envelope, data: views of `out` and of the batch."""
        pieces, records = [], batch.records.data
        ends = self._ends[: len(batch.offsets) - 1].tolist()
        places = self._data[: len(ends)].tolist()
        for end, (start, data_bytes) in zip(ends, places, strict=True):
            if start >= 0:
                pieces += [out[end - PREFIX_BYTES : end], records[start : start + data_bytes]]
        return pieces

    def _reason(self, status: int) -> str:
        if status == DATA_TOO_LARGE:
            return (
                f"larger than the {self._frame_bytes_max} bytes of a frame under its new envelope"
            )
        return "its envelope is not valid, so it can't be given another"
