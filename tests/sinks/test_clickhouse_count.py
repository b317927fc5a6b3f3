"""What an audit is told of ClickHouse: batches by workspace and hour, the rows of its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.landed import Count, Landed, Origin, TableCount, wanted_of


def counted(lab: Any, wanted: Any = None, **options: Any) -> Landed:
    landed = lab.config(**options).count_landed(wanted or {}, lab.folder / "state" / "lab")
    assert landed is not None
    return landed


def table(landed: Landed, name: str) -> TableCount:
    (found,) = [each for each in landed.tables if each.name == name]
    return found


def landed_batches(lab: Any) -> None:
    """2,000 events, 3 log entries, one user."""
    sink = lab.sink()
    for number in range(4):
        sink.write(lab.numbered(number * 500, 500))
    sink.write(lab.logs(["one", "two", "three"]))
    sink.write(lab.batch([{"email": "a@b.c"}], types=2))
    lab.flush(sink)
    sink.close()


def test_rows_that_are_gone_are_missed_and_rows_of_others_are_too_many(lab: Any) -> None:
    """Per table; tables that merge their rows are left out, and it is said why."""
    landed_batches(lab)
    landed = counted(lab)
    assert landed.unread is None
    assert landed.problems == []
    assert sum(count.events for count in landed.counts.values()) == 2004
    assert sum(count.batches for count in landed.counts.values()) == 6
    events = table(landed, "events_v1")
    assert (events.low, events.high, events.found) == (2000, 2000, 2000)
    assert (table(landed, "logs_v1").found, table(landed, "logs_v1").low) == (3, 3)
    assert table(landed, "users_v1").found is None
    assert "ReplacingMergeTree" in table(landed, "users_v1").note
    lab.command(
        "ALTER TABLE {db}.events_v1 DELETE WHERE rowNumberInAllBlocks() < 123 "
        "SETTINGS mutations_sync = 2"
    )
    events = table(counted(lab), "events_v1")
    gone = 2000 - lab.query("SELECT count() FROM {db}.events_v1")[0][0]
    assert gone >= 123
    assert (events.missing, events.too_many) == (gone, 0)
    lab.command("INSERT INTO {db}.logs_v1 SELECT * FROM {db}.logs_v1")
    assert table(counted(lab), "logs_v1").too_many == 3
    shared = table(counted(lab, tables_are_shared=True), "logs_v1")
    assert (shared.too_many, shared.missing) == (0, 0)


def test_rows_that_were_there_before_are_not_counted_against_it(lab: Any) -> None:
    """Of another sink, whose state is elsewhere; rows with a time to live may go."""
    landed_batches(lab)
    sink = lab.sink("other")
    sink.write(lab.numbered(2000, 10))
    lab.flush(sink)
    sink.close()
    found = lab.config().count_landed({}, lab.folder / "other" / "lab")
    assert table(found, "events_v1") == TableCount("events_v1", 2010, 2010, 2010)
    lab.command("ALTER TABLE {db}.events_v1 MODIFY TTL toDateTime(timestamp) + INTERVAL 10 DAY")
    lab.command("ALTER TABLE {db}.events_v1 MATERIALIZE TTL SETTINGS mutations_sync = 2")
    assert lab.query("SELECT count() FROM {db}.events_v1")[0][0] == 0
    events = table(lab.config().count_landed({}, lab.folder / "other" / "lab"), "events_v1")
    assert events.missing == 0
    assert "time to live" in events.note


def test_the_rows_of_several_lanes_are_counted_together(lab: Any) -> None:
    """One that opens later finds rows of the first there; a lane that never opened says nothing."""
    lab.command("CREATE DATABASE IF NOT EXISTS {db}")
    stranger = lab.sink("elsewhere")
    stranger.write(lab.numbered(9000, 7))
    lab.flush(stranger)
    sinks = []
    for number, name in enumerate(["lab", "lab@1", "lab@some.node"]):
        sink = lab.sink(name=name)
        sink.write(lab.numbered(number * 100, 100))
        lab.flush(sink)
        sinks.append(sink)
    (lab.folder / "state" / "lab@9").mkdir()
    (lab.folder / "state" / "lab-other").mkdir()
    assert table(counted(lab), "events_v1") == TableCount("events_v1", 307, 307, 307)
    for sink in sinks:
        sink.close()
    (place,) = counted(lab).counts
    assert counted(lab).counts[place] == Count(3, 300, 300)
    away = BatchId(b"0123456789abcdef", 1, 1)
    batch = lab.numbered(300, 1)
    sink = lab.sink(name="lab@1")
    sink.write(batch)
    lab.flush(sink)
    found = counted(lab, wanted_of([batch.header.batch_id, away])).found
    assert found == {batch.header.batch_id}


def test_a_generation_under_way_may_be_there_or_not(lab: Any) -> None:
    """As a process leaves it that is killed after its inserts; the next one counts it once."""
    landed_batches(lab)
    proxy = lab.proxy()
    sink = lab.sink(url=proxy.url)
    proxy.on_request = lambda head: "lose" if b"INSERT" in head else "pass"
    sink.write(lab.numbered(2000, 100))
    with pytest.raises(TransientError):
        sink.flush()
    assert proxy.lost.is_set()
    events = table(counted(lab), "events_v1")
    assert (events.low, events.high, events.found) == (2000, 2100, 2100)
    assert (events.missing, events.too_many) == (0, 0)
    proxy.on_request = lambda head: "pass"
    lab.flush(sink)
    sink.close()
    assert table(counted(lab), "events_v1") == TableCount("events_v1", 2100, 2100, 2100)


def test_batches_are_found_by_their_ids_and_a_server_that_is_away_is_told(
    lab: Any, tmp_path: Path
) -> None:
    """What is known without it is told all the same."""
    sink = lab.sink()
    batch = lab.numbered(0, 5)
    sink.write(batch)
    lab.flush(sink)
    sink.close()
    strange = BatchId(b"0123456789abcdef", 1, 1)
    wanted = wanted_of([batch.header.batch_id, strange])
    assert counted(lab, wanted).found == {batch.header.batch_id}
    away = counted(lab, wanted, url="http://127.0.0.1:1")
    assert away.found == {batch.header.batch_id}
    assert away.unread is not None
    assert "127.0.0.1:1" in away.unread
    assert away.tables == []
    hour = batch.header.received_at_ms // 3_600_000
    assert away.counts == {Origin(b"", 0, batch.header.workspace_id, hour): Count(1, 5, 5)}
    nothing = lab.config().count_landed({}, tmp_path / "no_such_folder")
    assert nothing.counts == {}
    assert table(nothing, "events_v1").found is None


def test_what_the_ledger_has_counts_before_it_is_counted(lab: Any) -> None:
    """A look may come between the two, and a process may be killed there."""
    sink = lab.sink()
    sink.write(lab.numbered(0, 100))
    lab.flush(sink)
    file = lab.folder / "state" / "lab" / "landed"
    earlier = file.read_bytes()
    batch = lab.numbered(100, 50)
    sink.write(batch)
    lab.flush(sink)
    sink.close()
    file.write_bytes(earlier)
    landed = counted(lab, wanted_of([batch.header.batch_id]))
    assert landed.found == {batch.header.batch_id}
    assert sum(count.events for count in landed.counts.values()) == 150
    lab.sink().close()
    assert sum(count.events for count in counted(lab).counts.values()) == 150
