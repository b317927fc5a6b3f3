"""Batches as an Arrow table, a row for each: what a block of a dataset holds of them.

The columns are the fields of the header, `records` and `offsets`. What a batch is made of are
views of the table's buffers, so a block that lies in the object store serves as a pack does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, Bytes, Offsets
from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.cache import readonly

_RECORDS: Final = "records"
_OFFSETS: Final = "offsets"
_HEADER: Final = [
    pa.field("producer", pa.binary(ID_BYTES)),
    pa.field("epoch", pa.uint64()),
    pa.field("sequence", pa.uint64()),
    pa.field("schema_type", pa.uint8()),
    pa.field("event_types", pa.uint64()),
    pa.field("workspace_id", pa.uint32()),
    pa.field("source_id", pa.utf8()),
    pa.field("received_at_ms", pa.int64()),
    pa.field("message_count", pa.uint64()),
    pa.field("event_count", pa.uint64()),
    pa.field("record_bytes", pa.uint64()),
    pa.field("checksum", pa.uint64()),
    pa.field("time_min_ms", pa.int64()),
    pa.field("time_max_ms", pa.int64()),
]
BLOCK_SCHEMA: Final = pa.schema(
    [
        *_HEADER,
        pa.field(_RECORDS, pa.large_binary()),
        pa.field(_OFFSETS, pa.large_list(pa.uint64())),
    ]
)


def block_of(batches: Sequence[Batch]) -> pa.Table:
    """A table of the batches, which keeps their buffers and copies none of them.

    Raises ValueError for one with pattern ids, for which there is no column.
    """
    if any(batch.pattern_ids is not None for batch in batches):
        raise ValueError("a batch with pattern ids can't be in a block")
    columns: list[Any] = [
        pa.array([getattr(batch.header, field.name) for batch in batches], field.type)
        for field in _HEADER
    ]
    records = [_one(pa.large_binary(), batch.records) for batch in batches]
    offsets = [
        pa.LargeListArray.from_arrays([0, len(batch.offsets)], pa.array(batch.offsets))
        for batch in batches
    ]
    columns.append(pa.chunked_array(records, pa.large_binary()))
    columns.append(pa.chunked_array(offsets, pa.large_list(pa.uint64())))
    return pa.table(columns, schema=BLOCK_SCHEMA)


def _one(kind: pa.DataType, values: Any) -> pa.Array:
    ends = pa.py_buffer(np.array([0, len(values)], np.int64))
    return pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(values)])


class BatchBlock:
    """The batches of such a table. Raises ValueError for a table that is none."""

    def __init__(self, table: pa.Table) -> None:
        if not set(BLOCK_SCHEMA.names) <= set(table.column_names):
            raise ValueError(
                f"no block of batches: its columns are {', '.join(table.column_names)}"
            )
        self._table = table
        self._records = [each for chunk in table.column(_RECORDS).chunks for each in _bytes(chunk)]
        self._offsets = [each for chunk in table.column(_OFFSETS).chunks for each in _ends(chunk)]
        starts = np.cumsum([0, *map(len, self._records)]).tolist()
        self._rows = {start: row for row, start in enumerate(starts[:-1])}

    def headers(self) -> list[BatchHeader]:
        """The headers, with the places of the batches in this block."""
        made: list[BatchHeader] = []
        offsets_start = 0
        plain = self._table.select([field.name for field in _HEADER]).to_pylist()
        for start, row in self._rows.items():
            made.append(BatchHeader(**plain[row], records_start=start, offsets_start=offsets_start))
            offsets_start += len(self._offsets[row])
        return made

    @property
    def held_bytes(self) -> int:
        """What records and offsets weigh, in bytes."""
        return sum(map(len, self._records)) + 8 * sum(map(len, self._offsets))

    def batch(self, header: BatchHeader) -> Batch:
        """The batch that `header` describes, as views. Raises ValueError if there is none there."""
        row = self._rows.get(header.records_start)
        if row is None or len(self._records[row]) != header.record_bytes:
            raise ValueError(
                f"batch {header.batch_id} claims {header.record_bytes} bytes from byte "
                f"{header.records_start} of a block that has no such batch"
            )
        return Batch(header, self._records[row], self._offsets[row])


def _bytes(chunk: pa.LargeBinaryArray) -> Iterator[Bytes]:
    """Each row's bytes; asking Arrow for them row by row would copy them."""
    data = readonly(np.frombuffer(chunk.buffers()[2] or b"", np.uint8))
    ends = np.frombuffer(chunk.buffers()[1] or b"", np.int64)[chunk.offset :][: len(chunk) + 1]
    for start, end in pairwise(ends.tolist()):
        yield data[start:end]


def _ends(chunk: pa.LargeListArray) -> Iterator[Offsets]:
    # Kernels are compiled for aligned numbers, and a pickled buffer may lie anywhere.
    values = readonly(np.require(chunk.values.to_numpy(zero_copy_only=True), np.uint64, "A"))
    for start, end in pairwise(chunk.offsets.to_numpy().tolist()):
        yield values[start:end]
