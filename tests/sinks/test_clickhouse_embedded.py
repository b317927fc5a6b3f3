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
