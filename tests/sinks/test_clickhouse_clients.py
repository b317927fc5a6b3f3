"""What clients were seen to send lands in the right tables of a real server, both ways."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import EventType, LogLevel

DEVICE = uuid.UUID(bytes=b"\x11" * 16)
SESSION = uuid.UUID(bytes=b"\x22" * 16)
FIELDS = ("type", "event", "service", "device_id", "session_id", "timestamp")
LOG_FIELDS = ("level", "source", "service", "session_id", "timestamp")


def user_id(email: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, email))


def test_frames_of_the_encoders(captures: Path, lab: Any, oracle: Any) -> None:
    """Both layouts of an event; the metric message makes no row and is counted."""
    frames = oracle.frames((captures / "rust_encoding_0.5.0_frames.bin").read_bytes())
    frames += oracle.frames((captures / "collector_dialect_frames.bin").read_bytes())
    sink = lab.sink()
    for sequence, frame in enumerate(frames):
        batch = oracle.batch([frame], oracle.schema_of(frame))
        sink.write(replace(batch, header=batch.header._replace(sequence=sequence)))
    sink.flush()
    assert lab.query(
        "SELECT event_name, toUnixTimestamp64Milli(timestamp), device_id, session_id "
        "FROM {db}.events_v1 ORDER BY timestamp LIMIT 1"
    ) == [("Page Viewed", 1_700_000_000_001, DEVICE, SESSION)]
    names = "SELECT event_name, count() FROM {db}.events_v1 GROUP BY 1 ORDER BY 1"
    assert lab.query(names) == [("Page Viewed", 1), ("page_view", 2)]
    assert lab.query("SELECT user_id, email, name FROM {db}.users_v1 ORDER BY email") == [
        (user_id("user@example.com"), " User@Example.COM ", "Ann"),
        (user_id("a@b.co"), "a@b.co", "Ann"),
    ]
    assert lab.query("SELECT uniq(user_id), any(device_id) FROM {db}.user_devices") == [(2, DEVICE)]
    traits = "SELECT user_id, trait_key, trait_value FROM {db}.user_traits ORDER BY trait_key"
    assert lab.query(traits) == [
        (user_id("user@example.com"), "plan", "pro"),
        (user_id("user@example.com"), "tier", "gold"),
    ]
    assert lab.query(
        "SELECT device_type, device_model, operating_system, os_version, app_version, app_build, "
        "timezone, locale, country, region, city FROM {db}.context_v1"
    ) == [
        ("mobile", "iPhone 14", "iOS", "16.4", "2.1", "7", "Europe/Paris", b"fr_FR", "FR", "IDF",
         "Paris"),
    ]  # fmt: skip
    assert lab.query(
        "SELECT level, source, service, message, pattern_id FROM {db}.logs_v1 ORDER BY level"
    ) == [
        ("ERROR", "host-1", "api", '{"message":"boom"}', None),
        ("NOTICE", "host-1", "api", '{"message":"notice"}', None),
    ]
    assert sink.counters()["left_out_metric_batches"] == 1


def lines_of(path: Path) -> list[dict[str, Any]]:
    body = path.read_bytes().partition(b"\r\n\r\n")[2]
    return [json.loads(line) for line in body.splitlines()]


def rest_of(line: dict[str, Any], fields: tuple[str, ...]) -> bytes:
    rest = {key: value for key, value in line.items() if key not in fields}
    return json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode()


def ids_in(lines: list[dict[str, Any]], key: str) -> pa.Array:
    return pa.array([bytes.fromhex(line[key]) for line in lines], pa.binary(16))


def events_batch(lab: Any, lines: list[dict[str, Any]]) -> Any:
    """The events of a request as a message of them."""
    records, offsets = encode_events(
        [EventType[line["type"].upper()] for line in lines],
        [line["timestamp"] for line in lines],
        device_ids=ids_in(lines, "device_id"),
        session_ids=ids_in(lines, "session_id"),
        names=pa.array([line.get("event") for line in lines]),
        services=pa.array([line["service"] for line in lines]),
        payloads=pa.array([rest_of(line, FIELDS) for line in lines]),
        events_per_message=len(lines),
        received_at_ms=lab.start_ms,
    )
    return lab.as_batch(records, offsets, 1, len(lines))


def logs_batch(lab: Any, lines: list[dict[str, Any]]) -> Any:
    """The same of log entries."""
    records, offsets = encode_logs(
        [1] * len(lines),
        [LogLevel[line["level"].upper()] for line in lines],
        [line["timestamp"] for line in lines],
        session_ids=ids_in(lines, "session_id"),
        sources=pa.array([line["source"] for line in lines]),
        services=pa.array([line["service"] for line in lines]),
        payloads=pa.array([rest_of(line, LOG_FIELDS) for line in lines]),
        events_per_message=len(lines),
        received_at_ms=lab.start_ms,
    )
    return lab.as_batch(records, offsets, 2, len(lines))


def test_requests_of_the_server_side_client(captures: Path, lab: Any) -> None:
    """Its flat IDENTIFY, names beyond ASCII, GROUP and ALIAS counted, levels by name."""
    lines = lines_of(captures / "node_sdk_0.3.2_events.http")
    sink = lab.sink()
    sink.write(events_batch(lab, lines))
    sink.write(logs_batch(lab, lines_of(captures / "node_sdk_0.3.2_logs.http")))
    sink.flush()
    rows = lab.query(
        "SELECT event_name, device_id, simpleJSONExtractString(properties, 'url'), "
        "simpleJSONExtractFloat(properties, 'amount') FROM {db}.events_v1 ORDER BY timestamp"
    )
    device = uuid.UUID(lines[0]["device_id"])
    assert rows == [("Page Viewed", device, "/home", 0.0), ("Order Completed", device, "", 49.99)]
    who = user_id("e2e@tell.app")
    assert lab.query("SELECT user_id, email, name FROM {db}.users_v1") == [
        (who, " E2E@Tell.App ", "Zoë Test")
    ]
    assert lab.query("SELECT * EXCEPT linked_at FROM {db}.user_devices") == [(who, device)]
    assert lab.query("SELECT trait_key, trait_value FROM {db}.user_traits") == [("plan", "pro")]
    assert sink.counters()["left_out_group"] == sink.counters()["left_out_alias"] == 1
    assert lab.query(
        "SELECT level, simpleJSONExtractString(message, 'message') FROM {db}.logs_v1 ORDER BY level"
    ) == [("EMERGENCY", "emerg"), ("ERROR", 'Failed "quoted"\nline two'), ("TRACE", "trace msg")]


def test_requests_of_the_browser_client(captures: Path, lab: Any) -> None:
    """The CONTEXT that it sends by itself, under its own names."""
    sink = lab.sink()
    sink.write(events_batch(lab, lines_of(captures / "browser_sdk_0.3.2_events.http")))
    sink.write(logs_batch(lab, lines_of(captures / "browser_sdk_0.3.2_logs.http")))
    sink.flush()
    assert lab.query(
        "SELECT device_type, operating_system, timezone, locale, "
        "simpleJSONExtractUInt(properties, 'screen_width') FROM {db}.context_v1"
    ) == [("desktop", "Linux", "UTC", b"en-US", 1920)]
    assert lab.landed()[0] == 1
    assert lab.query("SELECT user_id, name FROM {db}.users_v1") == [(user_id("a@b.co"), "A")]
    assert lab.query("SELECT count() FROM {db}.user_traits") == [(0,)]
    assert lab.query("SELECT level, source, message FROM {db}.logs_v1") == [
        ("INFO", "browser", '{"message":"hello"}')
    ]


@pytest.mark.parametrize("all_events", [False, True])
def test_events_of_no_table(captures: Path, lab: Any, all_events: bool) -> None:
    """GROUP and ALIAS go to events_v1 only if that is asked for."""
    sink = lab.sink(all_events=all_events)
    sink.write(events_batch(lab, lines_of(captures / "node_sdk_0.3.2_events.http")))
    sink.flush()
    assert lab.query("SELECT count() FROM {db}.events_v1") == [(4 if all_events else 2,)]
