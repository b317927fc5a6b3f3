"""Counting Parquet files by their footers, and the journal beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.files.landed import Landed, wanted_of
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
from cdp_ray_sinks.testing import RECEIVED_AT_MS, FakeClock, numbered_events
from cdp_ray_sinks.writers.parquet_count import count_tables

HOUR_MS = 3_600_000


def events_by_hour(landed: Landed) -> dict[int, int]:
    counts: dict[int, int] = {}
    for origin, count in landed.counts.items():
        hour = origin.hour - RECEIVED_AT_MS // HOUR_MS
        counts[hour] = counts.get(hour, 0) + count.events
    return counts


def written(tmp_path: Path, journal: str = "commit", rotation: str = "hourly") -> ParquetSink:
    """30 batches of two events, ten an hour, durable."""
    config = ParquetConfig(path=tmp_path, journal=journal, rotation=rotation)
    sink = config.build(SinkContext("tables", FakeClock()))
    sink.open()
    for number in range(30):
        at_ms = RECEIVED_AT_MS + number // 10 * HOUR_MS
        sink.write(numbered_events(number, 1 + number % 2, messages=2, received_at_ms=at_ms))
    sink.flush()
    return sink


@pytest.mark.parametrize("journal", ["commit", "off"])
@pytest.mark.parametrize("rotation", ["hourly", "daily"])
def test_files_and_journal_are_counted_once(journal: str, rotation: str, tmp_path: Path) -> None:
    """Before they are published and after, with the hours that a daily file spans."""
    ids = [numbered_events(number).header.batch_id for number in (3, 29, 100)]
    sink = written(tmp_path, journal, rotation)
    for _ in range(2):
        landed = count_tables(tmp_path, wanted_of(ids))
        assert events_by_hour(landed) == {0: 20, 1: 20, 2: 20}
        assert landed.found == set(ids[:2])
        assert landed.problems == []
        sink.close()


def test_a_segment_that_is_published_and_still_there_counts_once(tmp_path: Path) -> None:
    """As a process leaves it that is killed between the two steps."""
    sink = written(tmp_path)
    (tmp_path / "kept").mkdir()
    shutil.copytree(tmp_path / ".journal", tmp_path / "kept" / ".journal")
    sink.close()
    shutil.rmtree(tmp_path / ".journal")
    (tmp_path / "kept" / ".journal").rename(tmp_path / ".journal")
    assert events_by_hour(count_tables(tmp_path, {})) == {0: 20, 1: 20, 2: 20}


def test_what_is_gone_is_not_counted_and_what_is_strange_is_named(tmp_path: Path) -> None:
    """A file of another program, a damaged one, a missing one."""
    written(tmp_path).close()
    files = sorted(tmp_path.glob("1/*/*/events.parquet"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    pq.write_table(pa.table({"a": [1]}), files[1].with_name("other.parquet"))
    landed = count_tables(tmp_path, {})
    assert events_by_hour(landed) == {0: 10, 1: 10, 2: 20}
    assert len(landed.problems) == 2
