"""`cat` shows what is in an archive, to people and to programs, and obeys no client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.enums import EventType
from cdp_ray_sinks.cli.cat import cat_archives, event_line, time_text
from cdp_ray_sinks.cli.events import DEPTH_MAX, events_of, payload_value

Write = Callable[..., Path]


def no_damage(text: str) -> None:
    raise AssertionError(text)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_event_is_one_object_with_names_for_numbers(client: Any) -> None:
    """Ids are hyphenated, addresses text, payloads parsed, absent fields null."""
    batch = client.batch_of(
        client.event_message([(EventType.IDENTIFY, "Signed Up", b'{"plan": "pro"}')]),
        workspace_id=7,
    )
    assert list(events_of(batch, no_damage)) == [
        {
            "workspace_id": 7,
            "schema": "event",
            "event_type": "IDENTIFY",
            "timestamp_ms": 1_767_225_599_123,
            "service": None,
            "device_id": "00010203-0405-0607-0809-0a0b0c0d0e0f",
            "session_id": None,
            "event_name": "Signed Up",
            "payload": {"plan": "pro"},
            "received_at_ms": 1_767_225_600_123,
            "source_ip": "192.0.2.7",
        }
    ]


def test_a_log_entry_has_its_level_by_name(client: Any) -> None:
    """Level 3 is ERROR; a payload that is no JSON is text."""
    (event,) = events_of(client.batch_of(client.log_message(3, "api", b"boom")), no_damage)
    assert (event["schema"], event["level"], event["event_type"]) == ("log", "ERROR", "LOG")
    assert (event["source"], event["payload"]) == ("api", "boom")


def test_a_metric_has_the_fields_of_its_schema(client: Any) -> None:
    """Its time is in nanoseconds, and a value that JSON lacks does no harm."""
    batch = client.batch_of(client.metric_message(float("inf")))
    (event,) = events_of(batch, no_damage)
    assert (event["schema"], event["metric_type"], event["name"]) == (
        "metric",
        "GAUGE",
        "queue_depth",
    )
    assert event["timestamp_ns"] == 1_767_225_600_123_000_000
    assert "2026-01-01T00:00:00.123Z" in event_line(event, colour=False)


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (b"plain text", "plain text"),
        (b"", ""),
        (b"\xff\x00", "0xff00"),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b"9" * 5000, "9" * 5000),
        (b"[" * 100_000, "[" * 100_000),
        (b"[" * 300 + b"]" * 300, "[" * 300 + "]" * 300),
    ],
)
def test_a_payload_is_json_if_it_is_strictly_that(payload: bytes, value: object) -> None:
    """Otherwise it is text, and hex if it is not even that."""
    assert payload_value(payload) == value


def test_a_payload_may_nest_some_way() -> None:
    """A depth that is allowed is parsed, and can be written again."""
    payload = b'{"a":' * (DEPTH_MAX - 2) + b"[[1],[2]]" + b"}" * (DEPTH_MAX - 2)
    assert isinstance(payload_value(payload), dict)


def test_what_a_client_sent_stays_on_its_line(client: Any) -> None:
    """Escape sequences and line ends in names and payloads are written out."""
    message = client.event_message(
        [(EventType.TRACK, "a\x1b[2Jb\nc", '{"k": "\x7f\u202e"}'.encode())]
    )
    (event,) = events_of(client.batch_of(message), no_damage)
    line = event_line(event, colour=False)
    assert "a\\x1b[2Jb\\nc" in line
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e" for c in line)


def test_times_beyond_the_calendar_are_numbers() -> None:
    """A hostile timestamp is shown and hurts nobody."""
    assert time_text(1_767_225_600_123) == "2026-01-01T00:00:00.123Z"
    assert time_text(2**62) == f"{2**62}ms"
    assert time_text(-1) == "1969-12-31T23:59:59.999Z"
    assert time_text(None) == "-"


def test_all_events_of_an_archive_come_out(
    client: Any, write_archive: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every workspace and schema; --limit stops early."""
    batches = [
        client.batch_of(client.event_message([(EventType.TRACK, str(n), b"{}") for n in range(5)])),
        client.batch_of(client.log_message(6, "api", b"{}"), workspace_id=2),
    ]
    archive = write_archive(tmp_path / "archive", batches)
    assert cat_archives([archive], None, as_json=True) == 0
    events = json_lines(capsys.readouterr().out)
    assert [e.get("event_name") for e in events] == ["0", "1", "2", "3", "4", None]
    assert [e["workspace_id"] for e in events] == [1, 1, 1, 1, 1, 2]
    assert cat_archives([archive], 2, as_json=False) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_damage_is_told_and_the_rest_shown(
    client: Any, write_archive: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte costs its batch, not the neighbours; the exit code is 1."""
    batches = [
        client.batch_of(client.event_message([(EventType.TRACK, str(n), b"x" * 200)]))
        for n in range(3)
    ]
    archive = write_archive(tmp_path / "archive", batches)
    (segment,) = archive.rglob("*.bin")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    assert cat_archives([archive], None, as_json=True) == 1
    out, err = capsys.readouterr()
    assert [e["event_name"] for e in json_lines(out)] == ["0", "2"]
    assert "damaged:" in err
    assert segment.name in err


def test_a_closed_pipe_ends_quietly(synthetic_archive: Path) -> None:
    """`cat | head -1` prints one line and no complaint."""
    command = f"{sys.executable} -m cdp_ray_sinks cat {synthetic_archive} --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert len(json_lines(done.stdout)) == 1
    assert done.stderr == ""
    assert done.returncode == 0


def test_every_captured_client_message_is_shown(
    client: Any,
    captures: Path,
    write_archive: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both dialects, logs and metrics; no api key is in any file."""
    messages = [
        message
        for path in sorted(captures.glob("*.bin"))
        for message in client.frames_in(path.read_bytes())
    ]
    archive = write_archive(tmp_path / "archive", [client.batch_of(m) for m in messages])
    assert cat_archives([archive], None, as_json=True) == 0
    events = json_lines(capsys.readouterr().out)
    assert {e["schema"] for e in events} == {"event", "log", "metric"}
    assert {e.get("event_type") for e in events} >= {"TRACK", "IDENTIFY", "CONTEXT"}
    assert {e.get("level") for e in events} >= {"NOTICE", "ERROR"}
    held = b"".join(path.read_bytes() for path in archive.rglob("*.bin*"))
    assert bytes.fromhex("feed1e11" * 4) not in held
    assert bytes(range(16)) not in held.replace(bytes(range(1, 17)), b"")
