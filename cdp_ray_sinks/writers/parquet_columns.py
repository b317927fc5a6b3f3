"""Decoded events and log entries as the columns of their Parquet files, sorted by time.

What the decoder made is used where it lies: only what is of another form in a file is made
anew, and rows are moved only if they are not in order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdp_ray_sinks.batch.decode_buffers import DecodeBuffers
from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.column_values import (
    ADDRESS_TEXT_BYTES,
    ADDRESSES_MAX,
    ID_TEXT_BYTES,
    TOO_MANY,
    gather_ids,
    gather_numbers,
    gather_texts,
    mark_ill_formed,
    number_addresses,
    number_words,
    put_addresses,
    put_ids,
)
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX, SLOTS
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES
from cdp_ray_sinks.batch.kernels.time_order import DIGITS, order_by_time, time_range
from cdp_ray_sinks.batch.kernels.utf8 import is_ascii
from cdp_ray_sinks.writers.parquet_schemas import (
    EVENT_TYPES,
    LEVELS,
    LOG_EVENT_TYPES,
    TIME_MS,
    TIME_MS_MAX,
    WORDS,
)

_ID: Final = pa.binary(ID_BYTES)
_WORD_BYTES: Final = 64 * 1024
_NULLS: Final = 1 << 17
_NUMBERS: Final[dict[pa.DataType, Any]] = {
    pa.uint8(): np.uint8,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
}
_NO_BITS: Final = readonly(np.zeros(0, np.uint8))
_NAMES: Final = {
    ("events", "event_type"): pa.array(EVENT_TYPES),
    ("logs", "event_type"): pa.array(LOG_EVENT_TYPES),
    ("logs", "level"): pa.array(LEVELS),
}


def sorted_columns(
    stream: str,
    rows: pa.RecordBatch,
    workspace_id: int,
    schema: pa.Schema,
    buffers: DecodeBuffers,
) -> pa.RecordBatch:
    """The rows of the decoder of events or logs, at least one, as those of a file's schema.

    Sorted by time, those without a time last, equal ones as they came. `buffers` are those
    the rows are in, and the result is good until their next use.
    """
    return _Columns(stream, rows, buffers).sorted(workspace_id, schema)


class _Columns:
    """One table on its way from the decoder's form to the file's."""

    def __init__(self, stream: str, rows: pa.RecordBatch, buffers: DecodeBuffers) -> None:
        self._stream = stream
        self._rows = rows
        self._count = rows.num_rows
        self._buffers = buffers
        self._order: NDArray[np.uint32] | None = None

    def sorted(self, workspace_id: int, schema: pa.Schema) -> pa.RecordBatch:
        found = dict(zip(("timestamp", "timestamp_raw"), self._times(), strict=True))
        found["batch_timestamp"] = self._received()
        workspaces = self._array("workspace_id", np.int64, self._count)
        workspaces[:] = workspace_id
        found["workspace_id"] = pa.array(workspaces)
        found["source_ip"] = self._addresses()
        found["payload"], found["payload_bytes"] = self._payloads()
        for field in schema:
            if field.name not in found:
                found[field.name] = self._own(field)
        return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)

    def _own(self, field: pa.Field) -> pa.Array:
        """A column that is called the same in both."""
        values = self._rows.column(field.name)
        if values.type == _ID:
            return self._id(field.name, values, field.type)
        if values.type == pa.uint8():
            numbers = self._moved(field.name, values, pa.int32())
            return _dictionary(numbers, _NAMES[self._stream, field.name])
        if values.type == pa.utf8():
            values = self._words(field.name, values)
        return _dictionary(self._moved(field.name, values.indices), values.dictionary)

    def _array(self, name: str, kind: Any, count: int) -> NDArray[Any]:
        return self._buffers.further(name, kind, count)

    def _times(self) -> tuple[pa.Array, pa.Array]:
        """`timestamp` and `timestamp_raw`; finds the order of the rows."""
        count, values = self._count, self._rows.column("timestamp")
        times = _numbers(values, np.int64)
        lowest, highest, is_sorted = time_range(times, count)
        raw = _nulls(pa.int64(), count)
        if highest > TIME_MS_MAX:
            is_late = times > TIME_MS_MAX
            values, raw = pa.array(times, mask=is_late), pa.array(times, mask=~is_late)
            times, highest = readonly(np.minimum(times, TIME_MS_MAX + 1)), TIME_MS_MAX + 1
        if not is_sorted:
            order, other = (self._array(name, np.uint32, count) for name in ("order", "other"))
            digits = np.empty(DIGITS, np.uint32)
            is_first = order_by_time(times, count, lowest, highest, order, other, digits)
            self._order = order if is_first else other
        return self._moved("timestamp", values).view(TIME_MS), self._moved("timestamp_raw", raw)

    def _received(self) -> pa.Array:
        values = self._rows.column("received_at_ms")
        times = _numbers(values, np.int64)
        lowest, highest, _ = time_range(times, self._count)
        if lowest < 0 or highest > TIME_MS_MAX:
            values = pa.array(times, mask=(times < 0) | (times > TIME_MS_MAX))
        if lowest != highest:
            values = self._moved("batch_timestamp", values)
        return values.view(TIME_MS)

    def _addresses(self) -> pa.DictionaryArray:
        """The addresses as a dictionary of texts."""
        values = self._rows.column("source_ip")
        numbers = self._array("addresses", np.int32, self._count)
        known, slots = np.empty(2 * ADDRESSES_MAX, np.uint64), np.zeros(SLOTS, np.int32)
        count = number_addresses(_bytes(values), self._count, numbers, known, slots)
        addresses, indices = readonly(known.view(np.uint8)), pa.array(numbers)
        if count == TOO_MANY:
            encoded = values.dictionary_encode()
            count, indices = len(encoded.dictionary), encoded.indices
            addresses = _bytes(encoded.dictionary)
        offsets = np.empty(count + 1, np.int32)
        text = np.empty(count * ADDRESS_TEXT_BYTES, np.uint8)
        put_addresses(addresses, count, offsets, text)
        if count > 1:
            indices = self._moved("source_ip", indices)
        return _dictionary(indices, _texts(count, offsets, text))

    def _payloads(self) -> tuple[pa.Array, pa.Array]:
        """Those that are UTF-8 as text, the others as bytes; one is null where the other is not."""
        payloads = self._rows.column("payload")
        bounds, (validity, offsets, text) = _offsets(payloads), payloads.buffers()
        if self._order is None:
            is_plain = is_ascii(_buffer(text), int(bounds[-1]))
        else:
            payloads, is_plain = self._moved_texts("payload", payloads)
            bounds, (validity, offsets, text) = _offsets(payloads), payloads.buffers()
        if is_plain:
            parts = [validity, offsets, text]
            texts = pa.Array.from_buffers(pa.utf8(), self._count, parts, payloads.null_count)
            return texts, _nulls(pa.binary(), self._count)
        try:
            return payloads.cast(pa.utf8()), _nulls(pa.binary(), self._count)
        except pa.ArrowInvalid:
            marks = np.empty(self._count, np.bool_)
        mark_ill_formed(bounds, _buffer(text), self._count, marks)
        is_damaged, none = pa.array(marks), pa.scalar(None, pa.binary())
        texts = pc.if_else(is_damaged, none, payloads).cast(pa.utf8())
        return texts, pc.if_else(is_damaged, payloads, none)

    def _words(self, name: str, texts: pa.Array) -> pa.DictionaryArray:
        """The same texts as a dictionary."""
        if texts.null_count == self._count:
            return _nulls(WORDS, self._count)
        validity, _, text = texts.buffers()
        table = (
            np.zeros(SLOTS, np.int32),
            np.empty(2 * NAMES_MAX, np.uint64),
            np.zeros(NAMES_MAX + 1, np.int32),
            np.empty(_WORD_BYTES, np.uint8),
        )
        numbers = self._array(f"{name} numbers", np.int32, self._count)
        valid = _buffer(validity) if texts.null_count else _NO_BITS
        count = number_words(_offsets(texts), _buffer(text), valid, self._count, table, numbers)
        if count == TOO_MANY:
            return texts.dictionary_encode()
        buffers = [validity, pa.py_buffer(numbers)]
        indices = pa.Array.from_buffers(pa.int32(), self._count, buffers, texts.null_count)
        return _dictionary(indices, _texts(count, table[2], table[3]))

    def _id(self, name: str, values: pa.Array, kind: pa.DataType) -> pa.Array:
        ids = self._moved(name, values)
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, ids)
        offsets = self._array(f"{name} offsets", np.int32, self._count + 1)
        text = self._array(f"{name} text", np.uint8, ID_TEXT_BYTES * self._count + SLACK_BYTES)
        put_ids(_bytes(ids), self._count, offsets, text)
        return _texts(self._count, offsets, text, ids.buffers()[0], ids.null_count)

    def _moved(self, name: str, values: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
        """The values in the order of the times; numbers as those of another kind, if given."""
        kind, order = kind or values.type, self._order
        if order is None or values.null_count == self._count:
            return values.cast(kind)
        if kind == _ID:
            out = self._array(name, np.uint8, ID_BYTES * self._count)
            gather_ids(_bytes(values), order, out)
        else:
            out = self._array(name, _NUMBERS[kind], self._count)
            gather_numbers(_numbers(values, _NUMBERS[values.type]), order, out)
        parts = [self._moved_validity(values), pa.py_buffer(out)]
        return pa.Array.from_buffers(kind, self._count, parts, values.null_count)

    def _moved_texts(self, name: str, values: pa.Array) -> tuple[pa.Array, bool]:
        """The same for texts, and whether all are ASCII."""
        offsets, (_, _, text) = _offsets(values), values.buffers()
        starts = self._array(f"{name} offsets", np.int32, self._count + 1)
        out = self._array(name, np.uint8, int(offsets[-1]) + SLACK_BYTES)
        is_plain = gather_texts(offsets, _buffer(text), self._order, starts, out)
        parts = [self._moved_validity(values), pa.py_buffer(starts), pa.py_buffer(out)]
        moved = pa.Array.from_buffers(values.type, self._count, parts, values.null_count)
        return moved, bool(is_plain)

    def _moved_validity(self, values: pa.Array) -> pa.Buffer | None:
        if values.null_count == 0:
            return None
        return values.is_valid().take(pa.array(self._order)).buffers()[1]


@lru_cache(maxsize=8)
def _nulls_of(kind: pa.DataType) -> pa.Array:
    return pa.nulls(_NULLS, kind)


def _nulls(kind: pa.DataType, count: int) -> pa.Array:
    """Nothing but nulls; for a usual row group of memory that is made once."""
    return pa.nulls(count, kind) if count > _NULLS else _nulls_of(kind).slice(0, count)


def _numbers(values: pa.Array, kind: Any) -> NDArray[Any]:
    return readonly(np.frombuffer(values.buffers()[1], kind, len(values)))


def _offsets(values: pa.Array) -> NDArray[np.int32]:
    return readonly(np.frombuffer(values.buffers()[1], np.int32, len(values) + 1))


def _bytes(ids: pa.Array) -> NDArray[np.uint8]:
    return readonly(np.frombuffer(ids.buffers()[1], np.uint8, ID_BYTES * len(ids)))


def _buffer(buffer: pa.Buffer | None) -> NDArray[np.uint8]:
    return _NO_BITS if buffer is None else readonly(np.frombuffer(buffer, np.uint8))


def _texts(
    rows: int,
    offsets: NDArray[np.int32],
    text: NDArray[np.uint8],
    validity: pa.Buffer | None = None,
    null_count: int = 0,
) -> pa.Array:
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.utf8(), rows, buffers, null_count)


def _dictionary(indices: pa.Array, words: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(indices, words, safe=False)
