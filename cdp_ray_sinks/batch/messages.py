"""Metrics, spans and snapshots as dictionaries, through the generated readers.

Plain Python: these three are rare beside events and log entries, which kernels decode.
Text that is not UTF-8 is repaired with U+FFFD; session and trace ids that are absent or of
a wrong length are None.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.enums import ID_BYTES, METADATA_BYTES, RECORD_PREFIX_BYTES, SchemaType
from cdp_ray_sinks.batch.generated.Batch import Batch as Envelope
from cdp_ray_sinks.batch.generated.Histogram import Histogram
from cdp_ray_sinks.batch.generated.MetricData import MetricData
from cdp_ray_sinks.batch.generated.MetricEntry import MetricEntry
from cdp_ray_sinks.batch.generated.Snapshot import Snapshot
from cdp_ray_sinks.batch.generated.SnapshotData import SnapshotData
from cdp_ray_sinks.batch.generated.Span import Span
from cdp_ray_sinks.batch.generated.TraceData import TraceData
from cdp_ray_sinks.batch.message_check import (
    ENVELOPE,
    METRIC_ENTRY,
    SNAPSHOT,
    SPAN,
    Shape,
    check,
)
from cdp_ray_sinks.errors import MalformedMessageError

Row: TypeAlias = dict[str, Any]
OnDamage: TypeAlias = Callable[[int, MalformedMessageError], None]

SPAN_ID_BYTES: Final = 8


def decode_metrics(batch: Batch, on_damage: OnDamage | None = None) -> list[Row]:
    """The metrics of a batch of schema METRIC.

    Keys: metric_type, timestamp_ns, name, value, source, service, labels and int_labels (a
    dictionary each; of a key given twice the last counts), temporality, histogram (None, or
    count, sum, min, max, and buckets as (upper bound, cumulative count)), session_id, and
    those of the record: message_index, received_at_ms, source_ip.

    A message that does not decode gives no row: `on_damage` is called with its index and
    the error, which is raised instead if there is no `on_damage`.
    """
    return list(_rows(batch, SchemaType.METRIC, [METRIC_ENTRY], _metrics, on_damage))


def decode_traces(batch: Batch, on_damage: OnDamage | None = None) -> list[Row]:
    """The spans of a batch of schema TRACE; damage is as in `decode_metrics`.

    Keys: trace_id, span_id, parent_span_id, timestamp_ns, duration_ns, name, kind, status,
    source, service, session_id, payload, and those of the record.
    """
    return list(_rows(batch, SchemaType.TRACE, [SPAN], _spans, on_damage))


def decode_snapshots(batch: Batch, on_damage: OnDamage | None = None) -> list[Row]:
    """The snapshots of a batch of schema SNAPSHOT; damage is as in `decode_metrics`.

    Keys: timestamp (ms), source, entity, payload, and those of the record.
    """
    return list(_rows(batch, SchemaType.SNAPSHOT, [SNAPSHOT], _snapshots, on_damage))


def nested_data(message: bytes, schema_type: int) -> bytes:
    """The nested buffer of a message of that schema.

    Raises MalformedMessageError if the envelope is damaged, empty, or of another schema.
    """
    check(message, ENVELOPE)
    envelope = Envelope.GetRootAs(message)
    if envelope.SchemaType() != schema_type:
        raise MalformedMessageError(f"schema {envelope.SchemaType()}, not {schema_type}", 0)
    data = _bytes(envelope.DataAsNumpy())
    if data is None:
        raise MalformedMessageError("no data", 0)
    return data


def _rows(
    batch: Batch,
    schema_type: int,
    shape: Shape | list[Shape],
    read: Any,
    on_damage: OnDamage | None,
) -> Iterator[Row]:
    records = batch.records.tobytes()
    bounds = batch.offsets.tolist()
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        try:
            if not 0 <= start <= end - RECORD_PREFIX_BYTES <= len(records) - RECORD_PREFIX_BYTES:
                raise MalformedMessageError("record reaches outside the batch", start)
            data = nested_data(records[start + RECORD_PREFIX_BYTES : end], schema_type)
            check(data, (shape,))
            found = read(data)
        except MalformedMessageError as error:
            if on_damage is None:
                raise
            on_damage(index, error)
            continue
        common = {
            "message_index": index,
            "received_at_ms": int.from_bytes(records[start : start + 8], "big"),
            "source_ip": records[start + 8 : start + METADATA_BYTES],
        }
        for row in found:
            yield row | common


def _metrics(data: bytes) -> list[Row]:
    root = MetricData.GetRootAs(data)
    if root.MetricsIsNone():
        raise MalformedMessageError("no entries", 0)
    return [_metric(root.Metrics(place)) for place in range(root.MetricsLength())]


def _metric(entry: MetricEntry) -> Row:
    labels = [entry.Labels(place) for place in range(entry.LabelsLength())]
    int_labels = [entry.IntLabels(place) for place in range(entry.IntLabelsLength())]
    return {
        "metric_type": entry.MetricType(),
        "timestamp_ns": entry.Timestamp(),
        "name": _text(entry.Name()),
        "value": entry.Value(),
        "source": _text(entry.Source()),
        "service": _text(entry.Service()),
        "labels": {_text(label.Key()): _text(label.Value()) for label in labels},
        "int_labels": {_text(label.Key()): label.Value() for label in int_labels},
        "temporality": entry.Temporality(),
        "histogram": _histogram(entry.Histogram()),
        "session_id": _id(entry.SessionIdAsNumpy()),
    }


def _histogram(histogram: Histogram | None) -> Row | None:
    if histogram is None:
        return None
    buckets = [histogram.Buckets(place) for place in range(histogram.BucketsLength())]
    return {
        "count": histogram.Count(),
        "sum": histogram.Sum(),
        "min": histogram.Min(),
        "max": histogram.Max(),
        "buckets": [(bucket.UpperBound(), bucket.Count()) for bucket in buckets],
    }


def _spans(data: bytes) -> list[Row]:
    root = TraceData.GetRootAs(data)
    if root.SpansIsNone():
        raise MalformedMessageError("no entries", 0)
    return [_span(root.Spans(place)) for place in range(root.SpansLength())]


def _span(span: Span) -> Row:
    return {
        "trace_id": _id(span.TraceIdAsNumpy()),
        "span_id": _id(span.SpanIdAsNumpy(), SPAN_ID_BYTES),
        "parent_span_id": _id(span.ParentSpanIdAsNumpy(), SPAN_ID_BYTES),
        "timestamp_ns": span.Timestamp(),
        "duration_ns": span.Duration(),
        "name": _text(span.Name()),
        "kind": span.Kind(),
        "status": span.Status(),
        "source": _text(span.Source()),
        "service": _text(span.Service()),
        "session_id": _id(span.SessionIdAsNumpy()),
        "payload": _bytes(span.PayloadAsNumpy()),
    }


def _snapshots(data: bytes) -> list[Row]:
    root = SnapshotData.GetRootAs(data)
    if root.SnapshotsIsNone():
        raise MalformedMessageError("no entries", 0)
    return [_snapshot(root.Snapshots(place)) for place in range(root.SnapshotsLength())]


def _snapshot(snapshot: Snapshot) -> Row:
    return {
        "timestamp": snapshot.Timestamp(),
        "source": _text(snapshot.Source()),
        "entity": _text(snapshot.Entity()),
        "payload": _bytes(snapshot.PayloadAsNumpy()),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _bytes(vector: Any) -> bytes | None:
    """What a generated reader gives for a byte vector: an array, or 0 if it is absent."""
    return vector.tobytes() if isinstance(vector, np.ndarray) else None


def _id(vector: Any, count: int = ID_BYTES) -> bytes | None:
    value = _bytes(vector)
    return value if value is not None and len(value) == count else None
