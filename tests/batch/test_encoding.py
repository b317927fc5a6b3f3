"""Columns become the messages that the clients' own writers would have sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs

ids = st.none() | st.binary(min_size=16, max_size=16)
texts = st.none() | st.text(max_size=50) | st.text(min_size=120, max_size=200)
payloads = st.none() | st.binary(max_size=300)
times = st.integers(0, 2**63 - 1)
events = st.lists(
    st.tuples(st.integers(0, 6), times, ids, ids, texts, texts, payloads), max_size=40
)
logs = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 8), times, ids, texts, texts, payloads), max_size=40
)


def batch_of(records: Any, offsets: Any, schema_type: int = 1) -> Batch:
    count = len(offsets) - 1
    header = BatchHeader(NO_PRODUCER, 0, 0, schema_type, 0, 1, "test", 0, count, 0, len(records), 0)
    return Batch(header, records, offsets)


def event_columns(rows: list[Any]) -> dict[str, Any]:
    """The arguments of encode_events for rows in the order of its columns."""
    types, stamps, devices, sessions, names, services, bodies = (
        zip(*rows, strict=True) if rows else ([],) * 7
    )
    return {
        "event_types": pa.array(types, pa.uint8()),
        "timestamps": pa.array(stamps, pa.int64()),
        "device_ids": pa.array(devices, pa.binary(16)),
        "session_ids": pa.array(sessions, pa.binary(16)),
        "names": pa.array(names, pa.utf8()),
        "services": pa.array(services, pa.utf8()),
        "payloads": pa.array(bodies, pa.binary()),
    }


def tuples_of(table: pa.RecordBatch, columns: list[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


EVENT_COLUMNS = ["event_type", "timestamp", "device_id", "session_id", "event_name", "service"]
LOG_COLUMNS = ["event_type", "level", "timestamp", "session_id", "source", "service", "payload"]


@given(rows=events, per_message=st.integers(1, 9))
def test_events_come_back_as_they_were(rows: list[Any], per_message: int) -> None:
    """Whatever is there or not: what is encoded decodes to the same rows."""
    records, offsets = encode_events(**event_columns(rows), events_per_message=per_message)
    assert len(offsets) == -(-len(rows) // per_message) + 1
    assert offsets[-1] == len(records)
    decoded = decode_events(batch_of(records, offsets))
    decoded.table.validate(full=True)
    assert decoded.damaged.size == 0
    assert tuples_of(decoded.table, [*EVENT_COLUMNS, "payload"]) == rows


@given(rows=events, per_message=st.integers(1, 9))
def test_events_in_the_collectors_layout_come_back_as_they_were(
    rows: list[Any], per_message: int
) -> None:
    """The 6-field layout carries all but the service."""
    columns = event_columns([(*row[:5], None, row[6]) for row in rows])
    del columns["services"]
    records, offsets = encode_events(**columns, events_per_message=per_message, layout="collector")
    decoded = decode_events(batch_of(records, offsets), "v1")
    assert tuples_of(decoded.table, [*EVENT_COLUMNS, "payload"]) == [
        (*row[:5], None, row[6]) for row in rows
    ]


@pytest.mark.parametrize("layout", ["sdk", "collector"])
@given(rows=logs, per_message=st.integers(1, 9))
def test_log_entries_come_back_as_they_were(layout: Any, rows: list[Any], per_message: int) -> None:
    """Both layouts of log entries carry every field."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * 7
    kinds = [pa.uint8(), pa.uint8(), pa.int64(), pa.binary(16), pa.utf8(), pa.utf8(), pa.binary()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    records, offsets = encode_logs(*arrays, events_per_message=per_message, layout=layout)
    decoded = decode_logs(batch_of(records, offsets, 2))
    assert decoded.damaged.size == 0
    assert tuples_of(decoded.table, LOG_COLUMNS) == rows


@given(rows=events.filter(bool), per_message=st.integers(1, 9))
def test_the_generated_readers_read_what_is_encoded(
    oracle: Any, rows: list[Any], per_message: int
) -> None:
    """Message by message and field by field, with key, version and batch id in the envelope."""
    from cdp_ray_sinks.batch.generated.Batch import Batch as Envelope

    key = bytes(range(16))
    frames, offsets = encode_events(
        **event_columns(rows), events_per_message=per_message, api_key=key, batch_id=100,
        as_frames=True,
    )  # fmt: skip
    messages = oracle.frames(frames.tobytes())
    assert [row for message in messages for row in oracle.events(message, "v2")] == [
        dict(zip([*EVENT_COLUMNS, "payload"], row, strict=True)) for row in rows
    ]
    for place, message in enumerate(messages):
        envelope = Envelope.GetRootAs(message)
        assert envelope.ApiKeyAsNumpy().tobytes() == key
        assert (envelope.SchemaType(), envelope.Version()) == (1, 100)
        assert envelope.BatchId() == 100 + place
        assert int(offsets[place + 1] - offsets[place]) == 4 + len(message)


def test_captured_messages_are_written_again_byte_by_byte(captures: Path, oracle: Any) -> None:
    """Decoding what a client's writer sent and encoding it gives the very same bytes."""
    sdk = (captures / "rust_encoding_0.5.0_frames.bin").read_bytes()
    collector = (captures / "collector_dialect_frames.bin").read_bytes()
    for content, layout, key, first_id in (
        (sdk, "sdk", bytes.fromhex("feed1e11" * 4), 7),
        (collector, "collector", bytes(range(16)), 0),
    ):
        event_message, log_message = oracle.frames(content)[:2]
        table = decode_events(oracle.batch([event_message])).table
        services = table["service"] if layout == "sdk" else None
        frames, _ = encode_events(
            table["event_type"], table["timestamp"], table["device_id"], table["session_id"],
            table["event_name"], services, table["payload"], events_per_message=500,
            api_key=key, batch_id=first_id, layout=layout, as_frames=True,
        )  # fmt: skip
        assert frames.tobytes()[4:] == event_message
        table = decode_logs(oracle.batch([log_message], 2)).table
        frames, _ = encode_logs(
            *(table[name] for name in LOG_COLUMNS), events_per_message=500, api_key=key,
            batch_id=first_id and first_id + 1, layout=layout, as_frames=True,
        )  # fmt: skip
        assert frames.tobytes()[4:] == log_message


def test_records_carry_time_and_address() -> None:
    """Every record begins with its received time, its source and the size of its message."""
    ip = bytes(range(16))
    records, offsets = encode_events(
        np.ones(3, np.uint8), np.arange(3), events_per_message=1, received_at_ms=77, source_ip=ip
    )
    table = decode_events(batch_of(records, offsets)).table
    assert table["received_at_ms"].to_pylist() == [77] * 3
    assert table["source_ip"].to_pylist() == [ip] * 3
    assert table["message_index"].to_pylist() == [0, 1, 2]
    assert records[24:28].tobytes() == (int(offsets[1]) - 28).to_bytes(4, "big")


@pytest.mark.parametrize(
    "form",
    [
        lambda column: column,
        lambda column: pa.concat_arrays([pa.array(["x", None]), column, column]).slice(2, 4),
        lambda column: pa.chunked_array([column.slice(0, 1), column.slice(1)]),
        lambda column: column.dictionary_encode(),
        lambda column: pa.concat_arrays([column, column]).dictionary_encode().slice(4, 4),
        lambda column: column.cast(pa.large_utf8()),
        lambda column: column.cast(pa.string_view()),
        lambda column: column.cast(pa.binary()),
        lambda column: pa.DictionaryArray.from_arrays(
            pa.array([2, 0, 3, 1], pa.int8()), pa.array([None, "longer than the others", "a", ""])
        ),
    ],
)
def test_strings_may_come_in_any_arrow_form(form: Any) -> None:
    """Sliced, chunked, dictionary-encoded, large: the rows are the same."""
    column = pa.array(["a", None, "", "longer than the others"])
    ones = np.ones(4, np.uint8)
    records, offsets = encode_events(
        ones, ones, names=form(column), payloads=form(column), events_per_message=3
    )
    table = decode_events(batch_of(records, offsets)).table
    assert table["event_name"].to_pylist() == column.to_pylist()
    assert table["payload"].to_pylist() == column.cast(pa.binary()).to_pylist()


def test_columns_may_be_numpy() -> None:
    """Bytes with offsets, dictionaries of them, and ids as rows of 16 bytes."""
    text = np.frombuffer(b"oneoneandtwo", np.uint8)
    words = (text, np.array([0, 3, 9, 12], np.int32))
    devices = np.arange(64, dtype=np.uint8).reshape(4, 16)
    records, offsets = encode_events(
        np.ones(4, np.uint8),
        np.arange(4, dtype=np.uint64),
        devices,
        devices.reshape(-1),
        names=(np.array([2, 0, 1, 2], np.int32), words),
        payloads=(text, np.array([0, 0, 3, 3, 12], np.int32)),
        events_per_message=4,
    )
    table = decode_events(batch_of(records, offsets)).table
    assert table["event_name"].to_pylist() == ["two", "one", "oneand", "two"]
    assert table["payload"].to_pylist() == [b"", b"one", b"", b"oneandtwo"]
    assert table["device_id"].to_pylist() == [row.tobytes() for row in devices]
    assert table["session_id"].equals(table["device_id"])


def test_output_memory_is_used_again() -> None:
    """Given back as `out`, the memory of one call holds the next."""
    ones = np.ones(100, np.uint8)
    first, _ = encode_events(ones, ones, events_per_message=10)
    second, _ = encode_events(ones, ones, events_per_message=10, out=first.base)
    assert second.base is first.base
    larger, _ = encode_events(
        ones, ones, payloads=pa.array([b"x" * 1000] * 100), events_per_message=10, out=first.base
    )
    assert larger.base is not first.base


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"timestamps": np.arange(3)}, "timestamps: 3 values, 2 wanted"),
        ({"names": pa.array(["a"])}, "names: 1 values, 2 wanted"),
        ({"device_ids": np.zeros((2, 15), np.uint8)}, "device_ids: 30 values, 32 wanted"),
        ({"timestamps": pa.array([1, None])}, "timestamps: 1 nulls"),
        ({"event_types": pa.array([1, 300])}, "event_types"),
        ({"names": (np.array([0, 7], np.int32), (np.zeros(1, np.uint8), np.zeros(2, np.int32)))},
         "row 1 has an index outside its dictionary"),
        ({"names": (np.array([-1, 0], np.int32), (np.zeros(1, np.uint8), np.zeros(2, np.int32)))},
         "row 0 has an index outside its dictionary"),
        ({"payloads": (np.zeros(4, np.uint8), np.array([0, 2, 1], np.int32))}, "row 1 has offsets"),
        ({"payloads": (np.zeros(4, np.uint8), np.array([0, 2, 9], np.int32))}, "row 1 has offsets"),
        ({"payloads": (np.zeros(4, np.uint8), np.array([-5, 2, 3], np.int32))}, "row 0 has offset"),
        ({"events_per_message": 0}, "0 events per message"),
        ({"api_key": b"short"}, "16 bytes of api key"),
        ({"layout": "collector", "services": pa.array(["a", "b"])}, "no field for services"),
        ({"layout": "collector", "batch_id": 1}, "no batch id"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused(changed: dict[str, Any], text: str) -> None:
    """The error says which column and what is wrong with it; nothing is written."""
    columns: dict[str, Any] = {
        "event_types": np.ones(2, np.uint8),
        "timestamps": np.arange(2),
        "events_per_message": 1,
    }
    with pytest.raises((ValueError, pa.ArrowInvalid), match=text):
        encode_events(**{**columns, **changed})
