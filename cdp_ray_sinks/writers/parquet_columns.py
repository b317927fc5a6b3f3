"""Decoded events and log entries as the columns of their Parquet files."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from cdp_ray_sinks.writers.parquet_rows import address_text
from cdp_ray_sinks.writers.parquet_schemas import (
    EVENT_TYPES,
    LEVELS,
    LOG_EVENT_TYPES,
    TIME_MS,
    TIME_MS_MAX,
)


def table_of(stream: str, rows: pa.RecordBatch, workspace_id: int, schema: pa.Schema) -> pa.Table:
    """The rows of `decode_events` or `decode_logs` as a table of that schema, copied."""
    columns: dict[str, Any] = {name: rows.column(name) for name in rows.schema.names}
    is_time = _is_time(columns["timestamp"])
    columns["timestamp_raw"] = pc.if_else(is_time, None, columns["timestamp"])
    columns["timestamp"] = pc.if_else(is_time, columns["timestamp"], None)
    received = columns["received_at_ms"]
    columns["batch_timestamp"] = pc.if_else(_is_time(received), received, None)
    columns["workspace_id"] = pa.repeat(pa.scalar(workspace_id, pa.int64()), len(received))
    types = EVENT_TYPES if stream == "events" else LOG_EVENT_TYPES
    columns["event_type"] = _named(columns["event_type"], types)
    if stream == "logs":
        columns["level"] = _named(columns["level"], LEVELS)
    addresses = columns["source_ip"].dictionary_encode()
    texts = pa.array([address_text(value.as_py()) for value in addresses.dictionary], pa.utf8())
    columns["source_ip"] = pa.DictionaryArray.from_arrays(addresses.indices, texts)
    columns["payload"], columns["payload_bytes"] = _split(columns["payload"])
    arrays = [_as(columns[field.name], field.type) for field in schema]
    # The decoder's memory is used again for the next batch.
    copied = pa.concat_tables([pa.table(arrays, schema=schema)] * 2).combine_chunks()
    return pa.concat_tables([copied.slice(0, len(received))]).combine_chunks()


def _is_time(values: pa.Array) -> pa.Array:
    return pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, TIME_MS_MAX))


def _named(codes: pa.Array, names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes.cast(pa.int32()), pa.array(names))


def _split(payload: pa.Array) -> tuple[pa.Array, pa.Array]:
    try:
        return payload.cast(pa.utf8()), pa.nulls(len(payload), pa.binary())
    except pa.ArrowInvalid:
        values = payload.to_pylist()
    texts: list[str | None] = []
    damaged: list[bytes | None] = []
    for value in values:
        try:
            texts.append(None if value is None else value.decode())
            damaged.append(None)
        except UnicodeDecodeError:
            texts.append(None)
            damaged.append(value)
    return pa.array(texts, pa.utf8()), pa.array(damaged, pa.binary())


def _as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_dictionary(kind):
        return values.dictionary_encode()
    if kind == TIME_MS:
        return values.cast(TIME_MS)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, values)
    texts = [None if value is None else str(UUID(bytes=value)) for value in values.to_pylist()]
    return pa.array(texts, pa.utf8())
