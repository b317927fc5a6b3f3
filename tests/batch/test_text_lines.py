"""Lines of text say what the messages say, one line each, whatever the bytes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.text_lines import BUFFER_BYTES_MIN, TextLines

RECEIVED_AT_MS = 1_700_000_000_000

# What a value may hold that a line or its reader could stumble over.
pieces = st.sampled_from(
    [b"a", b"Page Viewed", b" ", b"=", b"-", b"0x", b"0x41", b"\\", b"\\n", b"\\x41", b"\n", b"\r",
     b"\t", b"\0", b"\x1b[31m", b"\x7f", b"\xc2\x85", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xe2\x80\xa9",
     b"\xe2\x80\xae", b"\xe2\x81\xa6", b"\xe2\x80\xa7", b"\xf0\x9f\x98\x80", b"\xc3\xa9", b"\xff",
     b"\xf0\x9f", b"\xed\xa0\x80", b" timestamp=5 source_ip=1.2.3.4 payload=x", b" service=",
     b"...(+3 bytes)", b'{"k":"v"}', b"x" * 31, b"y" * 300]
)  # fmt: skip
values = (
    st.none()
    | st.lists(pieces, max_size=6).map(b"".join)
    | st.text(max_size=40).map(str.encode)
    | st.binary(max_size=600)
)
times = st.sampled_from([0, 9, 9999, 10_000, RECEIVED_AT_MS, 2**63 - 1, 2**64 - 1]) | st.integers(
    0, 2**64 - 1
)
# No UTF-8: an id that is text makes a short table look like one of the other dialect.
ids = st.binary(min_size=15, max_size=15).map(lambda rest: b"\x91" + rest)
addresses = st.binary(min_size=16, max_size=16) | st.lists(
    st.sampled_from([b"\0\0", b"\0\1", b"\xff\xff", b"\x20\x01", b"\x0d\xb8"]),
    min_size=8,
    max_size=8,
).map(b"".join)
buffer_bytes = st.sampled_from([BUFFER_BYTES_MIN, BUFFER_BYTES_MIN + 777, 65_536])


def text_of(batch: Batch, out_bytes: int = 65_536) -> bytes:
    """All lines of a batch, through buffers of that size, canaries behind them."""
    lines, found = TextLines(), []
    room = np.full(out_bytes + 8, 0xA5, np.uint8)
    lines.start(batch)
    while not lines.is_done:
        filled = lines.fill(room[:out_bytes])
        assert filled > 0 or lines.is_done
        assert (room[out_bytes:] == 0xA5).all()
        found.append(room[:filled].tobytes())
    return b"".join(found)


def record_batch(oracle: Any, messages: list[bytes], schema_type: int, **record: Any) -> Batch:
    """A batch with the time and the address of each record as given."""
    batch: Batch = oracle.batch(messages, schema_type)
    records = batch.records.copy()
    for start in batch.offsets[:-1].tolist():
        if "received" in record:
            packed = struct.pack(">Q", record["received"])
            records[start : start + 8] = np.frombuffer(packed, np.uint8)
        if "ip" in record:
            records[start + 8 : start + 24] = np.frombuffer(record["ip"], np.uint8)
    return Batch(batch.header, records, batch.offsets)


@given(
    rows=st.lists(st.tuples(st.integers(0, 255), times, ids, ids, values, values), max_size=8),
    split=st.booleans(),
    ip=addresses,
    out_bytes=buffer_bytes,
)
def test_event_lines_read_back_to_the_same_fields(
    oracle: Any,
    line_parser: Any,
    rows: list[tuple[int, int, bytes, bytes, bytes | None, bytes | None]],
    split: bool,
    ip: bytes,
    out_bytes: int,
) -> None:
    """Newlines, escapes, control bytes, any UTF-8 and what is none, in every field."""
    tables = [
        [("u8", code), ("u64", time), None, device, session, name, payload]
        for code, time, device, session, name, payload in rows
    ]
    groups = [[table] for table in tables] if split else [tables]
    batch = record_batch(oracle, [oracle.build_rows(group) for group in groups], 1, ip=ip)
    lines = line_parser.lines(text_of(batch, out_bytes))
    assert len(lines) == len(rows)
    for line, (code, time, device, session, name, payload) in zip(lines, rows, strict=True):
        fields = line_parser.parse(line)
        assert fields.pop("received") - RECEIVED_AT_MS in range(len(groups))
        assert fields == {
            "kind": line_parser.event_types[code if code < 7 else 0],
            "device_id": device,
            "session_id": session,
            "event_name": line_parser.as_read(name),
            "timestamp": min(time, 2**63 - 1),
            "source_ip": ip,
            "payload": line_parser.as_read(payload),
        }
        assert f" event_name={line_parser.written(name, is_last=False)} timestamp=" in line
        assert line.endswith(f" payload={line_parser.written(payload, is_last=True)}")


@given(
    rows=st.lists(st.tuples(st.integers(0, 255), times, values, values, values), max_size=6),
    out_bytes=buffer_bytes,
)
def test_log_lines_read_back_to_the_same_fields(
    oracle: Any,
    line_parser: Any,
    rows: list[tuple[int, int, bytes | None, bytes | None, bytes | None]],
    out_bytes: int,
) -> None:
    """As events; an id of a wrong length counts as absent."""
    session = b"\x91" * 16
    tables = [
        [("u8", 1), session[: 16 - place % 2], ("u8", level), ("u64", time), source, service, body]
        for place, (level, time, source, service, body) in enumerate(rows)
    ]
    batch = record_batch(oracle, [oracle.build_rows(tables, 2)], 2)
    lines = line_parser.lines(text_of(batch, out_bytes))
    assert len(lines) == len(rows)
    for place, (line, row) in enumerate(zip(lines, rows, strict=True)):
        level, time, source, service, payload = row
        fields = line_parser.parse(line)
        assert fields.pop("received") == RECEIVED_AT_MS
        assert fields.pop("source_ip") == oracle.source_ip
        assert fields == {
            "kind": line_parser.levels[level if level < 9 else 6],
            "session_id": None if place % 2 else session,
            "source": line_parser.as_read(source),
            "service": line_parser.as_read(service),
            "timestamp": min(time, 2**63 - 1),
            "payload": line_parser.as_read(payload),
        }


@given(content=values.filter(lambda value: value is not None), schema_type=st.integers(0, 9))
def test_other_messages_are_one_line_each(
    oracle: Any, line_parser: Any, content: bytes, schema_type: int
) -> None:
    """Metrics, traces and snapshots whole as they came; all else raw, as is what is no message."""
    kinds = {3: "METRIC", 4: "TRACE", 5: "SNAPSHOT"}
    messages = [oracle.build(content, schema_type), content, oracle.build(content, 7)]
    batch = record_batch(oracle, messages, schema_type)
    lines = [line_parser.parse(line) for line in line_parser.lines(text_of(batch))]
    shown = [content if schema_type in kinds else messages[0], *messages[1:]]
    assert [line["kind"] for line in lines] == [kinds.get(schema_type, "RAW"), "RAW", "RAW"]
    assert [line["count"] for line in lines] == [len(message) for message in shown]
    assert [line["payload"] for line in lines] == [line_parser.as_read(each) for each in shown]


@pytest.mark.parametrize(
    ("received", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_767_225_599_007, "2025-12-31T23:59:59.007Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (2**64 - 1, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_the_received_time_is_utc(oracle: Any, received: int, text: str) -> None:
    """Leap years too; no year has five digits."""
    batch = record_batch(oracle, [b"no message"], 0, received=received)
    assert text_of(batch).startswith(f"[{text}] [RAW] ".encode())


def test_lines_look_as_documented(maker: Any) -> None:
    """One of each kind, byte by byte."""
    batch = maker.batch([maker.message(2, filler=b'{"a": 1}'), b"\xffxyz"])
    head = "[2026-01-01T00:00:00.000Z]"
    event = "[TRACK] device_id=- session_id=- event_name=- timestamp={} source_ip=::"
    assert text_of(batch).decode() == "".join(
        [
            f'{head} {event.format(maker.start_ms)} payload={{"a": 1}}\n',
            f'{head} {event.format(maker.start_ms + 1)} payload={{"a": 1}}\n',
            f"{head} [RAW] source_ip=:: msg_len=4 payload=0xff78797a\n",
        ]
    )


@pytest.mark.parametrize("filler", [b"plain", b"\n\x01", b"\xc3\xa9", b"\xe2\x80\xa8", b"\xff"])
@pytest.mark.parametrize("schema_type", [1, 2, 3])
def test_lines_longer_than_a_buffer_come_in_pieces(
    oracle: Any, line_parser: Any, filler: bytes, schema_type: int
) -> None:
    """However large a value is, no buffer grows; lines before and behind it stand."""
    long = filler * 50_000
    small, id_16 = b"small", b"\x91" * 16

    def row(text: bytes, payload: bytes) -> list[Any]:
        if schema_type == 2:
            return [("u8", 1), id_16, ("u8", 3), ("u64", 5), text, text, payload]
        return [("u8", 1), ("u64", 5), None, id_16, id_16, text, payload]

    contents = [(small, small), (long, small), (small, long), (long, long), (small, small)]
    if schema_type == 3:
        messages = [oracle.build(b"".join(content), 3) for content in contents]
    else:
        messages = [oracle.build_rows([row(*content) for content in contents], schema_type)]
        messages += [oracle.build_rows([row(*content)], schema_type) for content in contents]
    batch = record_batch(oracle, messages, schema_type)
    whole = text_of(batch, 4_000_000)
    assert text_of(batch, BUFFER_BYTES_MIN) == whole
    lines = [line_parser.parse(line) for line in line_parser.lines(whole)]
    if schema_type == 3:
        expected = [b"".join(content) for content in contents]
    else:
        expected = [payload for _, payload in contents] * 2
    assert [line["payload"] for line in lines] == [line_parser.as_read(each) for each in expected]


def test_a_message_that_breaks_late_is_raw_and_nothing_else(oracle: Any, line_parser: Any) -> None:
    """Its good events are not shown, even if they would have filled many buffers before."""
    row = [("u8", 1), ("u64", 5), b"s", b"\x91" * 16, b"\x92" * 16, b"name", b"p" * 500]
    good = oracle.build_rows([row] * 100)
    broken = bytearray(good)
    place = broken.rindex(b"p" * 500) - 4  # where the first table's payload begins
    broken[place : place + 4] = (2**31).to_bytes(4, "little")
    batch = record_batch(oracle, [good, bytes(broken), good], 1)
    for out_bytes in (BUFFER_BYTES_MIN, 40_000, 1_000_000):
        text = text_of(batch, out_bytes)
        kinds = [line_parser.parse(line)["kind"] for line in line_parser.lines(text)]
        assert kinds == ["TRACK"] * 100 + ["RAW"] + ["TRACK"] * 100


def test_a_buffer_may_begin_with_other_lines(maker: Any) -> None:
    """Small batches share one; a buffer that is too small for any line is an error."""
    batch = maker.batch([maker.message()])
    alone = text_of(batch)
    out = np.zeros(BUFFER_BYTES_MIN, np.uint8)
    lines, filled = TextLines(), 0
    for _ in range(3):
        lines.start(batch)
        filled = lines.fill(out, filled)
        assert lines.is_done
    assert out[:filled].tobytes() == 3 * alone
    lines.start(batch)
    with pytest.raises(ValueError, match="lines need"):
        lines.fill(out[:100])


def test_offsets_that_lie_cost_one_raw_line(maker: Any) -> None:
    """A batch that contradicts itself harms nobody."""
    batch = maker.batch([maker.message(), maker.message()])
    count = len(batch.records)
    for lie in (count + 1, 2**63, 2**64 - 1, 3):
        offsets = batch.offsets.copy()
        offsets[1] = lie
        text = text_of(Batch(batch.header, batch.records, offsets))
        assert text.count(b"\n") == 2
        assert b"[RAW]" in text


def test_captured_frames_become_lines(captures: Path, oracle: Any, line_parser: Any) -> None:
    """What real clients send: every event has its line."""
    for name in ("collector_dialect_frames.bin", "rust_encoding_0.5.0_frames.bin"):
        frames = oracle.frames((captures / name).read_bytes())
        for frame in frames:
            schema_type = oracle.schema_of(frame)
            text = text_of(record_batch(oracle, [frame], schema_type))
            lines = [line_parser.parse(line) for line in line_parser.lines(text)]
            assert lines
            assert all(line["kind"] != "RAW" for line in lines)
