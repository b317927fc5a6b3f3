"""Parquet files: batches in, one finished file out.

What the columns are: `parquet_schemas`. The footer's key-value metadata, all text:

| key | what it says |
| --- | --- |
| `cdp.schema_version` | `parquet_schemas.SCHEMA_VERSION` |
| `cdp.stream`, `cdp.workspace_id` | what the file holds, and whose it is |
| `cdp.rows`, `cdp.messages` | how many rows, and of how many messages |
| `cdp.damaged_messages` | messages that did not decode and left no row |
| `cdp.…` | whatever else its owner gave to `finish` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.errors import MalformedMessageError
from cdp_ray_sinks.writers import parquet_columns, parquet_rows
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.parquet_schemas import SCHEMA_VERSION, UuidType, schema_of

Compression: TypeAlias = Literal["snappy", "zstd", "lz4", "none"]

KEY_PREFIX: Final = "cdp."
SUFFIX: Final = ".parquet"
ROW_GROUP_ROWS: Final = 100_000


@dataclass(frozen=True, slots=True)
class ParquetSettings:
    """How files are written. `level` is the codec's own; None is its default, zstd's 1."""

    compression: Compression = "snappy"
    level: int | None = None
    row_group_rows: int = ROW_GROUP_ROWS
    uuid_type: UuidType = "uuid"


@dataclass(frozen=True, slots=True)
class DamagedMessage:
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
    damaged: tuple[DamagedMessage, ...]


@dataclass(frozen=True, slots=True)
class Footer:
    """What a finished file says of itself. `metadata` has what was given to `finish`."""

    stream: str
    schema_version: int
    workspace_id: int
    rows: int
    messages: int
    damaged_messages: int
    row_groups: int
    metadata: Mapping[str, str]


class ParquetFile:
    """One file being written. One thread at a time calls it.

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
        self._workspace_id = workspace_id
        self._settings = settings or ParquetSettings()
        self._schema = schema_of(stream, self._settings.uuid_type)
        self._buffers = buffers or DecodeBuffers()
        is_path = isinstance(out, Path)
        self._file = pa.OSFile(str(out), "wb") if is_path else pa.PythonFile(out, "w")
        self._writer = pq.ParquetWriter(self._file, self._schema, **writer_options(self._settings))

    def add(self, batches: Sequence[Batch]) -> RowCounts:
        """Write the rows of all batches, as one row group or several.

        Rows are sorted by time within a row group, which has at most `row_group_rows`.
        Raises ValueError for a batch of another schema, OSError if the file can't be written.
        """
        damaged: list[DamagedMessage] = []
        tables = []
        for place, batch in enumerate(batches):
            if STREAMS.get(batch.header.schema_type) != self.stream:
                raise ValueError(
                    f"batch {batch.header.batch_id} of schema {batch.header.schema_type} in "
                    f"{self.stream}"
                )
            tables.append(self._decode(batch, place, damaged))
        messages = sum(len(batch.offsets) - 1 for batch in batches) - len(damaged)
        rows, groups = 0, 0
        if any(table.num_rows for table in tables):
            table = pa.concat_tables(tables).sort_by("timestamp")
            rows = table.num_rows
            for start in range(0, rows, self._settings.row_group_rows):
                part = table.slice(start, self._settings.row_group_rows)
                self._writer.write_table(part, row_group_size=self._settings.row_group_rows)
                groups += 1
        self.rows += rows
        self.messages += messages
        self.damaged_messages += len(damaged)
        return RowCounts(rows, messages, groups, tuple(damaged))

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the footer with that metadata; on return all bytes are with the system."""
        own = {
            "schema_version": str(SCHEMA_VERSION),
            "stream": self.stream,
            "workspace_id": str(self._workspace_id),
            "rows": str(self.rows),
            "messages": str(self.messages),
            "damaged_messages": str(self.damaged_messages),
        }
        taken = own.keys() & metadata.keys()
        if taken:
            raise ValueError(f"metadata {', '.join(sorted(taken))} is the writer's own")
        whole = own | dict(metadata)
        self._writer.add_key_value_metadata({KEY_PREFIX + k: v for k, v in whole.items()})
        self._writer.close()
        self._file.close()

    def abandon(self) -> None:
        """Let go of the file, unfinished; twice is fine. The owner removes it."""
        with suppress(OSError, ValueError):
            self._file.close()
        # Without a footer that could not be written anyway.
        self._writer.is_open = False

    def _decode(self, batch: Batch, place: int, damaged: list[DamagedMessage]) -> pa.Table:
        def note(message: int, error: MalformedMessageError) -> None:
            damaged.append(DamagedMessage(place, message, str(error)))

        decoder = parquet_rows.DECODERS.get(self.stream)
        if decoder is not None:
            rows = decoder(batch, note)
            return parquet_rows.table_of(self.stream, rows, self._workspace_id, self._schema)
        decode = decode_events if self.stream == "events" else decode_logs
        decoded = decode(batch, buffers=self._buffers)
        texts = decoded.damage_texts()
        for message, text in zip(decoded.damaged.tolist(), texts, strict=True):
            damaged.append(DamagedMessage(place, message, text))
        return parquet_columns.table_of(
            self.stream, decoded.table, self._workspace_id, self._schema
        )


def writer_options(settings: ParquetSettings) -> dict[str, Any]:
    """The arguments of `pyarrow.parquet.ParquetWriter` that files are written with."""
    return {
        "version": "2.6",
        "compression": settings.compression,
        "compression_level": settings.level,
    }


def read_footer(path: Path) -> Footer:
    """What the footer of a file of ours says; reads nothing else.

    Raises ValueError if it is no Parquet file, or not one of this package.
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
        return Footer(
            stream=own.pop("stream"),
            schema_version=int(own.pop("schema_version")),
            workspace_id=int(own.pop("workspace_id")),
            rows=int(own.pop("rows")),
            messages=int(own.pop("messages")),
            damaged_messages=int(own.pop("damaged_messages")),
            row_groups=found.num_row_groups,
            metadata=own,
        )
    except KeyError as error:
        raise ValueError(f"{path}: no {KEY_PREFIX}{error.args[0]} in its footer") from None
