"""The engine inside the process: what the server does, it does too."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig, ClickHouseSink
from cdp_ray_sinks.sinks.clickhouse_check import check_tables
from cdp_ray_sinks.testing import FakeClock, numbered_events, numbers_in_clickhouse

WRITER = Path(__file__).with_name("embedded_writer.py")


def sink_in(folder: Path, **options: Any) -> ClickHouseSink:
    """An open sink; all tests of one process have it to themselves, one after the other."""
    config = ClickHouseConfig(url=f"chdb://{folder}/data", create_tables=True, **options)
    sink = config.build(SinkContext("rows", FakeClock(), folder / "state"))
    sink.open()
    return sink


def test_rows_are_there_once_the_sink_is_closed(tmp_path: Path) -> None:
    """And the sink that comes after it goes on."""
    for life in range(2):
        sink = sink_in(tmp_path)
        assert sink.notes == []
        sink.write(numbered_events(life, messages=10))
        sink.close()
    assert numbers_in_clickhouse(tmp_path / "data") == [0] * 10 + [1] * 10


def test_a_refused_row_is_found(tmp_path: Path) -> None:
    """Errors of the engine have their numbers here too."""
    sink = sink_in(tmp_path)
    sink._client.command(
        "ALTER TABLE cdp.events_v1 ADD CONSTRAINT some CHECK NOT endsWith(toString(device_id), '3')"
    )
    for number in range(10):
        sink.write(numbered_events(number))
    with pytest.raises(Exception, match="1 entries refused: Code: 469"):
        sink.flush()
    sink.refusals_kept()
    sink.flush()
    sink.close()
    assert numbers_in_clickhouse(tmp_path / "data") == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_table_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    """As with a server."""
    sink = sink_in(tmp_path)
    sink._client.command("RENAME TABLE cdp.events_v1 TO cdp.elsewhere")
    sink.write(numbered_events(1))
    with pytest.raises(TransientError, match="events_v1: Code: 60"):
        sink.flush()
    sink._client.command("RENAME TABLE cdp.elsewhere TO cdp.events_v1")
    sink.flush()
    sink.close()
    assert numbers_in_clickhouse(tmp_path / "data") == [1]


def rows_in(sink: ClickHouseSink, sql: str) -> list[tuple[Any, ...]]:
    """What the engine answers."""
    return [tuple(row) for row in sink._client.query(sql)]


def flushed(sink: ClickHouseSink, *batches: Any) -> list[str]:
    """Write and flush until it succeeds; what it was told meanwhile."""
    for batch in batches:
        sink.write(batch)
    told: list[str] = []
    while len(told) < 20:
        try:
            sink.flush()
        except TransientError as error:
            told.append(str(error))
        else:
            return told
    raise AssertionError(told)


def test_columns_of_ones_own_and_columns_that_are_gone(tmp_path: Path) -> None:
    """The former take their defaults; the latter are named, at work and at the start."""
    sink = sink_in(tmp_path)
    alter = "ALTER TABLE cdp.events_v1 "
    sink._client.command(alter + "ADD COLUMN team String DEFAULT 'none' FIRST")
    assert flushed(sink, numbered_events(1)) == []
    assert rows_in(sink, "SELECT team FROM cdp.events_v1") == [("none",)]
    sink._client.command(alter + "DROP COLUMN event_name")
    sink.write(numbered_events(2))
    with pytest.raises(TransientError, match=r"events_v1: Code: 16.*event_name"):
        sink.flush()
    with pytest.raises(ConfigError, match="events_v1 has no column event_name"):
        check_tables(sink._client)
    sink._client.command(alter + "ADD COLUMN event_name String")
    assert flushed(sink) == []
    sink.close()
    assert numbers_in_clickhouse(tmp_path / "data") == [1, 2]


def test_times_that_nobody_meant(tmp_path: Path, lab: Any) -> None:
    """The year 2105, and two hundred months in one batch."""
    sink = sink_in(tmp_path)
    months = [1_767_225_600_000 + place * 31 * 86_400_000 for place in range(200)]
    times = [*months, 4_275_000_000_000]
    batch = lab.batch([{"n": n} for n in range(201)], times=times)
    assert flushed(sink, batch) == []
    assert rows_in(sink, "SELECT count(), toYear(max(timestamp)) FROM cdp.events_v1") == [
        (201, 2105)
    ]
    sink.close()


def test_an_engine_that_wants_time_or_has_no_memory(tmp_path: Path, lab: Any) -> None:
    """Too many parts are waited for; what does not fit the memory goes in halves."""
    sink = sink_in(tmp_path, rows_per_insert=10, settings={"max_memory_usage": 8_000_000})
    sink._client.command("SYSTEM STOP MERGES cdp.events_v1")
    limit = "ALTER TABLE cdp.events_v1 MODIFY SETTING parts_to_throw_insert = "
    sink._client.command(limit + "3, parts_to_delay_insert = 1000")
    for start in range(0, 100, 10):
        sink.write(lab.numbered(start, 10))
    with pytest.raises(TransientError, match=r"events_v1: Code: 252.*Too many parts"):
        sink.flush()
    sink._client.command(limit + "3000")
    assert flushed(sink) == []
    payload = b'{"n":%d,"filler":"' + b"x" * 400 + b'"}'
    sink._blocks._rows_per_insert = 100_000
    told = flushed(sink, lab.batch([payload % n for n in range(100, 20_100)]))
    assert "241" in told[0]
    number = "simpleJSONExtractUInt(properties, 'n')"
    sql = f"SELECT count(), uniqExact({number}) FROM cdp.events_v1"
    assert rows_in(sink, sql) == [(20_100, 20_100)]
    sink.close()


def test_without_the_engine_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "chdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'cdp-ray-sinks\[chdb\]'"):
        sink_in(tmp_path)


def test_kills_of_the_process_that_has_the_engine_in_it(tmp_path: Path) -> None:
    """SIGKILL at random instants, the engine's own work with it; each row is there once."""
    chance = random.Random(3)
    batches, kills = 60, 6
    command = [sys.executable, str(WRITER), str(tmp_path), str(batches)]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            if chance.random() < 0.7:
                assert writer.stdout.readline() == "open\n"
            time.sleep(chance.uniform(0, 0.6))
            writer.kill()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = batches * 400
    assert done.stdout.split() == ["open", "durable", str(rows), str(batches)]
