"""The stdout sink: what its lines say, and that nothing a client sends can do more than that."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.safe_text import printer_to, without_colours
from cdp_ray_sinks.errors import ConfigError, TerminalError, TransientError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.sinks.stdout import StdoutConfig, StdoutSink
from cdp_ray_sinks.testing import numbered_batch

START_MS = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC."""
ID = bytes(range(0x91, 0xA1))


class Kept:
    """A line_out that keeps what it is given, while it has room."""

    def __init__(self, room: int = 10**9) -> None:
        self.lines: list[str] = []
        self.room = room
        self.is_printed = True

    def put(self, lines: Sequence[str], timeout_ms: int) -> bool:
        if len(self.lines) + len(lines) > self.room:
            return False
        self.lines += lines
        return True

    def settle(self, timeout_ms: int) -> bool:
        return self.is_printed


def message_of(rows: list[list[Any]], schema_type: int) -> bytes:
    """A message whose tables have, by slot, None, a number and its kind, text, or a table."""
    b = flatbuffers.Builder(1024)

    def table(row: list[Any]) -> int:
        places = {slot: placed(value) for slot, value in enumerate(row) if is_offset(value)}
        b.StartObject(len(row))
        for slot, value in enumerate(row):
            if slot in places:
                b.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
            elif value is not None:
                getattr(b, f"Prepend{value[0]}Slot")(slot, value[1], None)
        return int(b.EndObject())

    def is_offset(value: Any) -> bool:
        return isinstance(value, bytes | list | dict)

    def placed(value: Any) -> int:
        if isinstance(value, bytes):
            return int(b.CreateString(value))
        if isinstance(value, dict):
            return table(value["fields"])
        return vector([table(row) for row in value])

    def vector(tables: list[int]) -> int:
        b.StartVector(4, len(tables), 4)
        for each in reversed(tables):
            b.PrependUOffsetTRelative(each)
        return int(b.EndVector())

    entries = vector([table(row) for row in rows])
    b.StartObject(1)
    b.PrependUOffsetTRelativeSlot(0, entries, 0)
    b.Finish(b.EndObject())
    return envelope(bytes(b.Output()), schema_type)


def envelope(data: bytes | None, schema_type: int) -> bytes:
    """A message around `data`."""
    b = flatbuffers.Builder(1024)
    nested = None if data is None else b.CreateByteVector(data)
    key = b.CreateByteVector(bytes(16))
    b.StartObject(6)
    b.PrependUOffsetTRelativeSlot(0, key, 0)
    b.PrependUint8Slot(1, schema_type, 0)
    if nested is not None:
        b.PrependUOffsetTRelativeSlot(4, nested, 0)
    b.Finish(b.EndObject())
    return bytes(b.Output())


def event(
    name: bytes | None, payload: bytes | None, code: int = 1, device: bytes | None = ID
) -> list[Any]:
    """An Event of the SDK dialect."""
    return [("Uint8", code), ("Uint64", START_MS + 1), b"svc", device, ID, name, payload]


def log(
    level: int, source: bytes | None, service: bytes | None, payload: bytes | None
) -> list[Any]:
    """A LogEntry."""
    return [("Uint8", 1), ID, ("Uint8", level), ("Uint64", START_MS), source, service, payload]


def lines_of(maker: Any, messages: list[bytes], schema_type: int = 1, **options: Any) -> list[str]:
    """What the sink prints of one batch, without colours unless asked for."""
    out = Kept()
    sink = StdoutSink(StdoutConfig(**{"color": False, **options}), out)
    sink.write(batch_of(maker, messages, schema_type))
    sink.flush()
    sink.close()
    return out.lines


def batch_of(maker: Any, messages: list[bytes], schema_type: int = 1) -> Batch:
    batch = maker.batch(messages)
    header = batch.header._replace(schema_type=schema_type, source_id="tcp_main", workspace_id=7)
    records = batch.records.copy()
    for start in batch.offsets[:-1].tolist():
        records[start + 8 : start + 24] = np.frombuffer(
            bytes(10) + b"\xff\xff\x0a\x00\x00\x07", np.uint8
        )
    return Batch(header, records, batch.offsets)


def test_an_event_is_one_line(maker: Any) -> None:
    """Time of the event, workspace, source, address, type, name, device, payload."""
    rows = [
        event(b"Page Viewed", b'{ "a": 1 }'),
        event(None, None, code=2, device=None),
        event(b"x", b"\xff" * 5),
    ]
    assert lines_of(maker, [message_of(rows, 1)]) == [
        '00:00:00.001 ws:7 tcp_main 10.0.0.7 event TRACK Page Viewed dev=91929394 {"a":1}\n',
        "00:00:00.001 ws:7 tcp_main 10.0.0.7 event IDENTIFY - dev=- -\n",
        "00:00:00.001 ws:7 tcp_main 10.0.0.7 event TRACK x dev=91929394 <5 bytes>\n",
    ]


def test_a_log_entry_is_one_line(maker: Any) -> None:
    """The level takes seven places; service and host as one."""
    rows = [log(3, b"web-1", b"checkout", b"no JSON"), log(0, None, None, b"1")]
    where = "00:00:00.000 ws:7 tcp_main 10.0.0.7 log"
    assert lines_of(maker, [message_of(rows, 2)], 2) == [
        f"{where} ERROR   checkout@web-1 no JSON\n",
        f"{where} EMERGENCY - 1\n",
    ]


def test_a_snapshot_is_one_line(maker: Any) -> None:
    """Source, entity, payload."""
    rows = [[("Uint64", START_MS), b"github", b"repo/x", b'{"stars": 3}']]
    assert lines_of(maker, [message_of(rows, 5)], 5) == [
        '00:00:00.000 ws:7 tcp_main 10.0.0.7 snapshot github repo/x {"stars":3}\n'
    ]


def test_a_metric_is_one_line(maker: Any) -> None:
    """A value with three decimals, or what a histogram sums up to; labels behind it."""
    at = ("Uint64", (START_MS + 61_002) * 1_000_000)
    histogram = {
        "fields": [("Uint64", 3), ("Float64", 4.5), None, ("Float64", 0.5), ("Float64", 2.25)]
    }
    labels = [[b"method", b"GET"], [b"path", b"/"]]
    rows = [
        [("Uint8", 1), at, b"cpu", ("Float64", 0.12345), None, b"api", labels],
        [("Uint8", 3), at, b"latency", ("Float64", 0.0), None, None, None, None, histogram],
    ]
    where = "00:01:01.002 ws:7 tcp_main 10.0.0.7 metric"
    assert lines_of(maker, [message_of(rows, 3)], 3) == [
        f"{where} GAUGE cpu@api 0.123 {{method=GET,path=/}}\n",
        f"{where} HISTOGRAM latency@- count=3 sum=4.500 min=0.500 max=2.250\n",
    ]


def test_a_span_is_one_line(maker: Any) -> None:
    """Kind, outcome, name, duration, and where in its trace it hangs."""
    at, took = ("Uint64", START_MS * 1_000_000), ("Uint64", 1_234_567)
    root = [ID, ID[:8], None, at, took, b"GET /", ("Uint8", 2), ("Uint8", 1), None, b"api"]
    child = [ID, ID[:8], ID[8:], at, took, b"SQL", ("Uint8", 3), ("Uint8", 2), None, None]
    where = "00:00:00.000 ws:7 tcp_main 10.0.0.7 trace"
    assert lines_of(maker, [message_of([root, child], 4)], 4) == [
        f"{where} SERVER OK GET /@api 1.23ms trace=91929394 root\n",
        f"{where} CLIENT ERR SQL@- 1.23ms trace=91929394 parent=999a9b9c\n",
    ]


def test_damage_is_named_between_the_good_lines(maker: Any) -> None:
    """No envelope, no data, no entries: each has its word, and the neighbours theirs."""
    good = message_of([event(b"good", b"1")], 1)
    broken = bytearray(good)
    broken[broken.index(b"good") - 4] = 0xFF
    messages = [good, b"rubbish!", envelope(None, 1), bytes(broken), good]
    lines = lines_of(maker, messages)
    assert [line.split()[4] if "event TRACK" in line else line.split()[3] for line in lines] == [
        "event"
    ] * 5
    assert "parse error: reaches outside the message (message 1)" in lines[1]
    assert "data error: no data (message 2)" in lines[2]
    assert "decode error: " in lines[3]
    assert "good" in lines[0]
    assert "good" in lines[4]
    assert lines_of(maker, [b"some bytes"], 0) == ["ws:7 tcp_main 10.0.0.7 unknown <10 bytes>\n"]
    for schema_type in (3, 4, 5):
        (line,) = lines_of(maker, [b"rubbish!"], schema_type)
        assert "parse error" in line


def test_long_text_is_cut_at_a_character(maker: Any) -> None:
    """117 characters and three dots, also where they take more than a byte; no huge parse."""
    names = ["é" * 120, "é" * 121, "🙂" * 5000]
    payloads = ['{"k":"' + "世" * 200 + '"}', "ü" * 3_000_000, "x" * 120]
    rows = [event(n.encode(), p.encode()) for n, p in zip(names, payloads, strict=True)]
    lines = lines_of(maker, [message_of(rows, 1)])
    found = [re.fullmatch(r".* event TRACK (\S+) dev=91929394 (\S+)\n", line) for line in lines]
    assert [match and match[1] for match in found] == [
        "é" * 120, "é" * 117 + "...", "🙂" * 117 + "...",
    ]  # fmt: skip
    assert [match and match[2] for match in found] == [
        '{"k":"' + "世" * 111 + "...", "ü" * 117 + "...", "x" * 120,
    ]  # fmt: skip


def test_client_text_controls_no_terminal(maker: Any) -> None:
    """Escape sequences, C1, line ends, bidirectional overrides: shown, not done."""
    evil = "\x1b]0;title\x07\x9b2J\r\n\u202e\u2066\u2028\x7f"
    payload = json.dumps({"k": evil, "s": "\ud800"}).encode()
    rows = [event(evil.encode(), payload), event(evil.encode(), evil.encode())]
    for colour in (False, True):
        for line in lines_of(maker, [message_of(rows, 1)], color=colour):
            plain = without_colours(line)
            assert plain.endswith("\n")
            assert plain[:-1].isprintable(), plain
            assert "\\x1b]0;title\\x07\\x9b2J\\r\\n\\u202e\\u2066\\u2028\\x7f" in plain


def test_headers_and_a_limit_of_messages(maker: Any) -> None:
    """What is not shown is counted."""
    messages = [message_of([event(b"e%d" % number, b"1")] * 2, 1) for number in range(5)]
    lines = lines_of(maker, messages, show_batch_headers=True, max_messages=2)
    size = sum(28 + len(message) for message in messages)
    assert lines[0] == f"[BATCH] type=Event workspace=7 source=tcp_main count=5 bytes={size}\n"
    assert [line.split()[6] for line in lines[1:5]] == ["e0", "e0", "e1", "e1"]
    assert lines[5] == "ws:7 tcp_main 3 more messages\n"
    assert len(lines) == 6
    assert len(lines_of(maker, messages)) == 10


def test_many_pages_are_all_the_events_in_order(maker: Any) -> None:
    """Pages cut neither events nor their order, however messages and pages fall."""
    messages = [
        message_of([event(b"%d" % (100 * group + place), b"p" * 900) for place in range(100)], 1)
        for group in range(12)
    ]
    lines = lines_of(maker, messages)
    assert [int(line.split()[6]) for line in lines] == list(range(1200))


def test_colours_mark_time_type_and_severity(maker: Any) -> None:
    """Dim, green, red, yellow; without them the same text."""
    rows = [log(3, None, None, b"1"), log(4, None, None, b"1"), log(6, None, None, b"1")]
    lines = lines_of(maker, [message_of(rows, 2)], 2, color=True)
    assert all(line.startswith("\x1b[2m00:00:00.000") for line in lines)
    assert ["\x1b[31m" in lines[0], "\x1b[33m" in lines[1], lines[2].count("\x1b")] == [
        True, True, 2,
    ]  # fmt: skip
    plain = lines_of(maker, [message_of(rows, 2)], 2)
    assert [without_colours(line) for line in lines] == plain


def test_a_slow_reader_is_waited_for_and_loses_nothing(maker: Any) -> None:
    """A flush that could not hand over all goes on where it stopped; no line comes twice."""
    out = Kept(room=300)
    sink = StdoutSink(StdoutConfig(color=False), out)
    messages = [message_of([event(b"%d" % number, b"1")], 1) for number in range(1000)]
    sink.write(batch_of(maker, messages))
    with pytest.raises(TransientError, match="nobody takes"):
        sink.flush()
    assert len(out.lines) == 256
    sink.write(batch_of(maker, messages[:3]))
    out.room, out.is_printed = 10**9, False
    with pytest.raises(TransientError, match="not yet printed"):
        sink.flush()
    out.is_printed = True
    sink.flush()
    assert [int(line.split()[6]) for line in out.lines] == [*range(1000), 0, 1, 2]
    sink.flush()
    assert len(out.lines) == 1003


def test_without_a_line_out_it_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain on what is no terminal."""
    sink = StdoutConfig().build(SinkContext("screen"))
    sink.open()
    sink.write(numbered_batch(3, messages=2, record_bytes=100))
    sink.flush()
    sink.tick(0)
    sink.close()
    text = capsys.readouterr().out
    assert text.count("\n") == 2
    assert "\x1b" not in text
    assert "ws:1 test 127.0.0.1 event parse error" in text


def test_a_batch_that_contradicts_itself_is_terminal(maker: Any) -> None:
    """For the dead letters, before anything of it is shown."""
    batch = maker.batch([maker.message(), maker.message()])
    sink = StdoutConfig().build(SinkContext("screen"))
    for offsets in ([0, 5], [0, 10**6, len(batch.records)], [1, 2, len(batch.records)]):
        with pytest.raises(TerminalError, match="offsets"):
            sink.write(Batch(batch.header, batch.records, np.array(offsets, np.uint64)))


def test_what_an_encoding_lacks_is_escaped() -> None:
    """A terminal that knows only ASCII is no reason to fail."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    printer_to(stream)("\x1b[2mcafé 🙂\x1b[0m\n")
    assert raw.getvalue() == b"caf\\xe9 \\U0001f642\n"


def test_a_wrong_option_is_named_with_its_value() -> None:
    """Before anything runs."""
    with pytest.raises(ConfigError, match="max_messages = -1"):
        load_config("stdout", {"max_messages": -1})
