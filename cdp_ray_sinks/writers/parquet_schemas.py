"""The columns of Parquet files, stream by stream, and how each is encoded.

Names are those of the original's files, with types that engines understand: times in UTC,
ids as UUID, types, levels and addresses as dictionaries of text.

| column | what it holds |
| --- | --- |
| `timestamp` | the client's time; null if not before the year 10000 (in nanoseconds: 2262) |
| `timestamp_raw` | the client's number where that is null, at most 2**63 - 1; else null |
| `batch_timestamp` | when the message was received |
| `payload` | the JSON text as received; null if absent or not UTF-8 |
| `payload_bytes` | the payload where it is not UTF-8; else null |

An id that is absent or of another length is null, an empty text is empty, an absent one null;
in texts other than payloads U+FFFD stands for what is not UTF-8. A code without a name is
`unknown` (events, log entries) or its number. Counts and durations end at 2**63 - 1.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import pyarrow as pa

from cdp_ray_sinks.batch.enums import (
    EventType,
    LogEventType,
    LogLevel,
    MetricType,
    SpanKind,
    SpanStatus,
    Temporality,
)

SCHEMA_VERSION: Final = 1
"""Rises when a column changes its name, type or meaning."""

UuidType: TypeAlias = Literal["uuid", "text"]

TIME_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: what every engine and language can show."""
TIME_NS_MAX: Final = 2**63 - 2
"""In the year 2262; one below what also stands for all that is too large."""

WORDS: Final = pa.dictionary(pa.int32(), pa.utf8())
TIME_MS: Final = pa.timestamp("ms", "UTC")
TIME_NS: Final = pa.timestamp("ns", "UTC")

EVENT_TYPES: Final = tuple(item.name.lower() for item in EventType)
LOG_EVENT_TYPES: Final = tuple(item.name.lower() for item in LogEventType)
LEVELS: Final = tuple(item.name.lower() for item in LogLevel)
METRIC_TYPES: Final = tuple(item.name.lower() for item in MetricType)
TEMPORALITIES: Final = tuple(item.name.lower() for item in Temporality)
SPAN_KINDS: Final = tuple(item.name.lower() for item in SpanKind)
SPAN_STATUSES: Final = tuple(item.name.lower() for item in SpanStatus)

_RECEIVED: Final = [
    pa.field("batch_timestamp", TIME_MS),
    pa.field("workspace_id", pa.int64(), nullable=False),
]
_PAYLOAD: Final = [
    pa.field("source_ip", WORDS, nullable=False),
    pa.field("payload", pa.utf8()),
    pa.field("payload_bytes", pa.binary()),
    pa.field("timestamp_raw", pa.int64()),
]
_LABELS: Final = pa.map_(pa.utf8(), pa.utf8())
_INT_LABELS: Final = pa.map_(pa.utf8(), pa.int64())
_HISTOGRAM: Final = pa.struct(
    [
        pa.field("count", pa.int64()),
        pa.field("sum", pa.float64()),
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field(
            "buckets", pa.list_(pa.struct([("upper_bound", pa.float64()), ("count", pa.int64())]))
        ),
    ]
)


def schema_of(stream: str, uuid_type: UuidType = "uuid") -> pa.Schema:
    """The columns of a stream's files; ids as UUID, or as their text of 36 characters.

    Raises ValueError for a stream that is not one of events, logs, snapshots, metrics, traces.
    """
    uuid = pa.uuid() if uuid_type == "uuid" else pa.utf8()
    session = pa.field("session_id", uuid)
    if stream == "events":
        own = [
            pa.field("event_type", WORDS, nullable=False),
            pa.field("event_name", WORDS),
            pa.field("service", WORDS),
            pa.field("device_id", uuid),
            session,
        ]
    elif stream == "logs":
        own = [
            pa.field("level", WORDS, nullable=False),
            pa.field("event_type", WORDS, nullable=False),
            pa.field("source", WORDS),
            pa.field("service", WORDS),
            session,
        ]
    elif stream == "snapshots":
        own = [pa.field("source", WORDS), pa.field("entity", pa.utf8())]
    elif stream == "metrics":
        return _metrics(session)
    elif stream == "traces":
        own = [
            pa.field("trace_id", pa.utf8()),
            pa.field("span_id", pa.utf8()),
            pa.field("parent_span_id", pa.utf8()),
            pa.field("duration_ns", pa.int64(), nullable=False),
            pa.field("name", WORDS),
            pa.field("kind", WORDS, nullable=False),
            pa.field("status", WORDS, nullable=False),
            pa.field("source", WORDS),
            pa.field("service", WORDS),
            session,
        ]
    else:
        raise ValueError(f"{stream!r} has no Parquet schema")
    time = pa.field("timestamp", TIME_NS if stream == "traces" else TIME_MS)
    return pa.schema([time, *_RECEIVED, *own, *_PAYLOAD])


def _metrics(session: pa.Field) -> pa.Schema:
    return pa.schema(
        [
            pa.field("timestamp", TIME_NS),
            *_RECEIVED,
            pa.field("metric_type", WORDS, nullable=False),
            pa.field("name", WORDS),
            pa.field("value", pa.float64(), nullable=False),
            pa.field("source", WORDS),
            pa.field("service", WORDS),
            pa.field("labels", _LABELS, nullable=False),
            pa.field("int_labels", _INT_LABELS, nullable=False),
            pa.field("temporality", WORDS, nullable=False),
            pa.field("histogram", _HISTOGRAM),
            session,
            pa.field("source_ip", WORDS, nullable=False),
            pa.field("timestamp_raw", pa.int64()),
        ]
    )
