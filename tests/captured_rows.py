"""The captured client bytes as rows of ClickHouse's tables: every value written out by hand.

A row has the columns of its table in the order of the CREATE TABLE. Times are Unix milliseconds,
ids and addresses text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import EventType, LogLevel

Rows = Mapping[str, Sequence[tuple[Any, ...]]]

COLUMNS = {
    "events_v1": "timestamp event_name device_id session_id properties _raw source_ip",
    "users_v1": "user_id email name updated_at",
    "user_devices": "user_id device_id linked_at",
    "user_traits": "user_id trait_key trait_value updated_at",
    "context_v1": "timestamp device_id session_id device_type device_model operating_system "
    "os_version app_version app_build timezone locale country region city properties source_ip",
    "logs_v1": "timestamp level source service session_id source_ip pattern_id message _raw",
}

IP = "::ffff:127.0.0.1"
ONES = "11111111-1111-1111-1111-111111111111"
TWOS = "22222222-2222-2222-2222-222222222222"
A_AT_B_CO = "1fc6d52a-760d-5acb-8859-a11cb4ba8517"
USER_AT_EXAMPLE_COM = "b21b5663-c40d-51b7-8d60-c015e3de48e9"
E2E_AT_TELL_APP = "92fb261e-2bec-52ab-87e4-2ee6f865f6ce"
"""UUID version 5 of the addresses in lower case, in the DNS namespace."""

HOME = '{"user_id":"throughput_user","url":"/home","referrer":"google","screen":"1920x1080"}'
PAGE = '{"url":"/home","n":1}'
PLACE = (
    '{"device_type":"mobile","device_model":"iPhone 14","operating_system":"iOS",'
    '"os_version":"16.4","app_version":"2.1","app_build":"7","timezone":"Europe/Paris",'
    '"locale":"fr_FR","country":"FR","region":"IDF","city":"Paris"}'
)
NODE_DEVICE = "b097ee2c-52fd-4234-83c7-0d39d7f59039"
NODE_SESSION = "37b60d2d-f77f-4e1f-bb34-d097681b11b5"
GZIP_DEVICE = "839f0d5a-a31c-401f-ad06-8c9cf7a754c8"
GZIP_SESSION = "168bedb1-c049-478b-9953-0157b0bfbb23"
BROWSER_DEVICE = "79e5e167-69cd-ea46-a516-9d5f6089da19"
BROWSER_SESSION = "5cd561ee-7723-c7dd-eb0a-de495799d530"
VIEWED = '{"user_id":"user_1","sdk":"node","url":"/home","n":3,"ok":true}'
ORDERED = (
    '{"user_id":"user_1","sdk":"node","product":"pro","order_id":"order_1","amount":49.99,'
    '"currency":"USD"}'
)
FAILED = '{"message":"Failed \\"quoted\\"\\nline two","data":{"code":500}}'
BROWSER = (
    '{"reason":"session_start","browser":"Chrome","browser_version":"120","os_name":"Linux",'
    '"locale":"en-US","device_type":"desktop","screen_width":1920,"screen_height":1080,'
    '"viewport_width":1200,"viewport_height":800,"device_pixel_ratio":2,"title":"t",'
    '"url":"http://127.0.0.1/p?utm_source=x","path":"/p","timezone":"UTC"}'
)


def _node_rows(times: Sequence[int], device: str, session: str) -> Rows:
    """Of the five events that the server-side client sends; GROUP and ALIAS make none."""
    viewed, identified, ordered = times
    return {
        "events_v1": [
            (viewed, "Page Viewed", device, session, VIEWED, VIEWED, IP),
            (ordered, "Order Completed", device, session, ORDERED, ORDERED, IP),
        ],
        "users_v1": [(E2E_AT_TELL_APP, " E2E@Tell.App ", "Zoë Test", identified)],
        "user_devices": [(E2E_AT_TELL_APP, device, identified)],
        "user_traits": [(E2E_AT_TELL_APP, "plan", "pro", identified)],
    }


FRAMES: Mapping[str, Rows] = {
    "rust_encoding_0.5.0_frames.bin": {
        "events_v1": [(1700000000001, "Page Viewed", ONES, TWOS, HOME, HOME, IP)],
        "users_v1": [(A_AT_B_CO, "a@b.co", "Ann", 1700000000002)],
        "user_devices": [(A_AT_B_CO, ONES, 1700000000002)],
        "logs_v1": [
            (1700000000003, "NOTICE", "host-1", "api", TWOS, IP, None,
             '{"message":"notice"}', '{"message":"notice"}'),
        ],
    },
    "collector_dialect_frames.bin": {
        "events_v1": [(1700000000001, "page_view", ONES, TWOS, PAGE, PAGE, IP)] * 2,
        "users_v1": [(USER_AT_EXAMPLE_COM, " User@Example.COM ", "Ann", 1700000000002)],
        "user_devices": [(USER_AT_EXAMPLE_COM, ONES, 1700000000002)],
        "user_traits": [
            (USER_AT_EXAMPLE_COM, "plan", "pro", 1700000000002),
            (USER_AT_EXAMPLE_COM, "tier", "gold", 1700000000002),
        ],
        "context_v1": [
            (1700000000003, ONES, TWOS, "mobile", "iPhone 14", "iOS", "16.4", "2.1", "7",
             "Europe/Paris", "fr_FR", "FR", "IDF", "Paris", PLACE, IP),
        ],
        "logs_v1": [
            (1700000000004, "ERROR", "host-1", "api", TWOS, IP, None,
             '{"message":"boom"}', '{"message":"boom"}'),
        ],
    },
}  # fmt: skip
"""Files of frames; the metric of the first makes no row."""

REQUESTS: Mapping[str, Rows] = {
    "node_sdk_0.3.2_events.http": _node_rows(
        (1795341853586, 1795341853587, 1795341853587), NODE_DEVICE, NODE_SESSION
    ),
    "node_sdk_0.3.2_events_gzip.http": _node_rows((1795342044794,) * 3, GZIP_DEVICE, GZIP_SESSION),
    "node_sdk_0.3.2_logs.http": {
        "logs_v1": [
            (1795341853587, "ERROR", "capture-host", "node-e2e", NODE_SESSION, IP, None,
             FAILED, FAILED),
            (1795341853587, "TRACE", "capture-host", "node-e2e", NODE_SESSION, IP, None,
             '{"message":"trace msg"}', '{"message":"trace msg"}'),
            (1795341853587, "EMERGENCY", "capture-host", "node-e2e", NODE_SESSION, IP, None,
             '{"message":"emerg"}', '{"message":"emerg"}'),
        ],
    },
    "browser_sdk_0.3.2_events.http": {
        "events_v1": [
            (1795341859081, "Page Viewed", BROWSER_DEVICE, BROWSER_SESSION,
             '{"utm_source":"x","url":"/p"}', '{"utm_source":"x","url":"/p"}', IP),
        ],
        "users_v1": [(A_AT_B_CO, "a@b.co", "A", 1795341859081)],
        "user_devices": [(A_AT_B_CO, BROWSER_DEVICE, 1795341859081)],
        "context_v1": [
            (1795341859081, BROWSER_DEVICE, BROWSER_SESSION, "desktop", "", "Linux", "", "", "",
             "UTC", "en-US", "", "", "", BROWSER, IP),
        ],
    },
    "browser_sdk_0.3.2_logs.http": {
        "logs_v1": [
            (1795341859082, "INFO", "browser", "127.0.0.1", BROWSER_SESSION, IP, None,
             '{"message":"hello"}', '{"message":"hello"}'),
        ],
    },
}  # fmt: skip
"""Files of requests, whose events `request_batch` encodes."""

_FIELDS = {"type", "event", "level", "source", "service", "device_id", "session_id", "timestamp"}
"""What an event or a log entry has in fields of its own; the rest is its payload."""


class CapturedRows:
    """What tests can't import: the rows, the batches that make them, and how rows are read."""

    frames = FRAMES
    requests = REQUESTS

    @staticmethod
    def select(database: str, table: str) -> str:
        """The query for a table's rows as they stand here."""
        asked = []
        for name in COLUMNS[table].split():
            if name in ("timestamp", "updated_at", "linked_at"):
                asked.append(f"toUnixTimestamp64Milli({name})")
            elif name in ("device_id", "session_id", "locale"):
                asked.append(f"toString({name})")
            else:
                asked.append("IPv6NumToString(source_ip)" if name == "source_ip" else name)
        return f"SELECT {', '.join(asked)} FROM {database}.{table}"

    @staticmethod
    def compare(found: Rows, expected: Rows) -> None:
        """Every row of every table, in any order."""
        for table in COLUMNS:
            assert sorted(map(repr, found[table])) == sorted(map(repr, expected.get(table, ()))), (
                table
            )

    @staticmethod
    def request_batch(lab: Any, path: Path) -> Any:
        """The events or log entries of a request as one message, as they stand in its JSON."""
        head, _, body = path.read_bytes().partition(b"\r\n\r\n")
        if b"Content-Encoding: gzip" in head:
            body = gzip.decompress(body)
        lines = [json.loads(line) for line in body.splitlines()]
        rest = [{key: line[key] for key in line if key not in _FIELDS} for line in lines]
        columns: dict[str, Any] = {
            "session_ids": _ids(lines, "session_id"),
            "services": pa.array([line["service"] for line in lines]),
            "payloads": pa.array(
                [json.dumps(r, ensure_ascii=False, separators=(",", ":")).encode() for r in rest]
            ),
            "events_per_message": len(lines),
            "received_at_ms": lab.start_ms,
        }
        times = [line["timestamp"] for line in lines]
        if b"/v1/logs" in head:
            levels = [LogLevel[line["level"].upper()] for line in lines]
            sources = pa.array([line["source"] for line in lines])
            made = encode_logs([1] * len(lines), levels, times, sources=sources, **columns)
            return lab.as_batch(*made, 2, len(lines))
        made = encode_events(
            [EventType[line["type"].upper()] for line in lines],
            times,
            device_ids=_ids(lines, "device_id"),
            names=pa.array([line.get("event") for line in lines]),
            **columns,
        )
        return lab.as_batch(*made, 1, len(lines))


def _ids(lines: Sequence[Mapping[str, Any]], key: str) -> pa.Array:
    return pa.array([bytes.fromhex(line[key]) for line in lines], pa.binary(16))
