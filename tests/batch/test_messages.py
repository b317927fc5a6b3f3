"""Metrics, spans and snapshots are read whole, and hostile ones refused in good time."""

from __future__ import annotations

import math
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from cdp_ray_sinks.batch.messages import decode_metrics, decode_snapshots, decode_traces
from cdp_ray_sinks.errors import MalformedMessageError

SESSION = b"\x22" * 16


def _vector(builder: Any, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    vector: int = builder.EndVector()
    return vector


def _finished(builder: Any, entries: list[int]) -> bytes:
    vector = _vector(builder, entries)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def metric_data() -> bytes:
    """A histogram with everything, and an entry with nothing."""
    b = flatbuffers.Builder(256)
    key, value = b.CreateString("method"), b.CreateString("GET")
    b.StartObject(2)
    b.PrependUOffsetTRelativeSlot(0, key, 0)
    b.PrependUOffsetTRelativeSlot(1, value, 0)
    labels = _vector(b, [b.EndObject()])
    key = b.CreateString("code")
    b.StartObject(2)
    b.PrependUOffsetTRelativeSlot(0, key, 0)
    b.PrependInt64Slot(1, -200, 0)
    int_labels = _vector(b, [b.EndObject()])
    buckets = []
    for bound, count in ((1.0, 1), (math.inf, 3)):
        b.StartObject(2)
        b.PrependFloat64Slot(0, bound, 0.0)
        b.PrependUint64Slot(1, count, 0)
        buckets.append(b.EndObject())
    buckets_vector = _vector(b, buckets)
    b.StartObject(5)
    b.PrependUint64Slot(0, 3, 0)
    b.PrependFloat64Slot(1, 4.5, 0.0)
    b.PrependUOffsetTRelativeSlot(2, buckets_vector, 0)
    b.PrependFloat64Slot(3, 0.5, 0.0)
    b.PrependFloat64Slot(4, 2.5, 0.0)
    histogram = b.EndObject()
    name, source = b.CreateString("latency"), b.CreateString(b"host\xff")
    session = b.CreateByteVector(SESSION)
    b.StartObject(11)
    b.PrependUint8Slot(0, 3, 0)
    b.PrependUint64Slot(1, 1_700_000_000_000_000_002, 0)
    b.PrependUOffsetTRelativeSlot(2, name, 0)
    b.PrependFloat64Slot(3, 1.25, 0.0)
    b.PrependUOffsetTRelativeSlot(4, source, 0)
    b.PrependUOffsetTRelativeSlot(6, labels, 0)
    b.PrependUint8Slot(7, 2, 0)
    b.PrependUOffsetTRelativeSlot(8, histogram, 0)
    b.PrependUOffsetTRelativeSlot(9, session, 0)
    b.PrependUOffsetTRelativeSlot(10, int_labels, 0)
    full = b.EndObject()
    b.StartObject(11)
    return _finished(b, [full, b.EndObject()])


def span_data() -> bytes:
    """A child span and a root whose parent id is empty."""
    b = flatbuffers.Builder(256)
    spans = []
    for parent in (b"\x02" * 8, b""):
        trace, span = b.CreateByteVector(b"\x01" * 16), b.CreateByteVector(b"\x03" * 8)
        above, name = b.CreateByteVector(parent), b.CreateString("GET /")
        payload = b.CreateByteVector(b"{}")
        b.StartObject(12)
        for slot, place in ((0, trace), (1, span), (2, above), (5, name), (11, payload)):
            b.PrependUOffsetTRelativeSlot(slot, place, 0)
        b.PrependUint64Slot(3, 1_700_000_000_000_000_001, 0)
        b.PrependUint64Slot(4, 5_000, 0)
        b.PrependUint8Slot(6, 2, 0)
        b.PrependUint8Slot(7, 1, 0)
        spans.append(b.EndObject())
    return _finished(b, spans)


def snapshot_data() -> bytes:
    """One snapshot."""
    b = flatbuffers.Builder(256)
    source, entity = b.CreateString("crm"), b.CreateString("account/7")
    payload = b.CreateByteVector(b'{"plan":"pro"}')
    b.StartObject(4)
    b.PrependUint64Slot(0, 1_700_000_000_000, 0)
    for slot, place in ((1, source), (2, entity), (3, payload)):
        b.PrependUOffsetTRelativeSlot(slot, place, 0)
    return _finished(b, [b.EndObject()])


Decode = Callable[..., list[dict[str, Any]]]
KINDS: list[Any] = [
    pytest.param(3, metric_data(), decode_metrics, 2, id="metrics"),
    pytest.param(4, span_data(), decode_traces, 2, id="spans"),
    pytest.param(5, snapshot_data(), decode_snapshots, 1, id="snapshots"),
]


def test_captured_metrics_are_read(captures: Path, oracle: Any) -> None:
    """A gauge with a label and a delta histogram, as the Rust SDK sent them."""
    message = oracle.frames((captures / "rust_encoding_0.5.0_frames.bin").read_bytes())[2]
    gauge, histogram = decode_metrics(oracle.batch([message], 3))
    assert (gauge["metric_type"], gauge["name"], gauge["value"]) == (1, "cpu_percent", 45.25)
    assert gauge["labels"] == {"method": "GET"}
    assert gauge["timestamp_ns"] == 1_700_000_000_000_000_001
    assert histogram["temporality"] == 2
    assert histogram["histogram"]["buckets"] == [(1.0, 1), (math.inf, 3)]
    assert histogram["session_id"] == SESSION


def test_metrics_are_read_whole(oracle: Any) -> None:
    """Every field of a full entry, and the absence of every field of an empty one."""
    full, empty = decode_metrics(oracle.batch([oracle.build(metric_data(), 3)], 3))
    record = {
        "message_index": 0,
        "received_at_ms": oracle.received_at_ms,
        "source_ip": oracle.source_ip,
    }
    assert full == record | {
        "metric_type": 3,
        "timestamp_ns": 1_700_000_000_000_000_002,
        "name": "latency",
        "value": 1.25,
        "source": "host\ufffd",
        "service": None,
        "labels": {"method": "GET"},
        "int_labels": {"code": -200},
        "temporality": 2,
        "histogram": {
            "count": 3, "sum": 4.5, "min": 0.5, "max": 2.5, "buckets": [(1.0, 1), (math.inf, 3)],
        },
        "session_id": SESSION,
    }  # fmt: skip
    assert {key for key, value in empty.items() if value} == {"received_at_ms", "source_ip"}


def test_spans_are_read_whole(oracle: Any) -> None:
    """Ids, times in nanoseconds, and no parent where its id is empty."""
    child, root = decode_traces(oracle.batch([oracle.build(span_data(), 4)], 4))
    assert child["trace_id"] == b"\x01" * 16
    assert (child["span_id"], child["parent_span_id"]) == (b"\x03" * 8, b"\x02" * 8)
    assert (child["timestamp_ns"], child["duration_ns"]) == (1_700_000_000_000_000_001, 5_000)
    assert (child["name"], child["kind"], child["status"]) == ("GET /", 2, 1)
    assert (child["payload"], child["session_id"]) == (b"{}", None)
    assert root["parent_span_id"] is None


def test_snapshots_are_read_whole(oracle: Any) -> None:
    """Time, source, entity and payload."""
    (row,) = decode_snapshots(oracle.batch([oracle.build(snapshot_data(), 5)], 5))
    assert (row["timestamp"], row["source"], row["entity"]) == (
        1_700_000_000_000,
        "crm",
        "account/7",
    )
    assert row["payload"] == b'{"plan":"pro"}'


@pytest.mark.parametrize(("schema_type", "data", "decode", "count"), KINDS)
def test_damage_is_told_and_neighbours_stand(
    oracle: Any, schema_type: int, data: bytes, decode: Decode, count: int
) -> None:
    """Each damaged message is reported with its index, or raised if nobody listens."""
    good = oracle.build(data, schema_type)
    wrong_schema = oracle.build(data, 1)
    no_rows = oracle.build(struct.pack("<I2Hi", 8, 4, 4, 4), schema_type)
    batch = oracle.batch([good, good[:60], good, wrong_schema, b"", no_rows, good], schema_type)
    seen: list[int] = []
    rows = decode(batch, lambda index, error: seen.append(index))
    assert seen == [1, 3, 4, 5]
    assert [row["message_index"] for row in rows] == [
        place for place in (0, 2, 6) for _ in range(count)
    ]
    with pytest.raises(MalformedMessageError):
        decode(batch)


@pytest.mark.parametrize(("schema_type", "data", "decode", "count"), KINDS)
def test_random_damage_only_ever_makes_a_malformed_message(
    oracle: Any, schema_type: int, data: bytes, decode: Decode, count: int
) -> None:
    """No other error, no hang, no huge allocation, whichever bytes are wrong."""
    chance = random.Random(schema_type)
    good = oracle.build(data, schema_type)
    messages = []
    for _ in range(3000):
        content = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(content))
            content[place] = chance.choice((0, 1, 4, 0x7F, 0xFF, chance.randrange(256)))
        messages.append(bytes(content))
    damaged: list[int] = []
    rows = decode(oracle.batch(messages, schema_type), lambda index, error: damaged.append(index))
    intact = {row["message_index"] for row in rows}
    assert not intact & set(damaged)
    assert 0 < len(damaged) < len(messages)


def test_a_small_message_that_unpacks_to_gigabytes_is_refused_at_once(oracle: Any) -> None:
    """Snapshots that share one payload, or one table a million times, cost no memory."""
    b = flatbuffers.Builder(256)
    payload = b.CreateByteVector(bytes(100_000))
    tables = []
    for _ in range(10_000):
        b.StartObject(4)
        b.PrependUOffsetTRelativeSlot(3, payload, 0)
        tables.append(b.EndObject())
    shared = oracle.build(_finished(b, tables), 5)
    count = 1_000_000
    offsets = np.arange(4 * count, 0, -4, np.uint32) + 4
    head = struct.pack("<I4H2II", 12, 6, 8, 4, 0, 8, 4, count)
    one_table = oracle.build(
        head + offsets.astype("<u4").tobytes() + struct.pack("<2Hi", 4, 4, 4), 5
    )
    began = time.monotonic()
    for bomb in (shared, one_table):
        with pytest.raises(MalformedMessageError, match="unpacks to far more"):
            decode_snapshots(oracle.batch([bomb], 5))
    assert time.monotonic() - began < 5
