"""Metrics, spans and snapshots as Arrow tables: plain Python, for they are rare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.messages import (
    OnDamage,
    Row,
    decode_metrics,
    decode_snapshots,
    decode_traces,
)
from cdp_ray_sinks.writers.parquet_schemas import (
    METRIC_TYPES,
    SPAN_KINDS,
    SPAN_STATUSES,
    TEMPORALITIES,
    TIME_MS_MAX,
    TIME_NS_MAX,
)

_INT64_MAX: Final = 2**63 - 1

DECODERS: Final[Mapping[str, Callable[[Batch, OnDamage | None], list[Row]]]] = {
    "snapshots": decode_snapshots,
    "metrics": decode_metrics,
    "traces": decode_traces,
}


def sorted_table(
    stream: str, rows: Sequence[Row], workspace_id: int, schema: pa.Schema
) -> pa.Table:
    """The rows of a decoder of `messages` as a table of that schema.

    Sorted by time, those without a time last, equal ones as they came.
    """
    found = [_values(stream, row, workspace_id) for row in rows]
    found.sort(key=lambda row: TIME_NS_MAX + 1 if row["timestamp"] is None else row["timestamp"])
    if "session_id" in schema.names and schema.field("session_id").type == pa.utf8():
        for row in found:
            row["session_id"] = _uuid_text(row["session_id"])
    arrays = [_array([row[field.name] for row in found], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


def _values(stream: str, row: Row, workspace_id: int) -> dict[str, Any]:
    values = dict(row)
    del values["message_index"]
    received = values.pop("received_at_ms")
    values["batch_timestamp"] = received if received <= TIME_MS_MAX else None
    values["workspace_id"] = workspace_id
    values["source_ip"] = address_text(row["source_ip"])
    is_ns = "timestamp_ns" in values
    time = values.pop("timestamp_ns") if is_ns else row["timestamp"]
    is_time = time <= (TIME_NS_MAX if is_ns else TIME_MS_MAX)
    values["timestamp"] = time if is_time else None
    values["timestamp_raw"] = None if is_time else min(time, _INT64_MAX)
    if "payload" in values:
        values["payload"], values["payload_bytes"] = _text_or_bytes(row["payload"])
    if stream == "metrics":
        values["metric_type"] = word(METRIC_TYPES, row["metric_type"])
        values["temporality"] = word(TEMPORALITIES, row["temporality"])
        values["labels"] = list(row["labels"].items())
        values["int_labels"] = list(row["int_labels"].items())
        values["histogram"] = _histogram(row["histogram"])
    elif stream == "traces":
        for name in ("trace_id", "span_id", "parent_span_id"):
            values[name] = None if row[name] is None else row[name].hex()
        values["kind"] = word(SPAN_KINDS, row["kind"])
        values["status"] = word(SPAN_STATUSES, row["status"])
        values["duration_ns"] = min(values["duration_ns"], _INT64_MAX)
    return values


def word(words: Sequence[str], code: int) -> str:
    """The name of a code; the number itself for one that has none."""
    return words[code] if code < len(words) else str(code)


def address_text(address: bytes) -> str:
    """Canonical text of 16 bytes in IPv6 form; IPv4 with dots."""
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def _uuid_text(value: bytes | None) -> str | None:
    return None if value is None else str(UUID(bytes=value))


def _text_or_bytes(payload: bytes | None) -> tuple[str | None, bytes | None]:
    if payload is None:
        return None, None
    try:
        return payload.decode(), None
    except UnicodeDecodeError:
        return None, payload


def _histogram(histogram: Row | None) -> Row | None:
    if histogram is None:
        return None
    buckets: Iterable[tuple[float, int]] = histogram["buckets"]
    return {
        **histogram,
        "count": min(histogram["count"], _INT64_MAX),
        "buckets": [
            {"upper_bound": bound, "count": min(count, _INT64_MAX)} for bound, count in buckets
        ],
    }
