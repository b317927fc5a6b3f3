"""Events and log entries are in Parquet files as the flatbuffers library reads them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.damage import damaged_messages
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings

HERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
START_MS = 1_767_225_600_000
IDS = st.none() | st.binary(min_size=16, max_size=16) | st.sampled_from([b"", bytes(15), bytes(17)])
TEXTS = st.none() | st.text(max_size=5).map(str.encode) | st.binary(max_size=4)
PAYLOADS = st.none() | st.text(max_size=40).map(str.encode) | st.binary(max_size=9)
TIMES = st.one_of(
    st.integers(START_MS, START_MS + 100),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 253_402_300_799_999, 253_402_300_800_000, 2**63 - 1, 2**63, 2**64 - 1]),
)
CODES = st.integers(0, 255)
ADDRESSES = st.sampled_from([HERE, bytes(16), b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"])
RECEIVED = st.integers(START_MS, START_MS + 5) | st.sampled_from([0, 2**63 - 1, 2**64 - 1])


def sdk_fields(values: Sequence[Any]) -> list[Any]:
    code, time, service, device, session, name, payload = values
    # Without its last field the builder would make a table of the other dialect's size.
    return [("u8", code), ("u64", time), service, device, session, name, payload or b""]


def collector_fields(values: Sequence[Any]) -> list[Any]:
    code, time, _, device, session, name, payload = values
    # A name of 16 bytes could be a session, and a payload of a dialect with one more field.
    name = None if name is not None and len(name) == 16 else name
    return [("u8", code), ("u64", time), device or bytes(16), session or bytes(16), name, payload]


def log_fields(values: Sequence[Any]) -> list[Any]:
    code, time, service, level_of, session, source, payload = values
    level = None if level_of is None else ("u8", (level_of or b"\x03")[0])
    return [("u8", code), session, level, ("u64", time), source, service, payload]


VALUES = st.tuples(CODES, TIMES, TEXTS, IDS, IDS, TEXTS, PAYLOADS)
MESSAGES = st.tuples(st.lists(VALUES, min_size=1, max_size=4), RECEIVED, ADDRESSES)
BATCHES = st.lists(st.lists(MESSAGES, min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("dialect", ["v1", "v2"])
@given(drawn=BATCHES)
def test_any_events_round_trip(
    parquet_bench: Any, oracle: Any, dialect: str, drawn: list[list[Any]]
) -> None:
    """Every field of either dialect: ids of wrong lengths, times beyond all calendars, bytes
    that are no text, absent and empty values; equal times in the order they came."""
    fields = sdk_fields if dialect == "v2" else collector_fields
    sent = [
        [(oracle.build_rows([fields(v) for v in rows]), *rest) for rows, *rest in messages]
        for messages in drawn
    ]
    found = parquet_bench.written("events", [parquet_bench.batch(each) for each in sent])

    def read(message: bytes) -> list[Any]:
        events: list[Any] = oracle.events(message, dialect)
        return events

    assert parquet_bench.rows(found) == parquet_bench.expected(read, parquet_bench.event_row, sent)


@given(drawn=BATCHES)
def test_any_log_entries_round_trip(
    parquet_bench: Any, oracle: Any, drawn: list[list[Any]]
) -> None:
    """As events; a level that is absent is info."""
    sent = [
        [(oracle.build_rows([log_fields(v) for v in rows], 2), *rest) for rows, *rest in messages]
        for messages in drawn
    ]
    found = parquet_bench.written("logs", [parquet_bench.batch(each, 2) for each in sent])
    assert parquet_bench.rows(found) == parquet_bench.expected(
        oracle.logs, parquet_bench.log_row, sent
    )


def captured(oracle: Any, path: Path, schema_type: int) -> list[tuple[bytes, int, bytes]]:
    messages = oracle.frames(path.read_bytes())
    chosen = [message for message in messages if oracle.schema_of(message) == schema_type]
    return [(message, START_MS + place, HERE) for place, message in enumerate(chosen)]


def test_captured_events_are_read_as_they_were_meant(
    captures: Path, oracle: Any, parquet_bench: Any
) -> None:
    """Both dialects, as the Rust SDK and the collector's encoder sent them, in one file."""
    sdk = captured(oracle, captures / "rust_encoding_0.5.0_frames.bin", 1)
    collector = captured(oracle, captures / "collector_dialect_frames.bin", 1)
    batches = [parquet_bench.batch(sdk), parquet_bench.batch(collector)]
    rows = parquet_bench.rows(parquet_bench.written("events", batches))
    expected = parquet_bench.expected(
        lambda message: oracle.events(message, "v2"), parquet_bench.event_row, [sdk]
    ) + parquet_bench.expected(
        lambda message: oracle.events(message, "v1"), parquet_bench.event_row, [collector]
    )
    assert rows == sorted(expected, key=lambda row: row["timestamp"])
    viewed = next(row for row in rows if row["service"] == "rust-sdk")
    assert (viewed["event_type"], viewed["event_name"]) == ("track", "Page Viewed")
    assert viewed["device_id"] == UUID(bytes=b"\x11" * 16)
    assert (viewed["timestamp"], viewed["source_ip"]) == (1_700_000_000_001, "10.0.0.7")


def test_captured_log_entries_are_read_as_they_were_meant(
    captures: Path, oracle: Any, parquet_bench: Any
) -> None:
    """Every message of the schema that a client sent."""
    sent = [
        captured(oracle, captures / name, 2)
        for name in ("rust_encoding_0.5.0_frames.bin", "collector_dialect_frames.bin")
    ]
    assert any(sent)
    batches = [parquet_bench.batch(each, 2) for each in sent]
    rows = parquet_bench.rows(parquet_bench.written("logs", batches))
    assert rows == parquet_bench.expected(oracle.logs, parquet_bench.log_row, sent)


def test_ids_can_be_text(oracle: Any, parquet_bench: Any) -> None:
    """36 characters each, null where they were null, moved with their rows."""
    device = bytes(range(16))
    rows = [
        sdk_fields((1, START_MS + 1, None, device, None, None, b"{}")),
        sdk_fields((1, START_MS, None, None, device, None, b"{}")),
    ]
    batch = parquet_bench.batch([(oracle.build_rows(rows), START_MS, HERE)])
    file = parquet_bench.written("events", [batch], ParquetSettings(uuid_type="text"))
    found = [(row["device_id"], row["session_id"]) for row in parquet_bench.rows(file)]
    assert found == [(None, str(UUID(bytes=device))), (str(UUID(bytes=device)), None)]


def many(oracle: Any, parquet_bench: Any, count: int, time_of: Any) -> tuple[Batch, list[Any]]:
    """Messages of one event each, every one from an address of its own."""
    sent = [
        (
            oracle.build_rows(
                [sdk_fields((1, time_of(n), b"s%d" % n, None, None, b"n%d" % n, b"%d" % n))]
            ),
            START_MS + n,
            n.to_bytes(16, "big"),
        )
        for n in range(count)
    ]
    return parquet_bench.batch(sent), sent


@pytest.mark.parametrize("is_sorted", [True, False])
def test_more_names_and_addresses_than_a_small_dictionary_takes(
    oracle: Any, parquet_bench: Any, is_sorted: bool
) -> None:
    """Two thousand of each go another way and are the same."""
    chance = random.Random(7)
    times = {n: START_MS + (n if is_sorted else chance.randrange(1000)) for n in range(2000)}
    batch, sent = many(oracle, parquet_bench, 2000, times.__getitem__)
    rows = parquet_bench.rows(parquet_bench.written("events", [batch]))
    assert rows == parquet_bench.expected(
        lambda message: oracle.events(message, "v2"), parquet_bench.event_row, [sent]
    )


def test_damaged_messages_leave_no_row_and_their_neighbours_stand(
    oracle: Any, parquet_bench: Any
) -> None:
    """Random damage in every other message: exactly those that don't decode are listed, and
    the rows of all that were sent whole are there."""
    chance = random.Random(11)
    out = BytesIO()
    file = ParquetFile(out, "events", parquet_bench.workspace_id)
    whole: list[Any] = []
    refused = kept = 0
    for _ in range(60):
        batches = []
        for _ in range(2):
            messages = [hurt(oracle, chance, is_hurt=place % 2 > 0) for place in range(20)]
            batches.append(parquet_bench.batch(messages))
            whole.append(messages[::2])
        counts = file.add(batches)
        listed = [(each.batch, each.message) for each in counts.damaged]
        assert listed == [
            (place, each.message)
            for place, batch in enumerate(batches)
            for each in damaged_messages(batch)
        ]
        assert all(each.reason for each in counts.damaged)
        assert counts.messages == 40 - len(listed)
        refused, kept = refused + len(listed), kept + 40 - len(listed)
    assert refused > 100
    assert kept > 60 * 20 + 100
    file.finish({})
    rows = parquet_bench.rows(pq.ParquetFile(BytesIO(out.getvalue())))
    assert len(rows) == file.rows
    found = Counter(str(sorted(row.items())) for row in rows)
    expected = parquet_bench.expected(
        lambda message: oracle.events(message, "v2"), parquet_bench.event_row, whole
    )
    assert not Counter(str(sorted(row.items())) for row in expected) - found


def hurt(oracle: Any, chance: random.Random, *, is_hurt: bool) -> tuple[bytes, int, bytes]:
    """A message of three events; with some bytes changed if it is to be hurt."""
    times = [START_MS + chance.randrange(50) for _ in range(3)]
    rows = [sdk_fields((1, time, None, bytes(16), None, b"n", b"{}")) for time in times]
    content = bytearray(oracle.build_rows(rows))
    for _ in range(chance.randrange(1, 4) if is_hurt else 0):
        place = chance.randrange(len(content))
        content[place] = chance.choice((0, 1, 4, 0x7F, 0xFF, chance.randrange(256)))
    return bytes(content), START_MS, HERE
