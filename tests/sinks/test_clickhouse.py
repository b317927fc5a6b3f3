"""What lands in which table, over HTTP on a real server."""

from __future__ import annotations

import uuid
from typing import Any

from cdp_ray_sinks.batch.enums import EventType


def test_track_events_land_with_their_values(lab: Any) -> None:
    """Each column has what the event had; bytes that are no UTF-8 stay as they are."""
    sink = lab.sink()
    sink.write(lab.batch([{"n": 1}, b"\xff\xfe no text"], names=["Viewed", "Café"]))
    sink.flush()
    rows = lab.query(
        "SELECT toUnixTimestamp64Milli(timestamp), event_name, device_id, hex(properties), "
        "_raw = properties, IPv6NumToString(source_ip) FROM {db}.events_v1 ORDER BY device_id"
    )
    first = uuid.UUID(int=1 << 120)
    raw = b'{"n":1}'.hex().upper()
    assert rows[0] == (lab.start_ms, "Viewed", first, raw, 1, "::ffff:127.0.0.1")
    assert rows[1][1] == "Café"
    assert bytes.fromhex(rows[1][3]) == b"\xff\xfe no text"


def test_every_kind_lands_in_its_tables(lab: Any) -> None:
    """TRACK, IDENTIFY, CONTEXT and log entries in one flush."""
    sink = lab.sink()
    person = {"email": " Ada@Example.com ", "name": "Ada", "traits": {"plan": "pro", "age": 36}}
    place = {"os_name": "macOS", "locale": "zh-Hant-TW", "country": "TW"}
    sink.write(
        lab.batch(
            [{"n": 1}, person, place, {"n": 2}],
            types=[EventType.TRACK, EventType.IDENTIFY, EventType.CONTEXT, EventType.GROUP],
        )
    )
    sink.write(lab.logs(["it broke"]))
    sink.flush()
    user = str(uuid.uuid5(uuid.NAMESPACE_DNS, "ada@example.com"))
    assert lab.query("SELECT count() FROM {db}.events_v1") == [(1,)]
    assert lab.query("SELECT user_id, name FROM {db}.users_v1") == [(user, "Ada")]
    assert lab.query("SELECT user_id FROM {db}.user_devices") == [(user,)]
    traits = lab.query("SELECT trait_key, trait_value FROM {db}.user_traits ORDER BY 1")
    assert traits == [("age", "36"), ("plan", "pro")]
    assert lab.query("SELECT operating_system, country FROM {db}.context_v1") == [("macOS", "TW")]
    assert lab.query("SELECT level, service, message FROM {db}.logs_v1") == [
        ("ERROR", "checkout", '"it broke"')
    ]
    assert sink.counters()["left_out_group"] == 1
