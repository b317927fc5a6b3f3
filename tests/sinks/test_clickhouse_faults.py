"""What goes wrong between the sink and a real server loses nothing and doubles nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.enums import EventType
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.delivery.push import DURABLE, PENDING
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sinks import clickhouse_inserts

KEEPER = """<clickhouse>
  <users_config>{config}</users_config>
  <profiles><default></default></profiles><quotas><default></default></quotas>
  <users><default>
    <password></password><networks><ip>::/0</ip></networks>
    <profile>default</profile><quota>default</quota>
  </default></users>
  <zookeeper><implementation>testkeeper</implementation></zookeeper>
</clickhouse>"""
"""A server with a keeper in it, which never comes to be ready."""


def is_insert(head: bytes) -> bool:
    return b"INSERT" in head.split(b"\r\n")[0]


def answer(code: int | None, text: str, status: str = "500 Internal Server Error") -> bytes:
    """An answer as a server gives it, or with no code as something in front of it does."""
    own = "" if code is None else f"X-ClickHouse-Exception-Code: {code}\r\n"
    return f"HTTP/1.1 {status}\r\n{own}Content-Length: {len(text)}\r\n\r\n{text}".encode()


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_an_answer_that_is_lost_doubles_nothing(lab: Any, compression: str) -> None:
    """The server has the rows, the sink does not know: the same insert again is recognised."""
    proxy = lab.proxy()
    lost = iter(["lose", "lose"])
    proxy.on_request = lambda head: next(lost, "pass") if is_insert(head) else "pass"
    sink = lab.sink(url=proxy.url, compression=compression)
    sink.write(lab.numbered(0, 5000))
    told = lab.flush(sink)
    assert len(told) == 2
    assert "no answer" in told[0]
    assert proxy.lost.is_set()
    assert lab.landed() == (5000, 5000)


def test_a_bad_way_to_the_server(lab: Any) -> None:
    """Resets, lost and late answers, refusals from a gateway, all over six tables."""
    chance = random.Random(5)
    faults: list[Any] = ["reset", "lose", "lose", 0.2, answer(None, "busy", "503 Busy")]
    faults += [answer(202, "Code: 202. DB::Exception: too many"), answer(None, "?", "502 Bad")]
    proxy = lab.proxy()
    proxy.on_request = lambda head: (
        chance.choice([*faults, "pass", "pass", "pass"]) if is_insert(head) else "pass"
    )
    sink = lab.sink(url=proxy.url, rows_per_insert=500)
    for start in range(0, 20_000, 1000):
        sink.write(lab.numbered(start, 1000))
        sink.write(lab.logs([f"line {start}"] * 20))
        sink.write(lab.batch([{"email": f"u{start}@x.org", "plan": "a"}], types=2))
    told = lab.flush(sink)
    assert len(told) > 10
    assert lab.landed() == (20_000, 20_000)
    assert lab.query("SELECT count() FROM {db}.logs_v1") == [(400,)]
    assert lab.query("SELECT count() FROM {db}.users_v1") == [(20,)]
    assert lab.query("SELECT count() FROM {db}.user_traits") == [(20,)]


def test_a_slow_answer_is_waited_for(lab: Any) -> None:
    """Up to the time that is allowed; after it the insert is tried again, and recognised."""
    proxy = lab.proxy()
    late = iter([0.5, 3.0])
    proxy.on_request = lambda head: next(late, "pass") if is_insert(head) else "pass"
    sink = lab.sink(url=proxy.url, insert_timeout_s=1)
    sink.write(lab.numbered(0, 100))
    assert lab.flush(sink) == []
    sink.write(lab.numbered(100, 100))
    assert "timed out" in lab.flush(sink)[0]
    assert lab.landed() == (200, 200)


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, lab_of: Callable[..., Any]) -> None:
    """SIGKILL in the middle of inserts; what it has acknowledged it has, the rest comes again."""
    with ClickHouseServer(tmp_path / "server") as server:
        lab = lab_of(server)
        lane = lab.lane(lab.unopened(rows_per_insert=2000))
        chance = random.Random(11)
        batches = [lab.numbered(start, 1000) for start in range(0, 60_000, 1000)]
        for place, batch in enumerate(batches):
            lane.offer(batch)
            if place in (10, 30, 50):
                lab.pause(chance.uniform(0, 0.1))
                server.kill()
                lane.offer(batches[place + 1])
                server.start()
        assert set(lane.deliver(*batches)) == {DURABLE}
        assert lab.landed() == (60_000, 60_000)


def test_too_many_parts_is_waited_for(lab: Any) -> None:
    """The server asks for time to merge; the rows land when it has had it."""
    sink = lab.sink(rows_per_insert=10)
    lab.command("SYSTEM STOP MERGES {db}.events_v1")
    lab.command(
        "ALTER TABLE {db}.events_v1 "
        "MODIFY SETTING parts_to_throw_insert = 3, parts_to_delay_insert = 1000"
    )
    for start in range(0, 100, 10):
        sink.write(lab.numbered(start, 10))
    with pytest.raises(TransientError, match=r"events_v1: Code: 252.*Too many parts"):
        sink.flush()
    assert 0 < lab.landed()[0] < 100
    lab.command("ALTER TABLE {db}.events_v1 MODIFY SETTING parts_to_throw_insert = 3000")
    lab.flush(sink)
    assert lab.landed() == (100, 100)


def test_rows_that_do_not_fit_the_memory_go_in_smaller_blocks(lab: Any) -> None:
    """A limit that the whole block meets each time; its halves don't."""
    sink = lab.sink(settings={"max_memory_usage": 8_000_000})
    payload = b'{"n":%d,"filler":"' + b"x" * 400 + b'"}'
    sink.write(lab.batch([payload % n for n in range(20_000)]))
    told = lab.flush(sink)
    assert "241" in told[0]
    assert sink.counters()["halvings"] >= 1
    assert lab.landed() == (20_000, 20_000)


def test_a_table_that_is_read_only_is_waited_for(lab: Any) -> None:
    """Until somebody lets it be written to again."""
    sink = lab.sink()
    lab.command("ALTER TABLE {db}.events_v1 MODIFY SETTING table_readonly = 1")
    sink.write(lab.numbered(0, 10))
    with pytest.raises(TransientError, match="events_v1: Code: 774"):
        sink.flush()
    lab.command("ALTER TABLE {db}.events_v1 MODIFY SETTING table_readonly = 0")
    lab.flush(sink)
    assert lab.landed() == (10, 10)


def test_a_replica_without_its_keeper_is_waited_for(
    tmp_path: Path, lab_of: Callable[..., Any]
) -> None:
    """Such a table is read-only for as long; here for ever, so it is made without replicas."""
    with ClickHouseServer(tmp_path / "server", KEEPER) as server:
        lab = lab_of(server)
        lab.sink().close()
        (statement,) = lab.query("SHOW CREATE TABLE {db}.events_v1")[0]
        lab.command("DROP TABLE {db}.events_v1 SYNC")
        lab.command(statement.replace("= MergeTree", "= ReplicatedMergeTree('/t/events', '1')"))
        sink = lab.sink(create_tables=False, settings={"insert_keeper_max_retries": 0})
        assert sink.notes == []
        sink.write(lab.numbered(0, 10))
        with pytest.raises(TransientError, match="events_v1: Code: 242") as caught:
            sink.flush()
        assert caught.value.retry_after_ms == 0  # it may be over at any moment
        lab.command("DROP TABLE {db}.events_v1 SYNC")
        lab.command(statement)
        lab.flush(sink)
        assert lab.landed() == (10, 10)


def test_all_tables_are_inserted_at_once(lab: Any) -> None:
    """Each of the six inserts is answered only when the other five have come too."""
    proxy, together = lab.proxy(), threading.Barrier(6)

    def answer_together(head: bytes) -> str:
        if is_insert(head):
            together.wait(30)
        return "pass"

    sink = lab.sink(url=proxy.url)
    proxy.on_request = answer_together
    payloads = [{"n": 1}, {"email": "a@b.co", "plan": "pro"}, {"os": "macOS"}]
    sink.write(lab.batch(payloads, types=[EventType.TRACK, EventType.IDENTIFY, EventType.CONTEXT]))
    sink.write(lab.logs(["a line"]))
    assert lab.flush(sink) == []
    assert sink.counters()["inserts"] == 6


def test_a_table_that_is_gone_is_waited_for(lab: Any) -> None:
    """Somebody has to make it again: the rows are kept and the reason is told, slowly."""
    sink = lab.sink()
    (statement,) = lab.query("SHOW CREATE TABLE {db}.events_v1")[0]
    lab.command("DROP TABLE {db}.events_v1 SYNC")
    sink.write(lab.numbered(0, 10))
    sink.write(lab.logs(["other tables go on"]))
    for _ in range(3):
        with pytest.raises(TransientError, match="events_v1: Code: 60") as caught:
            sink.flush()
        assert caught.value.retry_after_ms >= 1000
    assert lab.query("SELECT count() FROM {db}.logs_v1") == [(1,)]
    lab.command(statement)
    lab.flush(sink)
    assert lab.landed() == (10, 10)


def test_a_column_that_is_gone_is_waited_for(lab: Any) -> None:
    """The same for one of its columns."""
    sink = lab.sink()
    lab.command("ALTER TABLE {db}.events_v1 DROP COLUMN event_name")
    sink.write(lab.numbered(0, 10))
    with pytest.raises(TransientError, match=r"events_v1: Code: 16.*event_name"):
        sink.flush()
    lab.command("ALTER TABLE {db}.events_v1 ADD COLUMN event_name String")
    lab.flush(sink)
    assert lab.landed() == (10, 10)


def test_missing_tables_and_columns_are_all_named_at_the_start(lab: Any) -> None:
    """One error says all that does not fit, and what makes it fit."""
    lab.sink().close()
    lab.command("DROP TABLE {db}.users_v1")
    lab.command("ALTER TABLE {db}.context_v1 DROP COLUMN city, DROP COLUMN region")
    with pytest.raises(ConfigError) as caught:
        lab.sink(create_tables=False)
    text = str(caught.value)
    assert "users_v1: Code: 60" in text
    assert "context_v1 has no column region, city" in text
    assert "cdp-sinks ddl" in text
    with pytest.raises(ConfigError, match="Code: 81"):
        lab.sink(database="no_such_database", create_tables=False)


def test_columns_of_ones_own_are_no_trouble(lab: Any) -> None:
    """Columns are inserted by name: more of them, in another order, take their defaults."""
    lab.sink().close()
    lab.command("ALTER TABLE {db}.events_v1 ADD COLUMN team String DEFAULT 'none' FIRST")
    lab.command("ALTER TABLE {db}.events_v1 ADD COLUMN day Date MATERIALIZED toDate(timestamp)")
    sink = lab.sink(create_tables=False)
    sink.write(lab.numbered(0, 10))
    sink.flush()
    assert lab.query("SELECT DISTINCT team, toString(day) FROM {db}.events_v1") == [
        ("none", "2026-01-01")
    ]


def test_a_newer_schema_takes_the_same_rows(lab: Any) -> None:
    """JSON payloads, words of low cardinality, an enum for the level, addresses as IPv6."""
    lab.sink().close()
    lab.command("DROP TABLE {db}.events_v1 SYNC")
    lab.command("DROP TABLE {db}.logs_v1 SYNC")
    lab.command(
        "CREATE TABLE {db}.events_v1 (timestamp DateTime64(3), "
        "event_name LowCardinality(String), device_id UUID, session_id UUID, source_ip IPv6, "
        "properties JSON, _raw String CODEC(ZSTD(3))) ENGINE = MergeTree ORDER BY timestamp"
    )
    lab.command(
        "CREATE TABLE {db}.logs_v1 (timestamp DateTime64(3), "
        "level Enum8('EMERGENCY'=0, 'ERROR'=3, 'INFO'=6), source LowCardinality(String), "
        "service LowCardinality(String), session_id UUID, source_ip FixedString(16), "
        "pattern_id Nullable(UInt64), message String, _raw String) "
        "ENGINE = MergeTree ORDER BY timestamp"
    )
    sink = lab.sink(create_tables=False)
    sink.write(lab.batch([{"n": 7, "cart": {"total": 3}}]))
    sink.write(lab.logs(["oops"]))
    sink.flush()
    assert lab.query(
        "SELECT properties.n::UInt64, properties.cart.total::UInt64, toString(source_ip) "
        "FROM {db}.events_v1"
    ) == [(7, 3, "::ffff:127.0.0.1")]
    assert lab.query("SELECT level FROM {db}.logs_v1") == [("ERROR",)]


def test_times_that_nobody_meant_land_too(lab: Any) -> None:
    """The year 2105, and two hundred months in one batch: each row keeps its month."""
    sink = lab.sink()
    month_ms = 31 * 86_400_000
    times = [lab.start_ms + place * month_ms for place in range(200)]
    year_2105_ms = 4_275_000_000_000
    sink.write(lab.batch([{"n": n} for n in range(201)], times=[*times, year_2105_ms]))
    lab.flush(sink)
    assert lab.landed() == (201, 201)
    assert lab.query("SELECT uniqExact(toYYYYMM(timestamp)) FROM {db}.events_v1")[0][0] >= 200
    latest = "SELECT toYear(max(timestamp)) FROM {db}.events_v1"
    assert lab.query(latest) == [(2105,)]
    assert sink.counters()["inserts"] < 20


def test_rows_partitioned_by_day_land_too(lab: Any) -> None:
    """More partitions in a month than an insert may have, where the table is the user's own."""
    lab.sink().close()
    lab.command("DROP TABLE {db}.events_v1 SYNC")
    lab.command(
        "CREATE TABLE {db}.events_v1 (timestamp DateTime64(3), event_name String, "
        "device_id UUID, session_id UUID, properties String, _raw String, "
        "source_ip FixedString(16)) ENGINE = MergeTree PARTITION BY toStartOfHour(timestamp) "
        "ORDER BY timestamp SETTINGS non_replicated_deduplication_window = 1000"
    )
    sink = lab.sink(create_tables=False)
    times = [lab.start_ms + place * 3_600_000 for place in range(300)]
    sink.write(lab.batch([{"n": n} for n in range(300)], times=times))
    assert lab.flush(sink) == []
    assert lab.landed() == (300, 300)


def test_given_up_after_some_attempts_is_a_dead_letter(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `retry_attempts` the sink goes on without those rows, and keeps them."""
    monkeypatch.setattr(clickhouse_inserts, "CONFIGURE_WAIT_MS", 50)
    lane = lab.lane(lab.unopened(retry_attempts=3))
    lab.command("RENAME TABLE {db}.events_v1 TO {db}.elsewhere")
    assert lane.deliver(lab.numbered(0, 10)) == [DURABLE]
    lab.command("RENAME TABLE {db}.elsewhere TO {db}.events_v1")
    assert lane.deliver(lab.numbered(10, 10)) == [DURABLE]
    assert lab.landed() == (10, 10)
    batches, reasons = lab.buried()
    assert sum(batch.header.message_count for batch in batches) == 10
    assert "given up after 3 attempts: Code: 60" in reasons[0]["reason"]
    assert lane.lane.snapshot().dead_letters == 10


def test_an_error_of_an_unknown_number_does_not_block_for_ever(lab: Any) -> None:
    """After some attempts it is taken for one of the rows, and the rows are searched."""
    proxy = lab.proxy()
    proxy.on_request = lambda head: (
        answer(9999, "Code: 9999. DB::Exception: news") if is_insert(head) else "pass"
    )
    lane = lab.lane(lab.unopened(url=proxy.url, compression="none"))
    assert lane.deliver(lab.numbered(0, 2)) == [DURABLE]
    _, reasons = lab.buried()
    assert {line["reason"] for line in reasons} == {"Code: 9999. DB::Exception: news"}
    proxy.on_request = lambda head: "pass"
    assert lane.deliver(lab.numbered(2, 2)) == [DURABLE]
    assert lab.landed() == (2, 2)


def test_rows_wait_for_a_server_that_is_not_there(lab: Any) -> None:
    """Nobody is told that they are durable, and the reason is told."""
    proxy = lab.proxy()
    lane = lab.lane(lab.unopened(url=proxy.url))
    proxy.on_request = lambda head: "reset"
    batch = lab.numbered(0, 10)
    for _ in range(4):
        assert lane.offer(batch) == [PENDING]
        lab.pause(0.1)
    assert "no answer" in lane.lane.last_error()
    proxy.on_request = lambda head: "pass"
    assert lane.deliver(batch) == [DURABLE]
    assert lab.landed() == (10, 10)
