"""What lands in which table, over HTTP on a real server."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import numpy as np

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


def test_pattern_ids_land_with_their_entries(lab: Any) -> None:
    """A transformer may have set them; 0 is none."""
    sink = lab.sink()
    known = lab.logs(["a", "b", "c"], per_message=3)
    sink.write(replace(known, pattern_ids=np.array([2**64 - 1, 0, 7], np.uint64)))
    sink.write(lab.logs(["d"]))
    sink.flush()
    assert lab.query("SELECT message, pattern_id FROM {db}.logs_v1 ORDER BY message") == [
        ('"a"', 2**64 - 1),
        ('"b"', None),
        ('"c"', 7),
        ('"d"', None),
    ]


def test_ids_land_as_text_where_bytes_would_not(lab: Any) -> None:
    """Servers that read the sixteen bytes otherwise get hyphenated text."""
    sink = lab.sink()
    sink._blocks._text_ids = {"events_v1": frozenset({"device_id", "session_id"})}
    sink.write(lab.numbered(0, 300))
    sink.flush()
    other = lab.sink("other")
    other.write(lab.numbered(0, 300))
    other.flush()
    sql = "SELECT count() AS n, device_id, session_id FROM {db}.events_v1 GROUP BY 2, 3"
    assert lab.query(f"SELECT count(), min(n), max(n) FROM ({sql})") == [(300, 2, 2)]


def test_tables_that_forget_inserts_are_told_of(lab: Any) -> None:
    """With the statement that helps; nobody changes the tables of others unasked."""
    lab.sink().close()
    lab.command("ALTER TABLE {db}.users_v1 RESET SETTING non_replicated_deduplication_window")
    lab.command("DROP TABLE {db}.logs_v1 SYNC")
    lab.command(
        "CREATE TABLE {db}.logs_v1 (timestamp DateTime64(3), level String, source String, "
        "service String, session_id UUID, source_ip FixedString(16), "
        "pattern_id Nullable(UInt64), message String, _raw String) ENGINE = Null"
    )
    sink = lab.sink()
    users, logs = sorted(sink.notes, reverse=True)
    assert "users_v1: repeated inserts are not recognised, rows land at least once" in users
    assert "MODIFY SETTING non_replicated_deduplication_window = 10000" in users
    assert "logs_v1: engine Null does not recognise repeated inserts" in logs


def test_a_thousand_rows_an_insert_if_that_is_wanted(lab: Any) -> None:
    """As small as other software sends them."""
    sink = lab.sink(rows_per_insert=1000)
    for start in range(0, 10_000, 500):
        sink.write(lab.numbered(start, 500))
    sink.write(lab.numbered(10_000, 3500))
    sink.flush()
    assert lab.landed() == (13_500, 13_500)
    assert sink.counters()["inserts"] == 14
    assert sink.counters()["events_v1_rows"] == 13_500


def test_rows_are_answered_for_without_a_flush(lab: Any) -> None:
    """What has lingered is inserted by itself; a full generation does not wait for it."""
    sink = lab.sink(linger_ms=100, rows_per_insert=1000)
    batches = [lab.numbered(0, 10), lab.numbered(10, 1000), lab.numbered(1010, 10)]
    sink.write(batches[0])
    assert 0 < sink.due_in_ms(lab.now_ms()) <= 100
    sink.write(batches[1])
    found: list[Any] = []
    lab.wait(lambda: not sink.due_in_ms(lab.now_ms()) and not found.extend(sink.committed()))
    assert found == [batch.header.batch_id for batch in batches[:2]]
    sink.write(batches[2])
    assert sink.committed() == []
    lab.pause(0.1)
    lab.wait(lambda: bool(found.extend(sink.committed()) or len(found) == 3))
    assert lab.landed() == (1020, 1020)
    assert all(
        sink.ledger_for(1).has(*batch.header.batch_id, batch.header.checksum) for batch in batches
    )
