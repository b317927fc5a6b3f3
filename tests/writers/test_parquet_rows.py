"""Metrics, spans and snapshots as rows of Parquet files."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

import flatbuffers
import pyarrow as pa
import pytest

from cdp_ray_sinks.writers.parquet import ParquetSettings

HERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
RECEIVED_MS = 1_767_225_600_000
NS = 1_700_000_000_000_000_001
TRACE, SPAN, SESSION = bytes(range(16)), bytes(range(8)), b"\x22" * 16


def table_of(b: Any, count: int, values: dict[int, Any]) -> int:
    """A table of `count` slots; values are (how to put it, value)."""
    b.StartObject(count)
    for slot, (put, value) in values.items():
        getattr(b, put)(slot, value, 0)
    table: int = b.EndObject()
    return table


def vector_of(b: Any, tables: list[int]) -> tuple[str, int]:
    b.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        b.PrependUOffsetTRelative(table)
    return "PrependUOffsetTRelativeSlot", b.EndVector()


def text(b: Any, value: bytes) -> tuple[str, int]:
    return "PrependUOffsetTRelativeSlot", b.CreateString(value)


def metrics(rows: list[dict[str, Any]]) -> bytes:
    """The data of metric entries with those of the fields that are given."""
    b = flatbuffers.Builder(1024)
    entries = []
    for row in rows:
        values: dict[int, Any] = {
            0: ("PrependUint8Slot", row.get("type", 0)),
            1: ("PrependUint64Slot", row.get("time", 0)),
            3: ("PrependFloat64Slot", row.get("value", 0.0)),
            7: ("PrependUint8Slot", row.get("temporality", 0)),
        }
        for slot, name in ((2, "name"), (4, "source"), (5, "service"), (9, "session")):
            if name in row:
                values[slot] = text(b, row[name])
        for slot, name, put in ((6, "labels", None), (10, "int_labels", "PrependInt64Slot")):
            labels = []
            for key, value in row.get(name, {}).items():
                parts = {0: text(b, key), 1: (put, value) if put else text(b, value)}
                labels.append(table_of(b, 2, parts))
            if labels:
                values[slot] = vector_of(b, labels)
        if "histogram" in row:
            count, total, lowest, highest, pairs = row["histogram"]
            buckets = [
                table_of(b, 2, {0: ("PrependFloat64Slot", at), 1: ("PrependUint64Slot", n)})
                for at, n in pairs
            ]
            values[8] = (
                "PrependUOffsetTRelativeSlot",
                table_of(b, 5, {
                    2: vector_of(b, buckets), 0: ("PrependUint64Slot", count),
                    1: ("PrependFloat64Slot", total), 3: ("PrependFloat64Slot", lowest),
                    4: ("PrependFloat64Slot", highest),
                }),
            )  # fmt: skip
        entries.append(table_of(b, 11, values))
    b.Finish(table_of(b, 1, {0: vector_of(b, entries)}))
    return bytes(b.Output())


def test_metrics_have_a_row_each(oracle: Any, parquet_bench: Any) -> None:
    """Labels as maps, a histogram as one value, words for what are numbers on the wire."""
    data = metrics([
        {
            "type": 3, "time": NS + 1, "name": b"latency", "value": 1.25, "source": b"host\xff",
            "session": SESSION, "temporality": 2, "labels": {b"method": b"GET", b"path": b"/"},
            "int_labels": {b"code": -200},
            "histogram": (3, 4.5, 0.5, 2.5, [(1.0, 1), (math.inf, 2**64 - 1)]),
        },
        {"type": 9, "time": NS, "name": b"", "temporality": 1},
    ])  # fmt: skip
    batch = parquet_bench.batch([(oracle.build(data, 3), RECEIVED_MS, HERE)], 3)
    first, second = parquet_bench.rows(parquet_bench.written("metrics", [batch]))
    record = {
        "batch_timestamp": RECEIVED_MS, "workspace_id": parquet_bench.workspace_id,
        "source_ip": "10.0.0.7", "timestamp_raw": None,
    }  # fmt: skip
    assert second == record | {
        "timestamp": NS + 1, "metric_type": "histogram", "name": "latency", "value": 1.25,
        "source": "host\ufffd", "service": None, "temporality": "delta",
        "labels": [("method", "GET"), ("path", "/")], "int_labels": [("code", -200)],
        "histogram": {
            "count": 3, "sum": 4.5, "min": 0.5, "max": 2.5,
            "buckets": [
                {"upper_bound": 1.0, "count": 1}, {"upper_bound": math.inf, "count": 2**63 - 1}
            ],
        },
        "session_id": UUID(bytes=SESSION),
    }  # fmt: skip
    assert first == record | {
        "timestamp": NS, "metric_type": "9", "name": "", "value": 0.0, "source": None,
        "service": None, "temporality": "cumulative", "labels": [], "int_labels": [],
        "histogram": None, "session_id": None,
    }  # fmt: skip


@pytest.mark.parametrize("uuid_type", ["uuid", "text"])
def test_spans_have_a_row_each(oracle: Any, parquet_bench: Any, uuid_type: Any) -> None:
    """Ids of traces in hex as everybody writes them; a payload that is no text is kept."""
    rows = [
        [
            TRACE, SPAN, b"", ("u64", NS), ("u64", 2**64 - 1), b"GET /", ("u8", 2), ("u8", 1),
            b"edge", b"web", SESSION, b'{"a":1}',
        ],
        [
            TRACE, SPAN, SPAN[::-1], ("u64", NS - 1), ("u64", 5), b"", ("u8", 77), None,
            None, None, b"short", b"\xff\x00",
        ],
    ]  # fmt: skip
    batch = parquet_bench.batch([(oracle.build_rows(rows, 4), RECEIVED_MS, HERE)], 4)
    file = parquet_bench.written("traces", [batch], ParquetSettings(uuid_type=uuid_type))
    first, second = parquet_bench.rows(file)
    assert (first["timestamp"], first["duration_ns"]) == (NS - 1, 5)
    assert (first["trace_id"], first["span_id"]) == (TRACE.hex(), SPAN.hex())
    assert first["parent_span_id"] == "0706050403020100"
    assert (first["kind"], first["status"], first["name"]) == ("77", "unset", "")
    assert (first["payload"], first["payload_bytes"]) == (None, b"\xff\x00")
    assert first["session_id"] is None
    assert (second["timestamp"], second["duration_ns"]) == (NS, 2**63 - 1)
    assert (second["parent_span_id"], second["kind"], second["status"]) == (None, "server", "ok")
    assert (second["source"], second["service"], second["payload"]) == ("edge", "web", '{"a":1}')
    session = UUID(bytes=SESSION)
    assert second["session_id"] == (session if uuid_type == "uuid" else str(session))


def test_snapshots_have_a_row_each(oracle: Any, parquet_bench: Any) -> None:
    """Sorted by time over messages and batches, those beyond all calendars last."""
    times = [RECEIVED_MS + 5, 2**64 - 1, RECEIVED_MS, 253_402_300_800_000]
    batches = [
        parquet_bench.batch(
            [
                (
                    oracle.build_rows([[("u64", time), b"crm", b"account/%d" % time, b"{}"]], 5),
                    RECEIVED_MS,
                    bytes(15) + b"\x01",
                )
            ],
            5,
        )
        for time in times
    ]
    rows = parquet_bench.rows(parquet_bench.written("snapshots", batches))
    assert [row["timestamp"] for row in rows] == [RECEIVED_MS, RECEIVED_MS + 5, None, None]
    assert [row["timestamp_raw"] for row in rows] == [None, None, 2**63 - 1, 253_402_300_800_000]
    late = [row["entity"] for row in rows if row["timestamp"] is None]
    assert late == [f"account/{times[1]}", f"account/{times[3]}"]
    assert {(row["source"], row["source_ip"], row["payload"]) for row in rows} == {
        ("crm", "::1", "{}")
    }


@pytest.mark.parametrize(
    ("time", "is_time"), [(2**63 - 2, True), (2**63 - 1, False), (2**64 - 1, False), (0, True)]
)
def test_nanoseconds_end_in_the_year_2262(
    oracle: Any, parquet_bench: Any, time: int, is_time: bool
) -> None:
    """A time that 64 bits of nanoseconds can't hold is null, its number kept beside it."""
    batch = parquet_bench.batch([(oracle.build(metrics([{"time": time}]), 3), 0, HERE)], 3)
    (row,) = parquet_bench.rows(parquet_bench.written("metrics", [batch]))
    kept = min(time, 2**63 - 1)
    assert (row["timestamp"], row["timestamp_raw"]) == ((kept, None) if is_time else (None, kept))


def test_damaged_messages_are_listed(oracle: Any, parquet_bench: Any) -> None:
    """With the batch and the place they are in; the others stand."""
    good = (oracle.build(metrics([{"time": NS, "name": b"n"}]), 3), RECEIVED_MS, HERE)
    bad = (good[0][:40], RECEIVED_MS, HERE)
    batches = [parquet_bench.batch([good, bad], 3), parquet_bench.batch([bad, good, bad], 3)]
    counts = parquet_bench.counts("metrics", batches)
    assert (counts.rows, counts.messages) == (2, 2)
    assert [(each.batch, each.message) for each in counts.damaged] == [(0, 1), (1, 0), (1, 2)]
    nothing = parquet_bench.counts("metrics", [parquet_bench.batch([bad], 3)])
    assert (nothing.rows, nothing.row_groups, len(nothing.damaged)) == (0, 0, 1)


def test_the_columns_are_natural_ones(oracle: Any, parquet_bench: Any) -> None:
    """What a reader of the file is told of its types."""
    batch = parquet_bench.batch([(oracle.build(metrics([{"time": NS}]), 3), 0, HERE)], 3)
    schema = parquet_bench.written("metrics", [batch]).schema_arrow
    assert schema.field("timestamp").type == pa.timestamp("ns", "UTC")
    assert schema.field("labels").type == pa.map_(pa.utf8(), pa.utf8())
    assert schema.field("session_id").type == pa.uuid()
