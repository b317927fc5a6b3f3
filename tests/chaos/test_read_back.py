"""What a chaos run reads back: it must see what is lost, twice, strange, damaged or disordered."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.chaos.read_back import Expected, read_archive, read_rows, read_tables
from cdp_ray_sinks.chaos.report import Destination
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.testing import TEST_PRODUCER, BatchKeeper

EVENTS = 3000
ALL = Expected(EVENTS, [(0, EVENTS)])


def made(start: int = 0) -> list[Batch]:
    """Thirty batches of events and log entries of three workspaces, in the order of their ids."""
    config = SyntheticConfig(
        events=EVENTS, workspaces=3, batch_events=200, log_share=0.2, start_number=start
    )
    keeper = BatchKeeper()
    config.build(SourceContext("made")).run(keeper, threading.Event())
    return [
        Batch(
            batch.header._replace(producer=TEST_PRODUCER, epoch=1, sequence=place),
            batch.records, batch.offsets,
        )
        for place, batch in enumerate(keeper.batches)
    ]  # fmt: skip


def write(kind: str, base: Path, batches: Sequence[Batch]) -> None:
    """The batches, durable in a sink of that type."""
    config = load_config(kind, {"type": kind, "path": base})
    sink = config.build(SinkContext("kept", state_dir=base.with_name("state")))
    sink.open()
    for batch in batches:
        sink.write(batch)
        sink.flush()
    sink.close()


@pytest.mark.parametrize(
    ("kind", "read", "suffix"),
    [("disk_binary", read_archive, ".bin"), ("parquet", read_tables, ".parquet")],
)
def test_files_are_compared_by_number(kind: str, read: object, suffix: str, tmp_path: Path) -> None:
    """Whole; with more than was given out; with a file taken away."""
    write(kind, tmp_path / "kept", made())
    assert callable(read)
    whole: Destination = read("kept", tmp_path / "kept", ALL)
    assert whole.ok, whole
    assert (whole.expected, whole.found) == (EVENTS, EVENTS)
    fewer: Destination = read("kept", tmp_path / "kept", Expected(EVENTS - 10, []))
    assert (fewer.strange, fewer.lost) == (10, 0)
    shutil.rmtree(tmp_path / "kept" / "2")
    less: Destination = read("kept", tmp_path / "kept", ALL)
    assert less.lost == EVENTS // 3
    assert less.lowest_lost == [200, 201, 202, 203, 204]
    assert not less.ok


def test_twice_and_out_of_order_are_told_in_an_archive(tmp_path: Path) -> None:
    """The same events under other ids, and batches in the wrong order."""
    batches = made()
    again = batches[3].header._replace(sequence=100)
    same = Batch(again, batches[3].records, batches[3].offsets)
    write("disk_binary", tmp_path / "twice", [*batches, same])
    twice = read_archive("kept", tmp_path / "twice", ALL)
    assert (twice.twice, twice.lost, twice.disordered) == (
        batches[3].header.event_count, 0, 0,
    )  # fmt: skip
    write("disk_binary", tmp_path / "turned", batches[::-1])
    turned = read_archive("kept", tmp_path / "turned", ALL)
    assert (turned.twice, turned.lost) == (0, 0)
    assert turned.disordered == len(batches) - 6
    assert not turned.ok


def test_damage_is_told(tmp_path: Path) -> None:
    """One byte of an archive."""
    write("disk_binary", tmp_path / "kept", made())
    path = next((tmp_path / "kept").rglob("*.bin"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert read_archive("kept", tmp_path / "kept", ALL).damage


def test_rows_are_compared_by_number(clickhouse: ClickHouseServer, tmp_path: Path) -> None:
    """In a server: whole, then with rows deleted, then with some inserted once more."""
    from cdp_ray_sinks.sinks.clickhouse_client import Address, ClickHouseClient

    options = {"type": "clickhouse", "url": clickhouse.url, "database": "chaos",
               "create_tables": True}  # fmt: skip
    sink = load_config("clickhouse", options).build(SinkContext("rows", state_dir=tmp_path))
    sink.open()
    client = ClickHouseClient(Address(clickhouse.url, "chaos"), {})
    client.open()
    try:
        for batch in made():
            sink.write(batch)
        sink.flush()
        assert read_rows("rows", clickhouse.url, ALL).ok
        client.command("INSERT INTO chaos.logs_v1 SELECT * FROM chaos.logs_v1 LIMIT 7")
        number = "simpleJSONExtractUInt(properties, 'n')"
        client.command(f"DELETE FROM chaos.events_v1 WHERE {number} BETWEEN 500 AND 519")
        found = read_rows("rows", clickhouse.url, ALL)
        assert (found.lost, found.twice, found.strange) == (20, 7, 0)
        assert found.lowest_lost == [500, 501, 502, 503, 504]
    finally:
        sink.close()
        client.command("DROP DATABASE chaos")
        client.close()
