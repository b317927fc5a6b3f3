"""Parquet files: batches in, one finished file out.

What the columns are: `parquet_schemas`. The footer's key-value metadata, all text:

| key | what it says |
| --- | --- |
| `cdp.schema_version` | `parquet_schemas.SCHEMA_VERSION` |
| `cdp.stream`, `cdp.workspace_id` | what the file holds, and whose it is |
| `cdp.rows`, `cdp.messages` | how many rows, and of how many messages |
| `cdp.damaged_messages` | messages that did not decode and left no row |
| `cdp.origins` | whose batches are in it, of which hours: `origins_text` |
| `cdp.…` | whatever else its owner gave to `finish` |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.errors import MalformedMessageError
from cdp_ray_sinks.files.landed import Count, Origin
from cdp_ray_sinks.writers import parquet_rows
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.parquet_columns import sorted_columns
from cdp_ray_sinks.writers.parquet_origins import origins_of, origins_of_batches, origins_text
from cdp_ray_sinks.writers.parquet_schemas import SCHEMA_VERSION, schema_of
from cdp_ray_sinks.writers.parquet_settings import (
    Compression,
    ParquetSettings,
    writer_options,
)

__all__ = [
    "SUFFIX",
    "Compression",
    "Footer",
    "ParquetFile",
    "ParquetSettings",
    "PreparedRows",
    "RowCounts",
    "RowlessMessage",
    "groups_of",
    "read_footer",
]

KEY_PREFIX: Final = "cdp."
SUFFIX: Final = ".parquet"
GROUP_BYTES_MAX: Final = 128 * 1024 * 1024
"""Records that are decoded together, however few rows they hold; one batch may have more. The
columns of so much end below 2 GiB, whatever hostile messages unpack to."""


@dataclass(frozen=True, slots=True)
class RowlessMessage:
    """A message that left no row: places in the `batches` given to `add` and in that batch."""

    batch: int
    message: int
    reason: str


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What one `add` made of its batches."""

    rows: int
    messages: int
    row_groups: int
    damaged: tuple[RowlessMessage, ...]


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows of so many messages, sorted; good until the next use of the buffers they are in."""

    table: pa.Table
    messages: int
    damaged: tuple[RowlessMessage, ...]
    origins: Mapping[Origin, Count]

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.table.num_rows)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a finished file says of itself. `metadata` has what was given to `finish`.

    `origins` is empty for files older than that.
    """

    stream: str
    schema_version: int
    workspace_id: int
    rows: int
    messages: int
    damaged_messages: int
    row_groups: int
    origins: Mapping[Origin, Count]
    metadata: Mapping[str, str]


class ParquetFile:
    """One file being written. One thread at a time calls it, but for `prepare`.

    `out` is a path, made or emptied, or a binary file object, which stays the caller's. It
    neither syncs nor renames. Nothing of the batches is kept when `add` returns. After an
    error the file is of no use: `abandon` it.
    """

    def __init__(
        self,
        out: Path | BinaryIO,
        stream: str,
        workspace_id: int,
        settings: ParquetSettings | None = None,
        buffers: DecodeBuffers | None = None,
    ) -> None:
        self.stream = stream
        self.rows = 0
        self.messages = 0
        self.damaged_messages = 0
        self._origins: dict[Origin, Count] = {}
        self._workspace_id = workspace_id
        self._settings = settings or ParquetSettings()
        self._schema = schema_of(stream, self._settings.uuid_type)
        self._buffers = buffers or DecodeBuffers()
        if isinstance(out, Path):
            self._file = pa.OSFile(str(out), "wb")
        else:
            self._file = pa.PythonFile(_Lent(out), "w")
        options = writer_options(self._settings, self._schema)
        self._writer = pq.ParquetWriter(self._file, self._schema, **options)

    def add(self, batches: Sequence[Batch]) -> RowCounts:
        """Write the rows of all batches, as one row group or several.

        As many batches as fill a row group are decoded and sorted at a time. A row group has
        at most `row_group_rows`, sorted by time, those without a time last. A message that
        does not decode is listed, and the others stand.

        Raises ValueError for a batch of another schema (nothing is written then), OSError if
        the file can't be written.
        """
        self._check_stream(batches)
        damaged: list[RowlessMessage] = []
        rows, messages, row_groups = 0, 0, 0
        for first, end in groups_of(batches, self._settings.row_group_rows):
            prepared = self.prepare(batches[first:end], self._buffers)
            row_groups += self.write(prepared)
            rows, messages = rows + prepared.rows, messages + prepared.messages
            damaged += [replace(each, batch=first + each.batch) for each in prepared.damaged]
        return RowCounts(rows, messages, row_groups, tuple(damaged))

    def prepare(self, batches: Sequence[Batch], buffers: DecodeBuffers) -> PreparedRows:
        """Decode and sort the rows of all batches, for `write`; writes nothing.

        May run in a thread of its own while another writes what was prepared before, in other
        `buffers`. Raises ValueError for a batch of another schema.
        """
        self._check_stream(batches)
        damaged: list[RowlessMessage] = []
        if self.stream in parquet_rows.DECODERS:
            table = self._decode_plainly(batches, damaged)
        else:
            table = self._decode(batches, buffers, damaged)
        messages = sum(len(batch.offsets) - 1 for batch in batches) - len(damaged)
        return PreparedRows(table, messages, tuple(damaged), origins_of_batches(batches))

    def write(self, prepared: PreparedRows) -> int:
        """Write rows as row groups of about the same size; returns how many.

        Raises OSError if the file can't be written.
        """
        self.rows += prepared.rows
        self.messages += prepared.messages
        self.damaged_messages += len(prepared.damaged)
        for origin, held in prepared.origins.items():
            self._origins.setdefault(origin, Count()).add_all(held)
        if prepared.rows == 0:
            return 0
        count = -(-prepared.rows // self._settings.row_group_rows)
        step = -(-prepared.rows // count)
        for start in range(0, prepared.rows, step):
            part = prepared.table.slice(start, step)
            self._writer.write_table(part, row_group_size=step)
        return count

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the footer with that metadata; on return all bytes are with the system."""
        own = {
            "schema_version": str(SCHEMA_VERSION),
            "stream": self.stream,
            "workspace_id": str(self._workspace_id),
            "rows": str(self.rows),
            "messages": str(self.messages),
            "damaged_messages": str(self.damaged_messages),
            "origins": origins_text(self._origins),
        }
        taken = own.keys() & metadata.keys()
        if taken:
            raise ValueError(f"metadata {', '.join(sorted(taken))} is the writer's own")
        whole = own | dict(metadata)
        self._writer.add_key_value_metadata({KEY_PREFIX + k: v for k, v in whole.items()})
        self._writer.close()
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file, unfinished; twice is fine. Its owner removes it."""
        with suppress(OSError, ValueError):
            self._file.close()
        # Without the footer, for which there is no file any more.
        self._writer.is_open = False

    def __del__(self) -> None:
        # A writer that is forgotten would end its file as if that were whole.
        if hasattr(self, "_writer"):
            self.abandon()

    def _check_stream(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if STREAMS.get(batch.header.schema_type) != self.stream:
                raise ValueError(
                    f"batch {batch.header.batch_id} of schema {batch.header.schema_type} in "
                    f"{self.stream}"
                )

    def _decode(
        self, batches: Sequence[Batch], buffers: DecodeBuffers, damaged: list[RowlessMessage]
    ) -> pa.Table:
        decode = decode_events if self.stream == "events" else decode_logs
        decoded = decode(batches, buffers=buffers)
        damaged += map(
            RowlessMessage,
            decoded.damaged_batches.tolist(),
            decoded.damaged.tolist(),
            decoded.damage_texts(),
        )
        if decoded.table.num_rows == 0:
            return self._schema.empty_table()
        rows = sorted_columns(self.stream, decoded.table, self._workspace_id, self._schema, buffers)
        return pa.Table.from_batches([rows])

    def _decode_plainly(self, batches: Sequence[Batch], damaged: list[RowlessMessage]) -> pa.Table:
        rows = []
        for place, batch in enumerate(batches):

            def note(message: int, error: MalformedMessageError, place: int = place) -> None:
                damaged.append(RowlessMessage(place, message, str(error)))

            rows += parquet_rows.DECODERS[self.stream](batch, note)
        return parquet_rows.sorted_table(self.stream, rows, self._workspace_id, self._schema)


class _Lent:
    """A file object of the caller, which is not closed with the Parquet file."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.closed:
            raise ValueError("the file was abandoned")
        return self._out.write(data)

    def flush(self) -> None:
        if not self.closed:
            self._out.flush()

    def tell(self) -> int:
        return self._out.tell()

    def close(self) -> None:
        self.flush()
        self.closed = True


def groups_of(batches: Sequence[Batch], rows_max: int) -> Iterator[tuple[int, int]]:
    """Ranges of batches to be decoded together: a row group's worth, at least one batch.

    A range is (first, end); the headers are believed as far as they size it.
    """
    first, rows, record_bytes = 0, 0, 0
    for place, batch in enumerate(batches):
        more_rows = max(batch.header.event_count, len(batch.offsets) - 1)
        more_bytes = len(batch.records)
        is_full = rows + more_rows > rows_max or record_bytes + more_bytes > GROUP_BYTES_MAX
        if is_full and place > first:
            yield first, place
            first, rows, record_bytes = place, 0, 0
        rows += more_rows
        record_bytes += more_bytes
    if batches:
        yield first, len(batches)


def read_footer(path: Path) -> Footer:
    """What the footer of a file of ours says; reads nothing else.

    Raises ValueError if it is no Parquet file, or not one of this package, OSError if it can't
    be read.
    """
    try:
        found = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}") from None
    texts = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
    own = {
        key.removeprefix(KEY_PREFIX): text
        for key, text in texts.items()
        if key.startswith(KEY_PREFIX)
    }
    try:
        workspace_id = int(own.pop("workspace_id"))
        return Footer(
            stream=own.pop("stream"),
            schema_version=int(own.pop("schema_version")),
            workspace_id=workspace_id,
            rows=int(own.pop("rows")),
            messages=int(own.pop("messages")),
            damaged_messages=int(own.pop("damaged_messages")),
            row_groups=found.num_row_groups,
            origins=origins_of(own.pop("origins", "[]"), workspace_id),
            metadata=own,
        )
    except KeyError as error:
        raise ValueError(f"{path}: no {KEY_PREFIX}{error.args[0]} in its footer") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
