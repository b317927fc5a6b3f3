"""`scan` counts from the messages alone; `verify` proves every byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.enums import EventType
from cdp_ray_sinks.cli.scan import scan_archive
from cdp_ray_sinks.cli.verify import verify_archive
from cdp_ray_sinks.errors import ConfigError

Write = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


def test_scan_finds_each_running_number_once(synthetic_archive: Path, capsys: Captured) -> None:
    """Events and log entries of all workspaces together carry 0 to N-1."""
    assert scan_archive(synthetic_archive, 10_000, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["events"] == 10_000
    assert found["records"] >= 20
    assert (found["missing"], found["duplicated"]) == (0, 0)
    assert found["first_time"] <= found["last_time"]
    assert found["first_time"].endswith("Z")


def test_scan_tells_what_is_missing(synthetic_archive: Path, capsys: Captured) -> None:
    """Asked for more numbers than there are, it names how many and the lowest."""
    assert scan_archive(synthetic_archive, 10_003, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == 3
    assert scan_archive(synthetic_archive, 10_003, as_json=False) == 1
    assert "lowest missing: 10000, 10001, 10002" in capsys.readouterr().out


def test_scan_tells_what_is_there_twice(
    client: Any, write_archive: Write, tmp_path: Path, capsys: Captured
) -> None:
    """The same numbers in another message count as duplicated, whatever the ids say."""
    payloads = [(EventType.TRACK, None, b'{"n":%d}' % n) for n in range(4)]
    message = client.event_message(payloads)
    batches = [client.batch_of(message), client.batch_of(message, workspace_id=2)]
    archive = write_archive(tmp_path / "archive", batches)
    assert scan_archive(archive, 4, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["missing"], found["duplicated"]) == (0, 4)


def test_scan_without_a_check_has_the_plain_shape(
    client: Any, write_archive: Write, tmp_path: Path, capsys: Captured
) -> None:
    """Metrics count too; times are those of reception."""
    message = client.metric_message(1.5)
    archive = write_archive(tmp_path / "archive", [client.batch_of(message, message)])
    assert scan_archive(archive, None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "records": 2,
        "events": 2,
        "first_time": "2026-01-01T00:00:00.123Z",
        "last_time": "2026-01-01T00:00:00.123Z",
    }


def test_an_empty_archive_has_nothing(tmp_path: Path, capsys: Captured) -> None:
    """Times are null, and that is no failure."""
    assert scan_archive(tmp_path, None, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "records": 0,
        "events": 0,
        "first_time": None,
        "last_time": None,
    }


def test_verify_of_a_whole_archive_is_ok(synthetic_archive: Path, capsys: Captured) -> None:
    """Exactly the documented keys."""
    assert verify_archive(synthetic_archive, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"ok": True, "segments": 2, "events": 10_000, "damaged": []}


def test_verify_names_file_and_offset_of_a_flipped_byte(
    client: Any, write_archive: Write, tmp_path: Path, capsys: Captured
) -> None:
    """To people and to programs alike; the exit code is 1."""
    message = client.event_message([(EventType.TRACK, "x", b"y" * 500)])
    archive = write_archive(tmp_path / "archive", [client.batch_of(message)])
    (segment,) = archive.rglob("*.bin")
    content = bytearray(segment.read_bytes())
    content[300] ^= 0x40
    segment.write_bytes(content)
    assert verify_archive(archive, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    (damage,) = found["damaged"]
    assert damage["path"] == str(segment)
    assert 0 <= damage["offset"] <= 300
    assert damage["reason"]
    assert verify_archive(archive, as_json=False) == 1
    assert f"damaged: {segment}" in capsys.readouterr().out


def test_what_is_no_archive_is_a_usage_error(tmp_path: Path) -> None:
    """Neither a missing path nor a file of something else is called ok."""
    with pytest.raises(ConfigError, match="no such file"):
        verify_archive(tmp_path / "absent", as_json=True)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="not a segment"):
        verify_archive(tmp_path / "notes.txt", as_json=True)
