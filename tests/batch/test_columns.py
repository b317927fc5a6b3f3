"""Messages decode into the columns that their clients meant."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import (
    EVENT_SCHEMA,
    LOG_SCHEMA,
    DecodeBuffers,
    decode_events,
    decode_logs,
)
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX
from cdp_ray_sinks.batch.kernels.tables import BAD_RECORD, OVER_BUDGET, WRONG_SCHEMA

DEVICE, SESSION = b"\x11" * 16, b"\x22" * 16
RECORD_COLUMNS = ("message_index", "received_at_ms", "source_ip")


def rows_of(table: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows without what they take from their record; the table is valid Arrow."""
    table.validate(full=True)
    return table.drop_columns(list(RECORD_COLUMNS)).to_pylist()


def test_sdk_events_decode_field_by_field(captures: Path, oracle: Any) -> None:
    """What the Rust SDK sent is read as the generated readers read it, and as it was meant."""
    messages = oracle.frames((captures / "rust_encoding_0.5.0_frames.bin").read_bytes())
    decoded = decode_events(oracle.batch(messages[:1]))
    rows = rows_of(decoded.table)
    assert rows == oracle.events(messages[0], "v2")
    assert [row["event_type"] for row in rows] == [1, 2]
    assert [row["timestamp"] for row in rows] == [1_700_000_000_001, 1_700_000_000_002]
    assert [row["service"] for row in rows] == ["rust-sdk", None]
    assert [row["event_name"] for row in rows] == ["Page Viewed", None]
    assert [row["device_id"] for row in rows] == [DEVICE, DEVICE]
    assert [row["session_id"] for row in rows] == [SESSION, None]
    assert rows[1]["payload"] == b'{"user_id":"u1","email":"a@b.co","name":"Ann"}'
    assert decoded.table.schema == EVENT_SCHEMA
    assert decoded.table["source_ip"].to_pylist() == [oracle.source_ip] * 2
    assert decoded.table["received_at_ms"].to_pylist() == [oracle.received_at_ms] * 2


def test_collector_events_decode_field_by_field(captures: Path, oracle: Any) -> None:
    """The 6-field dialect is told apart; no field moves to its neighbour's column."""
    messages = oracle.frames((captures / "collector_dialect_frames.bin").read_bytes())
    events = [messages[0], messages[2]]
    rows = rows_of(decode_events(oracle.batch(events)).table)
    assert rows == oracle.events(events[0], "v1") + oracle.events(events[1], "v1")
    assert [row["event_type"] for row in rows] == [1, 2, 6, 1]
    assert [row["event_name"] for row in rows] == ["page_view", None, None, "page_view"]
    assert {row["device_id"] for row in rows} == {DEVICE}
    assert {row["session_id"] for row in rows} == {SESSION}
    assert {row["service"] for row in rows} == {None}
    assert rows[0]["payload"] == b'{"url":"/home","n":1}'


@pytest.mark.parametrize(
    ("name", "place", "level", "message"),
    [
        ("rust_encoding_0.5.0_frames.bin", 1, 5, "notice"),
        ("collector_dialect_frames.bin", 1, 3, "boom"),
    ],
)
def test_log_entries_decode_field_by_field(
    captures: Path, oracle: Any, name: str, place: int, level: int, message: str
) -> None:
    """Both writers lay log entries out differently; levels keep their number."""
    captured = oracle.frames((captures / name).read_bytes())[place]
    decoded = decode_logs(oracle.batch([captured], 2))
    assert decoded.table.schema == LOG_SCHEMA
    (row,) = rows_of(decoded.table)
    assert [row] == oracle.logs(captured)
    assert row["level"] == level
    assert (row["source"], row["service"], row["session_id"]) == ("host-1", "api", SESSION)
    assert row["payload"] == f'{{"message":"{message}"}}'.encode()


def test_a_damaged_message_leaves_no_row_and_is_named(oracle: Any) -> None:
    """Its neighbours stand, and the list says which message it was, where and why."""
    good = oracle.build_rows([[("u8", 1), ("u64", 5), None, DEVICE, None, b"name", b"{}"]])
    broken, log = good[:40], oracle.build_rows([[("u8", 1)]], schema_type=2)
    batch = oracle.batch([good, broken, good, log, b"", good])
    decoded = decode_events(batch)
    assert decoded.table["message_index"].to_pylist() == [0, 2, 5]
    assert decoded.damaged.tolist() == [1, 3, 4]
    assert decoded.damage_reasons[1] == WRONG_SCHEMA
    assert decoded.damage_texts()[1].startswith("message 3: message of another schema at byte")
    starts = batch.offsets[decoded.damaged]
    ends = batch.offsets[decoded.damaged + 1]
    assert all((starts <= decoded.damage_offsets) & (decoded.damage_offsets <= ends))


def test_offsets_that_lie_are_damage(oracle: Any) -> None:
    """A record that would reach outside the batch, or end before it starts, is not followed."""
    good = oracle.build_rows([[("u8", 1), ("u64", 5)]])
    batch = oracle.batch([good, good, good])
    for wrong in (2**63, 2**64 - 1, len(batch.records) + 1, 0):
        offsets = batch.offsets.copy()
        offsets[2] = wrong
        decoded = decode_events(Batch(batch.header, batch.records, offsets))
        assert set(decoded.damage_reasons.tolist()) == {BAD_RECORD}
        assert decoded.table["message_index"].to_pylist() == [
            place for place in range(3) if place not in decoded.damaged
        ]


def test_vectors_that_overlap_do_not_unpack_to_much_more_than_the_message(oracle: Any) -> None:
    """A thousand events that share one large payload are refused, and cost no memory."""
    payload = bytes(200_000)
    bomb = oracle.build_rows(
        [[("u8", 1), ("u64", 5), None, None, None, None, payload]] * 1000, shared=True
    )
    good = oracle.build_rows([[("u8", 1), ("u64", 5), None, None, None, b"x", b"{}"]])
    assert len(bomb) < 300_000
    buffers = DecodeBuffers()
    decoded = decode_events(oracle.batch([good, bomb, good], event_count=2**40), buffers=buffers)
    assert decoded.damage_reasons.tolist() == [OVER_BUDGET]
    assert decoded.table["message_index"].to_pylist() == [0, 2]
    assert buffers.held_bytes < 16 * len(bomb)


def test_entries_that_are_one_table_do_not_multiply(oracle: Any) -> None:
    """A vector of a million equal offsets is refused by the budget for rows."""
    count = 1_000_000
    table = struct.pack("<HHi", 4, 4, 4)  # vtable, then a table with nothing in it
    offsets = np.arange(4 * count, 0, -4, np.uint32) + 4  # all to the table behind them
    data = struct.pack("<I4H2I", 12, 6, 8, 4, 0, 8, 4) + struct.pack("<I", count)
    bomb = oracle.build(data + offsets.astype("<u4").tobytes() + table, 1)
    decoded = decode_events(oracle.batch([bomb]))
    assert decoded.table.num_rows == 0
    assert decoded.damage_reasons.tolist() == [OVER_BUDGET]


def test_strings_that_a_builder_shares_are_read(oracle: Any) -> None:
    """Equal strings stored once are no attack."""
    row = [("u8", 1), ("u64", 5), b"service", DEVICE, SESSION, b"checkout", b'{"n":1}' * 12]
    message = oracle.build_rows([row] * 50, shared=True)
    decoded = decode_events(oracle.batch([message]))
    assert decoded.damaged.size == 0
    assert rows_of(decoded.table) == oracle.events(message, "v2")


def test_ids_of_another_length_are_absent(oracle: Any) -> None:
    """An id has 16 bytes or there is none."""
    ids = [b"", b"\x01" * 15, b"\x01" * 17, b"\x01" * 16, None]
    message = oracle.build_rows(
        [[("u8", 1), ("u64", 5), b"s", one, one, b"n", b"{}"] for one in ids]
    )
    table = decode_events(oracle.batch([message]), "v2").table
    expected = [None, None, None, b"\x01" * 16, None]
    assert table["device_id"].to_pylist() == expected
    assert table["session_id"].to_pylist() == expected


def test_empty_is_not_absent(oracle: Any) -> None:
    """A string of no bytes stays a string."""
    message = oracle.build_rows(
        [[("u8", 1), ("u64", 5), b"", None, None, b"", b""], [("u8", 1), ("u64", 6)] + [None] * 5]
    )
    table = decode_events(oracle.batch([message]), "v2").table
    for column, empty in (("service", ""), ("event_name", ""), ("payload", b"")):
        assert table[column].to_pylist() == [empty, None]


def test_numbers_that_mean_nothing_become_the_default(oracle: Any) -> None:
    """An unknown type is UNKNOWN, an unknown or absent level INFO, a huge time the largest."""
    events = oracle.build_rows([[("u8", 250), ("u64", 2**64 - 1), None, None, None, None, None]])
    row = rows_of(decode_events(oracle.batch([events])).table)[0]
    assert (row["event_type"], row["timestamp"]) == (0, 2**63 - 1)
    logs = oracle.build_rows(
        [
            [("u8", 3), None, None, ("u64", 5)],
            [("u8", 2), None, ("u8", 9)],
            [None, None, ("u8", 0)],
        ],
        schema_type=2,
    )
    rows = rows_of(decode_logs(oracle.batch([logs], 2)).table)
    assert [row["event_type"] for row in rows] == [0, 2, 0]
    assert [row["level"] for row in rows] == [6, 6, 0]


def test_text_that_is_not_utf8_is_repaired_where_it_is(oracle: Any) -> None:
    """Only the rows with bad bytes change; the columns stay valid UTF-8."""
    texts = [b"plain", b"\xff\xfe", "Käse".encode(), b"cut \xe2\x82", b"", None]
    message = oracle.build_rows(
        [[("u8", 1), ("u64", 5), text, DEVICE, SESSION, text, b"{}"] for text in texts]
    )
    rows = rows_of(decode_events(oracle.batch([message])).table)
    expected = ["plain", "\ufffd\ufffd", "Käse", "cut \ufffd", "", None]
    assert [row["service"] for row in rows] == expected
    assert [row["event_name"] for row in rows] == expected
    logs = oracle.build_rows(
        [[("u8", 1), None, None, None, text, text, b"{}"] for text in texts], schema_type=2
    )
    rows = rows_of(decode_logs(oracle.batch([logs], 2)).table)
    assert [row["source"] for row in rows] == expected
    assert [row["service"] for row in rows] == expected


def test_names_that_repair_to_the_same_text_share_an_entry(oracle: Any) -> None:
    """A dictionary never holds a value twice."""
    message = oracle.build_rows(
        [[("u8", 1), ("u64", 5), b"s", DEVICE, SESSION, name, b"{}"] for name in (b"\xff", b"\xfe")]
    )
    names = decode_events(oracle.batch([message])).table["event_name"]
    assert names.to_pylist() == ["\ufffd", "\ufffd"]
    assert len(names.dictionary) == 1


@pytest.mark.parametrize("name_count", [NAMES_MAX, NAMES_MAX + 1, 5 * NAMES_MAX])
def test_more_names_than_the_dictionary_holds_still_come_as_a_dictionary(
    name_count: int,
) -> None:
    """Past its bound the kernel gives plain strings, which Arrow then encodes."""
    names = [f"event number {place:06} of many names" for place in range(name_count)]
    ones = np.ones(2 * name_count, np.uint8)
    records, offsets = encode_events(ones, ones, names=pa.array(names * 2), events_per_message=100)
    column = decode_events(_batch(records, offsets)).table["event_name"]
    column.validate(full=True)
    assert column.type == pa.dictionary(pa.int32(), pa.utf8())
    assert column.to_pylist() == names * 2
    assert len(column.dictionary) == name_count


@given(names=st.lists(st.none() | st.text(max_size=40), max_size=60))
def test_a_dictionary_of_names_says_what_was_sent(names: list[str | None]) -> None:
    """Short and long names, equal beginnings and ends, zeros inside: all keep apart."""
    ones = np.ones(len(names), np.uint8)
    records, offsets = encode_events(
        ones, ones, names=pa.array(names, pa.utf8()), events_per_message=7
    )
    column = decode_events(_batch(records, offsets)).table["event_name"]
    column.validate(full=True)
    assert column.to_pylist() == names
    assert len(column.dictionary) == len({name for name in names if name is not None})


def test_names_that_collide_on_purpose_only_cost_the_dictionary() -> None:
    """Names of the same ends and length differ in the middle alone: none is taken for another."""
    names = [f"checkout{place:05}checkout" for place in range(200)]
    ones = np.ones(200, np.uint8)
    records, offsets = encode_events(ones, ones, names=pa.array(names), events_per_message=50)
    assert decode_events(_batch(records, offsets)).table["event_name"].to_pylist() == names


def test_buffers_are_used_again_and_grow(oracle: Any) -> None:
    """One set of buffers serves batches of any size; what they gave before is overwritten."""
    buffers = DecodeBuffers()
    for count in (1, 3000, 2, 40_000):
        payloads = pa.array([b"x" * (place % 300) for place in range(count)])
        services = pa.array([f"service-{place}" * (place % 9) for place in range(count)])
        ones = np.ones(count, np.uint8)
        records, offsets = encode_events(
            ones, np.arange(count), services=services, payloads=payloads, events_per_message=50
        )
        table = decode_events(_batch(records, offsets), buffers=buffers).table
        table.validate(full=True)
        assert table["timestamp"].to_pylist() == list(range(count))
        assert table["payload"].equals(payloads)
        assert table["service"].equals(services)
    before = buffers.held_bytes
    decode_events(_batch(records, offsets), buffers=buffers)
    assert buffers.held_bytes == before


def test_batches_decode_together_as_they_do_one_by_one(oracle: Any) -> None:
    """Their rows stand one behind the other, damage names its batch, rows grow where needed."""
    good = oracle.build_rows([[("u8", 1), ("u64", 5), None, DEVICE, None, b"name", b"{}"]] * 3)
    other = oracle.build_rows([[("u8", 6), ("u64", 7), b"s", None, SESSION, b"other", b"x" * 99]])
    batches = [
        oracle.batch([good, b"", other]),
        oracle.batch([]),
        oracle.batch([good[:40], other, good[:30]]),
        oracle.batch([other] * 500),
        oracle.batch([good]),
    ]
    together = decode_events(batches)
    alone = [decode_events(batch) for batch in batches]
    together.table.validate(full=True)
    assert together.table.to_pylist() == [row for one in alone for row in one.table.to_pylist()]
    assert together.row_ends.tolist() == [4, 4, 5, 505, 508]
    assert together.damaged_batches.tolist() == [0, 2, 2]
    assert together.damaged.tolist() == [1, 0, 2]
    assert together.damage_texts() == [text for one in alone for text in one.damage_texts()]
    logs = [oracle.batch([oracle.build_rows([[("u8", 1)]] * n, 2)], 2) for n in (1, 2, 3)]
    assert decode_logs(logs).row_ends.tolist() == [1, 3, 6]
    assert decode_events([]).table.num_rows == decode_logs([]).table.num_rows == 0


def test_a_later_batch_can_have_too_many_names_for_the_dictionary(oracle: Any) -> None:
    """Then the batches before it are decoded again, and no row is there twice."""
    ones = np.ones(2 * NAMES_MAX, np.uint8)
    names = [f"name {place}" for place in range(2 * NAMES_MAX)]
    few = encode_events(ones[:5], ones[:5], names=pa.array(["few"] * 5), events_per_message=2)
    many = encode_events(ones, ones, names=pa.array(names), events_per_message=50)
    decoded = decode_events([_batch(*few), oracle.batch([b""]), _batch(*many), _batch(*few)])
    assert decoded.table["event_name"].to_pylist() == ["few"] * 5 + names + ["few"] * 5
    assert decoded.row_ends.tolist() == [5, 5, 5 + len(names), 10 + len(names)]
    assert decoded.damaged_batches.tolist() == [1]


def test_a_batch_without_messages_has_no_rows(oracle: Any) -> None:
    """Nothing in, nothing out, with the same columns."""
    for decoded in (decode_events(oracle.batch([])), decode_logs(oracle.batch([], 2))):
        assert decoded.table.num_rows == 0
        assert decoded.damaged.size == 0


def _batch(records: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> Batch:
    from cdp_ray_sinks.batch.batch import NO_PRODUCER, BatchHeader

    count = len(offsets) - 1
    header = BatchHeader(NO_PRODUCER, 0, 0, 1, 0, 1, "test", 0, count, 0, len(records), 0)
    return Batch(header, records, offsets)
