"""Batches to the blocks of a generation: rows cut into inserts, each with its bytes and token.

An insert has rows of one month, so that it is one part in the server and all or nothing. Only
rows of very many months, as a client with a wild clock makes them, share inserts; there the
server tells repeated rows month by month.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.commit_index import entries_of
from cdp_ray_sinks.files.generation_file import WHOLE_MESSAGE, Block, Generation, Refusal
from cdp_ray_sinks.writers.clickhouse_rows import RowCounts, RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import (
    Compression,
    TableRows,
    deserialise,
    serialise,
    split_by_month,
)

MONTHS_ALONE_MAX: Final = 12
MONTHS_TOGETHER_MAX: Final = 50
"""The server refuses an insert into more than 100 partitions."""


@dataclass(slots=True)
class Filling:
    """Batches that will go out together. `lows` are their producers' lowest unsettled
    sequences. `refused`: in an earlier life the rest of them landed, and these did not."""

    batches: list[Batch] = field(default_factory=list)
    lows: list[int] = field(default_factory=list)
    refused: list[Refusal] | None = None
    event_count: int = 0
    record_bytes: int = 0
    since_ms: int = 0
    """When the first of them came, on the clock that only goes forward."""

    def add(self, batch: Batch, low: int, now_ms: int) -> None:
        """Take one more."""
        if not self.batches:
            self.since_ms = now_ms
        self.batches.append(batch)
        self.lows.append(low)
        self.event_count += batch.header.event_count
        self.record_bytes += batch.header.record_bytes


class BlockMaker:
    """Makes the blocks of generations; one thread at a time.

    `identity` makes tokens unique among all sinks there are.
    """

    def __init__(
        self,
        rows: RowMaker,
        *,
        rows_per_insert: int,
        compression: Compression,
        time_zone: str,
        text_ids: dict[str, frozenset[str]],
    ) -> None:
        self._rows = rows
        self._rows_per_insert = rows_per_insert
        self._compression: Compression = compression
        self._time_zone = time_zone
        self._text_ids = text_ids

    def generation(
        self, filling: Filling, number: int, identity: bytes
    ) -> tuple[Generation, RowCounts]:
        """All that becomes of those batches."""
        headers = [batch.header for batch in filling.batches]
        made = Generation(number, entries_of(headers, filling.lows))
        # Free in a segment's index, all of one workspace; see `files/landed_rows.py`.
        made.entries["reserved"] = [header.workspace_id for header in headers]
        if filling.refused is not None:
            made.refusals = list(filling.refused)
            return made, RowCounts()
        rows = self._rows.rows_of(filling.batches)
        made.refusals = [
            Refusal(
                problem.batch,
                problem.message,
                WHOLE_MESSAGE if problem.entry is None else problem.entry,
                problem.reason,
            )
            for problem in rows.problems
        ]
        for table in rows.tables.values():
            for part, months in self._parts(table):
                self._add_block(made, part, months == 1, identity)
        return made, rows.counts

    def halves(self, generation: Generation, block: Block, identity: bytes) -> list[Block]:
        """Two blocks of a block's rows; they know nothing of having been sent."""
        rows = deserialise(pa.py_buffer(block.payload))
        middle = block.row_count // 2
        found = []
        for start, count in ((0, middle), (middle, block.row_count - middle)):
            part = slice(start, start + count)
            payload = serialise(rows.slice(start, count), self._compression)
            number = generation.new_number()
            found.append(
                Block(
                    number,
                    block.table,
                    token_of(identity, block.table, generation.number, number, payload),
                    block.batches[part],
                    block.messages[part],
                    block.entries[part],
                    payload,
                    block.has_one_partition,
                )
            )
        return found

    def _parts(self, rows: TableRows) -> Iterator[tuple[TableRows, int]]:
        """Rows of one insert each, and of how many months they are."""
        months = split_by_month(rows, self._time_zone)
        if len(months) <= MONTHS_ALONE_MAX:
            for month in months:
                for start in range(0, month.rows.num_rows, self._rows_per_insert):
                    yield month.slice(start, self._rows_per_insert), 1
            return
        together: list[TableRows] = []
        row_count = 0
        for month in months:
            if together and (
                len(together) == MONTHS_TOGETHER_MAX
                or row_count + month.rows.num_rows > self._rows_per_insert
            ):
                yield _joined(together), len(together)
                together, row_count = [], 0
            together.append(month)
            row_count += month.rows.num_rows
        yield _joined(together), len(together)

    def _add_block(
        self, generation: Generation, part: TableRows, has_one_partition: bool, identity: bytes
    ) -> None:
        rows = part.rows
        for name in self._text_ids.get(part.table, ()):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, pa.field(name, pa.utf8()), id_texts(rows.column(place)))
        payload = serialise(rows, self._compression)
        number = generation.new_number()
        generation.blocks.append(
            Block(
                number,
                part.table,
                token_of(identity, part.table, generation.number, number, payload),
                part.batches,
                part.messages,
                part.entries,
                payload,
                has_one_partition,
            )
        )


def token_of(identity: bytes, table: str, generation: int, number: int, payload: Any) -> str:
    """What the server knows an insert by.

    It has the bytes in it: under a token that it knows the server drops other rows in silence.
    """
    digest = xxhash.xxh3_128_hexdigest(payload)
    return f"{identity.hex()}/{table}/{generation}/{number}/{digest}"


def id_texts(ids: Any) -> pa.Array:
    """16-byte ids as hyphenated text."""
    data = np.frombuffer(ids.buffers()[1], np.uint8, 16 * len(ids), 16 * ids.offset)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    texts = np.full((len(ids), 36), ord("-"), np.uint8)
    nibbles: NDArray[np.uint8] = np.stack([data >> 4, data & 15], axis=1).reshape(-1, 32)
    start = 0
    for text_start, length in ((0, 8), (9, 4), (14, 4), (19, 4), (24, 12)):
        texts[:, text_start : text_start + length] = digits[nibbles[:, start : start + length]]
        start += length
    ends = np.arange(0, 36 * (len(ids) + 1), 36, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(ids), pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(texts))
    )


def _joined(parts: Sequence[TableRows]) -> TableRows:
    """Rows that lie one after the other in memory, in one piece."""
    if len(parts) == 1:
        return parts[0]
    (rows,) = pa.Table.from_batches([p.rows for p in parts]).combine_chunks().to_batches()
    return TableRows(
        parts[0].table,
        rows,
        np.concatenate([part.batches for part in parts]),
        np.concatenate([part.messages for part in parts]),
        np.concatenate([part.entries for part in parts]),
    )
