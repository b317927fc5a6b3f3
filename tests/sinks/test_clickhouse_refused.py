"""Rows that the server will never take: the others land, these are kept with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.enums import EventType
from cdp_ray_sinks.delivery.push import DURABLE
from cdp_ray_sinks.errors import RefusedMessagesError
from cdp_ray_sinks.sinks import clickhouse_inserts

CONSTRAINT = "ALTER TABLE {db}.events_v1 ADD CONSTRAINT short CHECK length(properties) < 1000"


def long_at(places: set[int], count: int) -> list[bytes]:
    """Payloads with running numbers, some of them too long."""
    filler = b'","filler":"' + b"x" * 1000
    return [
        b'{"n":%d,"of":"some length%s"}' % (n, filler if n in places else b"") for n in range(count)
    ]


def payloads_of(batches: list[Any]) -> list[Any]:
    return [
        json.loads(payload)
        for batch in batches
        for payload in decode_events(batch).table["payload"].to_pylist()
    ]


@pytest.mark.parametrize("per_message", [1, 500])
def test_one_bad_row_in_a_hundred_thousand(lab: Any, per_message: int) -> None:
    """99,999 land, one dead letter says why, and once the table is mended it lands too."""
    lane = lab.lane(lab.unopened())
    lab.command(CONSTRAINT)
    batch = lab.batch(long_at({31_416}, 100_000), per_message=per_message)
    assert lane.deliver(batch) == [DURABLE]
    assert lab.landed() == (99_999, 99_999)
    batches, (reason,) = lab.buried()
    assert [payload["n"] for payload in payloads_of(batches)] == [31_416]
    assert reason["messages"] == 1
    assert "Code: 469" in reason["reason"]
    assert "Constraint `short`" in reason["reason"]
    assert lane.lane.snapshot().dead_letters == 1

    lab.command("ALTER TABLE {db}.events_v1 DROP CONSTRAINT short")
    (buried,) = batches
    header = buried.header._replace(producer=b"a replay of them", sequence=1)
    assert lane.deliver(replace(buried, header=header)) == [DURABLE]
    assert lab.landed() == (100_000, 100_000)
    ids = "SELECT uniqExact(device_id), uniqExact(session_id) FROM {db}.events_v1"
    assert lab.query(ids) == [(100_000, 100_000)]


def test_many_bad_rows_are_all_found(lab: Any) -> None:
    """Here and there, and side by side."""
    bad = {*range(0, 20_000, 1000), *range(500, 520)}
    lane = lab.lane(lab.unopened())
    lab.command(CONSTRAINT)
    assert lane.deliver(lab.batch(long_at(bad, 20_000), per_message=7)) == [DURABLE]
    assert lab.landed() == (20_000 - len(bad), 20_000 - len(bad))
    batches, _ = lab.buried()
    assert {payload["n"] for payload in payloads_of(batches)} == bad


def test_a_table_that_takes_nothing_is_not_searched_for_ever(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some halvings the rest is kept as it is, good rows too."""
    monkeypatch.setattr(clickhouse_inserts, "HALVINGS_MAX", 20)
    sink = lab.unopened()
    lane = lab.lane(sink)
    lab.command("ALTER TABLE {db}.events_v1 ADD CONSTRAINT no CHECK length(properties) = 0")
    assert lane.deliver(lab.numbered(0, 5000), lab.logs(["fine"])) == [DURABLE, DURABLE]
    assert lab.landed() == (0, 0)
    batches, reasons = lab.buried()
    assert sorted(payload["n"] for payload in payloads_of(batches)) == list(range(5000))
    assert any("not searched any further" in line["reason"] for line in reasons)
    assert sink.counters()["insert_errors"] < 100
    assert lab.query("SELECT count() FROM {db}.logs_v1") == [(1,)]


def test_what_is_no_json_where_the_column_is_json(lab: Any) -> None:
    """A newer schema has payloads as JSON, and clients send what they like."""
    lab.sink().close()
    lab.command("ALTER TABLE {db}.events_v1 MODIFY COLUMN properties JSON")
    lane = lab.lane(lab.unopened())
    batch = lab.batch([{"n": 1}, b"not json", {"n": 2}, b"{", {"n": 3}], per_message=5)
    assert lane.deliver(batch) == [DURABLE]
    assert lab.query("SELECT sum(properties.n::UInt64), count() FROM {db}.events_v1") == [(6, 3)]
    batches, _ = lab.buried()
    (buried,) = batches
    assert decode_events(buried).table["payload"].to_pylist() == [b"not json", b"{"]


def test_identify_without_an_email_is_a_dead_letter(lab: Any) -> None:
    """The other events of its message land, and only it is kept."""
    lane = lab.lane(lab.unopened())
    people = [{"email": "a@x.org", "plan": "pro"}, {"user_id": "u2", "name": "Nobody"}]
    types = [EventType.IDENTIFY, EventType.IDENTIFY, EventType.TRACK]
    assert lane.deliver(lab.batch([*people, {"n": 1}], types=types, per_message=3)) == [DURABLE]
    assert lab.landed() == (1, 1)
    assert lab.query("SELECT email FROM {db}.users_v1") == [("a@x.org",)]
    batches, (reason,) = lab.buried()
    assert payloads_of(batches) == [people[1]]
    assert "IDENTIFY" in reason["reason"]


def test_a_message_that_does_not_decode_is_a_dead_letter(lab: Any) -> None:
    """As it came; its neighbours land."""
    lane = lab.lane(lab.unopened())
    batch = lab.batch([{"n": 0}, {"n": 1}, {"n": 2}])
    broken = batch.records.copy()
    start, end = int(batch.offsets[1]) + 28, int(batch.offsets[2])
    broken[start:end] = 0xEE
    assert lane.deliver(replace(batch, records=broken)) == [DURABLE]
    assert lab.landed() == (2, 2)
    (buried,), (reason,) = lab.buried()
    assert bytes(next(iter(buried.messages()))) == b"\xee" * (end - start)
    assert "outside the message" in reason["reason"]


def test_a_log_entry_that_is_refused_is_kept_whole(lab: Any) -> None:
    """Level, source and service come back with it."""
    lane = lab.lane(lab.unopened())
    lab.command("ALTER TABLE {db}.logs_v1 ADD CONSTRAINT calm CHECK message != '\"bad\"'")
    assert lane.deliver(lab.logs(["good", "bad", "good"], per_message=3)) == [DURABLE]
    assert lab.query("SELECT count() FROM {db}.logs_v1") == [(2,)]
    lab.command("ALTER TABLE {db}.logs_v1 DROP CONSTRAINT calm")
    (buried,), _ = lab.buried()
    header = buried.header._replace(producer=b"a replay of them", sequence=1)
    assert lane.deliver(replace(buried, header=header)) == [DURABLE]
    assert lab.query("SELECT DISTINCT level, source, service FROM {db}.logs_v1") == [
        ("ERROR", "host", "checkout")
    ]
    assert lab.query("SELECT message FROM {db}.logs_v1 ORDER BY timestamp") == [
        ('"good"',), ('"bad"',), ('"good"',),
    ]  # fmt: skip


@pytest.mark.parametrize("is_told", [True, False])
def test_the_end_before_refused_rows_are_kept_loses_none(lab: Any, is_told: bool) -> None:
    """The next process knows what was refused, and keeps it when the batch comes again."""
    sink = lab.sink()
    lab.command(CONSTRAINT)
    batch, other = lab.batch(long_at({3, 700}, 1000), per_message=10), lab.numbered(5000, 10)
    sink.write(batch)
    sink.write(other)
    if is_told:
        with pytest.raises(RefusedMessagesError, match="2 entries refused: Code: 469"):
            sink.flush()
    else:
        sink._submit()
        lab.wait(lambda: not sink._opened_line().is_busy)
    sink._let_go()  # nothing is buried, nothing is in the ledger
    assert lab.landed() == (1008, 1008)

    lab.command("ALTER TABLE {db}.events_v1 DROP CONSTRAINT short")
    again = lab.unopened()
    lane = lab.lane(again)
    assert lane.deliver(other) == [DURABLE]
    assert len(list((lab.folder / "state" / "lab").glob("refused-*"))) == 1
    assert lane.deliver(batch, lab.numbered(9000, 10)) == [DURABLE, DURABLE]
    assert lab.landed() == (1018, 1018)
    batches, _ = lab.buried()
    assert [payload["n"] for payload in payloads_of(batches)] == [3, 700]
    assert lane.deliver(batch) == [DURABLE]
    assert lane.lane.snapshot().dead_letters == 2
    assert not list((lab.folder / "state" / "lab").glob("refused-*"))
