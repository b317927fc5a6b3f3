"""Batches of events and log entries as Arrow columns.

The columns are made from the kernels' outputs without copying; several batches decode into
the same columns, one behind the other. Ids that are absent or not 16 bytes long are null;
text that is not UTF-8 is repaired with U+FFFD; a message that does not decode leaves no row
and is listed instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.decode_buffers import COLUMN_BYTES_MAX, Columns, DecodeBuffers
from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels import decode_events as events
from cdp_ray_sinks.batch.kernels import decode_logs as logs
from cdp_ray_sinks.batch.kernels import event_columns
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.entries import AUTO, COLLECTOR, SDK
from cdp_ray_sinks.batch.kernels.event_columns import EventColumns
from cdp_ray_sinks.batch.kernels.rows import (
    DAMAGED,
    DONE,
    MESSAGE,
    NAMES,
    NO_DICTIONARY,
    ROWS,
    RecordColumns,
    pack_bits,
    present_in_all,
)
from cdp_ray_sinks.batch.kernels.tables import (
    BAD_FIELD,
    BAD_RECORD,
    BAD_TABLE,
    NO_ROWS,
    OVER_BUDGET,
    WRONG_SCHEMA,
)
from cdp_ray_sinks.batch.kernels.utf8 import is_ascii, repair, repaired_bytes
from cdp_ray_sinks.batch.messages import decode_metrics, decode_snapshots, decode_traces

__all__ = [
    "EVENT_SCHEMA",
    "LOG_SCHEMA",
    "DecodeBuffers",
    "DecodedRows",
    "decode_events",
    "decode_logs",
    "decode_metrics",
    "decode_snapshots",
    "decode_traces",
]

Dialect: TypeAlias = Literal["auto", "v1", "v2"]
_DIALECTS: Final = {"auto": AUTO, "v1": COLLECTOR, "v2": SDK}

REASONS: Final = {
    BAD_RECORD: "record reaches outside the batch",
    BAD_TABLE: "table or vtable reaches outside the message",
    BAD_FIELD: "field or vector reaches outside the message",
    NO_ROWS: "no entries",
    WRONG_SCHEMA: "message of another schema",
    OVER_BUDGET: "unpacks to far more than its bytes",
}

_ID: Final = pa.binary(ID_BYTES)
_RECORD_FIELDS: Final = [
    pa.field("message_index", pa.uint32(), nullable=False),
    pa.field("received_at_ms", pa.int64(), nullable=False),
    pa.field("source_ip", _ID, nullable=False),
]
EVENT_SCHEMA: Final = pa.schema(
    [
        pa.field("event_type", pa.uint8(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("service", pa.utf8()),
        pa.field("device_id", _ID),
        pa.field("session_id", _ID),
        pa.field("event_name", pa.dictionary(pa.int32(), pa.utf8())),
        pa.field("payload", pa.binary()),
        *_RECORD_FIELDS,
    ]
)
LOG_SCHEMA: Final = pa.schema(
    [
        pa.field("event_type", pa.uint8(), nullable=False),
        pa.field("level", pa.uint8(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("session_id", _ID),
        pa.field("source", pa.utf8()),
        pa.field("service", pa.utf8()),
        pa.field("payload", pa.binary()),
        *_RECORD_FIELDS,
    ]
)


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """The rows of one batch or several, and what in them could not be decoded.

    `table` has EVENT_SCHEMA or LOG_SCHEMA; its rows are in the order of the bytes, those of
    a batch end before row `row_ends[place of the batch]`. The others are parallel: message
    index, a key of REASONS, the byte of the batch's records at which the check failed, and
    the place of the batch.
    """

    table: pa.RecordBatch
    row_ends: NDArray[np.int64]
    damaged: NDArray[np.uint32]
    damage_reasons: NDArray[np.uint8]
    damage_offsets: NDArray[np.uint64]
    damaged_batches: NDArray[np.uint32]

    def damage_texts(self) -> list[str]:
        """One sentence for each damaged message."""
        return [
            f"message {message}: {REASONS[reason]} at byte {offset}"
            for message, reason, offset in zip(
                self.damaged.tolist(),
                self.damage_reasons.tolist(),
                self.damage_offsets.tolist(),
                strict=True,
            )
        ]


def decode_events(
    batches: Batch | Sequence[Batch],
    dialect: Dialect = "auto",
    buffers: DecodeBuffers | None = None,
) -> DecodedRows:
    """Decode batches of schema EVENT; columns as in EVENT_SCHEMA.

    `dialect` "auto" tells the two Event layouts apart table by table, "v1" takes all for the
    collector's (6 fields), "v2" for the SDKs' (7). With `buffers` the result is good until
    their next use. Raises ValueError if a column would pass 2 GiB.
    """
    if dialect not in _DIALECTS:
        raise ValueError(f"dialect {dialect!r} is none of {', '.join(_DIALECTS)}")
    buffers = buffers or DecodeBuffers()
    code = _DIALECTS[dialect]
    plain = False

    def run(batch: Batch, columns: EventColumns, common: RecordColumns) -> int:
        return int(
            events.decode_events(
                readonly(batch.records),
                readonly(batch.offsets),
                code,
                plain,
                columns,
                buffers.table,
                common,
                buffers.state,
            )
        )

    batches = [batches] if isinstance(batches, Batch) else batches
    try:
        columns, ends = _decode(batches, EventColumns, buffers, run)
    except _ManyNamesError:
        plain = True
        columns, ends = _decode(batches, EventColumns, buffers, run)
    rows = int(buffers.state[ROWS])
    nulls = _Nulls(columns.present, rows)
    names = (
        _plain_names(columns, buffers, nulls, rows)
        if plain
        else _names(columns, buffers, nulls, rows)
    )
    return _result(
        EVENT_SCHEMA,
        [
            _fixed(pa.uint8(), rows, columns.event_type),
            _fixed(pa.int64(), rows, columns.timestamp),
            _text(nulls, event_columns.HAS_SERVICE, rows, columns.service_offsets, columns.service),
            _fixed(_ID, rows, columns.device_id, *nulls.of(event_columns.HAS_DEVICE)),
            _fixed(_ID, rows, columns.session_id, *nulls.of(event_columns.HAS_SESSION)),
            names,
            _binary(
                nulls, event_columns.HAS_PAYLOAD, rows, columns.payload_offsets, columns.payload
            ),
        ],
        buffers,
        ends,
    )


def decode_logs(
    batches: Batch | Sequence[Batch], buffers: DecodeBuffers | None = None
) -> DecodedRows:
    """Decode batches of schema LOG; columns as in LOG_SCHEMA, otherwise as `decode_events`."""
    buffers = buffers or DecodeBuffers()

    def run(batch: Batch, columns: logs.LogColumns, common: RecordColumns) -> int:
        return int(
            logs.decode_logs(
                readonly(batch.records), readonly(batch.offsets), columns, common, buffers.state
            )
        )

    batches = [batches] if isinstance(batches, Batch) else batches
    columns, ends = _decode(batches, logs.LogColumns, buffers, run)
    rows = int(buffers.state[ROWS])
    nulls = _Nulls(columns.present, rows)
    return _result(
        LOG_SCHEMA,
        [
            _fixed(pa.uint8(), rows, columns.event_type),
            _fixed(pa.uint8(), rows, columns.level),
            _fixed(pa.int64(), rows, columns.timestamp),
            _fixed(_ID, rows, columns.session_id, *nulls.of(logs.HAS_SESSION)),
            _text(nulls, logs.HAS_SOURCE, rows, columns.source_offsets, columns.source),
            _text(nulls, logs.HAS_SERVICE, rows, columns.service_offsets, columns.service),
            _binary(nulls, logs.HAS_PAYLOAD, rows, columns.payload_offsets, columns.payload),
        ],
        buffers,
        ends,
    )


class _ManyNamesError(Exception):
    """The names make no dictionary: they must be decoded plain, from the start."""


def _decode(
    batches: Sequence[Batch], kind: type[Columns], buffers: DecodeBuffers, run: Any
) -> tuple[Columns, NDArray[np.int64]]:
    """Run a decoder over all batches, growing what it lacks.

    Returns its columns, and after each batch the number of rows and of damaged messages.
    """
    messages = sum(len(batch.offsets) - 1 for batch in batches)
    records_bytes = sum(len(batch.records) for batch in batches)
    # A header may be wrong: it only sizes the first try.
    events_said = sum(batch.header.event_count for batch in batches)
    rows = min(max(events_said, messages), records_bytes // 8) + 1
    columns = buffers.columns(kind, rows, records_bytes)
    common = buffers.common_for(len(columns.event_type), messages)
    buffers.restart()
    ends = np.zeros((len(batches), 2), np.int64)
    for place, batch in enumerate(batches):
        buffers.state[MESSAGE] = 0
        while (answer := run(batch, columns, common)) != DONE:
            if answer == NO_DICTIONARY:
                raise _ManyNamesError
            columns = buffers.grow(kind, answer)
            common = buffers.common
        ends[place] = buffers.state[ROWS], buffers.state[DAMAGED]
    return columns, ends


class _Nulls:
    """Makes the validity bitmaps of a decoder's columns."""

    def __init__(self, present: NDArray[np.uint8], rows: int) -> None:
        self._present = present
        self._rows = rows
        self._in_all = present_in_all(present, rows)

    def of(self, bit: int) -> tuple[pa.Buffer | None, int]:
        """Bitmap and null count of the column with that bit; no bitmap if none is null."""
        if self._in_all >> bit & 1:
            return None, 0
        bitmap = np.empty((self._rows + 7) // 8, np.uint8)
        missing = pack_bits(self._present, self._rows, bit, bitmap)
        return pa.py_buffer(bitmap), int(missing)


def _fixed(
    kind: pa.DataType,
    rows: int,
    values: NDArray[Any],
    validity: pa.Buffer | None = None,
    null_count: int = 0,
) -> pa.Array:
    return pa.Array.from_buffers(kind, rows, [validity, pa.py_buffer(values)], null_count)


def _binary(
    nulls: _Nulls, bit: int, rows: int, offsets: NDArray[np.int32], text: NDArray[np.uint8]
) -> pa.Array:
    validity, null_count = nulls.of(bit)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.binary(), rows, buffers, null_count)


def _text(
    nulls: _Nulls, bit: int, rows: int, offsets: NDArray[np.int32], text: NDArray[np.uint8]
) -> pa.Array:
    validity, null_count = nulls.of(bit)
    offsets, text = _repaired(rows, offsets, text)
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.utf8(), rows, buffers, null_count)


def _repaired(
    rows: int, offsets: NDArray[np.int32], text: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The same strings, as valid UTF-8; copied only if one of them needs it."""
    if is_ascii(text, int(offsets[rows])):
        return offsets, text
    needed = int(repaired_bytes(text, offsets, rows))
    if needed < 0:
        return offsets, text
    if needed > COLUMN_BYTES_MAX:
        raise ValueError(f"a batch with more than {COLUMN_BYTES_MAX} bytes of repaired text")
    whole, whole_offsets = np.empty(needed, np.uint8), np.empty(rows + 1, np.int32)
    repair(text, offsets, rows, whole, whole_offsets)
    return whole_offsets, whole


def _names(
    columns: EventColumns, buffers: DecodeBuffers, nulls: _Nulls, rows: int
) -> pa.DictionaryArray:
    count, table = int(buffers.state[NAMES]), buffers.table
    offsets, text = _repaired(count, table.offsets, table.text)
    if text is table.text and rows:  # the table is small, and its memory is used again
        offsets = offsets[: count + 1].copy()
        text = text[: offsets[count]].copy()
    words = pa.Array.from_buffers(
        pa.utf8(), count, [None, pa.py_buffer(offsets), pa.py_buffer(text)], 0
    )
    indices = _fixed(pa.int32(), rows, columns.names, *nulls.of(event_columns.HAS_NAME))
    names = pa.DictionaryArray.from_arrays(indices, words, safe=False)
    if offsets is not table.offsets and len(words) != len(words.unique()):
        # Different damage can repair to the same name.
        return names.cast(pa.utf8()).dictionary_encode()
    return names


def _plain_names(
    columns: EventColumns, buffers: DecodeBuffers, nulls: _Nulls, rows: int
) -> pa.DictionaryArray:
    text = _text(nulls, event_columns.HAS_NAME, rows, columns.names, buffers.table.text)
    return text.dictionary_encode()


def _result(
    schema: pa.Schema, columns: list[pa.Array], buffers: DecodeBuffers, ends: NDArray[np.int64]
) -> DecodedRows:
    common, rows = buffers.common, int(buffers.state[ROWS])
    columns += [
        _fixed(pa.uint32(), rows, common.message_index),
        _fixed(pa.int64(), rows, common.received_at_ms),
        _fixed(_ID, rows, common.source_ip),
    ]
    damage = common.damage[: buffers.state[DAMAGED]]
    return DecodedRows(
        pa.RecordBatch.from_arrays(columns, schema=schema),
        ends[:, 0],
        damage[:, 0].astype(np.uint32),
        damage[:, 1].astype(np.uint8),
        damage[:, 2].astype(np.uint64),
        np.repeat(np.arange(len(ends), dtype=np.uint32), np.diff(ends[:, 1], prepend=0)),
    )


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    records, offsets = np.zeros(0, np.uint8), np.zeros(1, np.uint64)
    header = BatchHeader(NO_PRODUCER, 0, 0, 0, 0, 0, "", 0, 0, 0, 0, 0)
    batch = Batch(header, records, offsets)
    decode_events(batch)
    decode_logs(batch)
    text, bounds = np.full(1, 0xFF, np.uint8), np.array([0, 1], np.int32)
    _repaired(1, bounds, text)
    pack_bits(np.zeros(0, np.uint8), 0, 0, np.zeros(0, np.uint8))
