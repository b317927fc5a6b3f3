"""The parquet sink as its lane sees it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import ConfigError, PartialWriteError, TerminalError
from cdp_ray_sinks.sinks.base import KeepsLedger, SinkContext
from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import (
    RECEIVED_AT_MS,
    FakeClock,
    numbered_events,
    numbers_in_tables,
    numbers_in_warehouse,
)
from cdp_ray_sinks.writers.parquet import read_footer

HOUR_MS = 3_600_000


def sink_at(path: Path, clock: FakeClock | None = None, **options: Any) -> ParquetSink:
    """An open sink."""
    sink = ParquetConfig(path=path, **options).build(SinkContext("tables", clock or FakeClock()))
    sink.open()
    return sink


def write(sink: ParquetSink, batches: Sequence[Batch]) -> None:
    """Have the batches durable."""
    for batch in batches:
        sink.write(batch)
    sink.flush()


def kill(sink: ParquetSink) -> None:
    """Let go of everything as a kill would: nothing is sealed, nothing published."""
    sink._publisher.close()
    for chain in sink._chains.chains.values():
        chain.segments.abandon()
        chain._let_go()


def tables(path: Path) -> list[str]:
    """The published files, as a reader of the directory finds them."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*.parquet"))


def held_in_journal(path: Path) -> int:
    """Bytes of messages that are still in the journal."""
    return sum(found.stat().st_size for found in (path / ".journal").rglob("*.bin"))


def of_schema(batch: Batch, schema_type: int) -> Batch:
    return Batch(batch.header._replace(schema_type=schema_type), batch.records, batch.offsets)


def test_what_was_flushed_is_journalled_and_published_by_the_end(tmp_path: Path) -> None:
    """The answer comes from the journal, the file at the latest when the sink closes."""
    sink = sink_at(tmp_path)
    write(sink, [numbered_events(n, messages=10) for n in range(5)])
    assert tables(tmp_path) == []
    assert held_in_journal(tmp_path) > 0
    sink.close()
    assert tables(tmp_path) == ["1/2026-01-01/00/events.parquet"]
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(5)] * 10)
    assert held_in_journal(tmp_path) == 0
    footer = read_footer(tmp_path / "1/2026-01-01/00/events.parquet")
    assert (footer.rows, footer.messages, footer.damaged_messages) == (50, 50, 0)


def test_each_kind_has_its_file(maker: Any, tmp_path: Path) -> None:
    """By workspace, date, hour and schema; timestamps, ids and payloads as they are meant."""
    sink = sink_at(tmp_path)
    logs = of_schema(maker.batch([maker.message(3, schema_type=2)], sequence=1, event_count=3), 2)
    later = numbered_events(2, 7, received_at_ms=RECEIVED_AT_MS + HOUR_MS)
    write(sink, [numbered_events(0), logs, later])
    sink.close()
    assert tables(tmp_path) == [
        "1/2026-01-01/00/events.parquet",
        "42/2026-01-01/00/logs.parquet",
        "7/2026-01-01/01/events.parquet",
    ]
    (row,) = pq.read_table(
        tmp_path / "7/2026-01-01/01/events.parquet", partitioning=None
    ).to_pylist()
    assert row["timestamp"].isoformat() == "2026-01-01T01:00:00+00:00"
    assert (str(row["device_id"]), row["payload"]) == (
        f"{2:032x}"[:8] + "-0000-0000-0000-000000000002",
        '{"n":2}',
    )
    assert (row["workspace_id"], row["event_type"]) == (7, "track")


def test_daily_files_have_no_hour(tmp_path: Path) -> None:
    """`rotation = "daily"`; all hours of a day in one file."""
    sink = sink_at(tmp_path, rotation="daily")
    late = numbered_events(1, received_at_ms=RECEIVED_AT_MS + 5 * HOUR_MS)
    write(sink, [numbered_events(0), late])
    sink.close()
    assert tables(tmp_path) == ["1/2026-01-01/events.parquet"]
    assert numbers_in_tables(tmp_path) == [0, 1]


@pytest.mark.parametrize(
    ("compression", "level", "stored"),
    [("snappy", None, "SNAPPY"), ("zstd", 5, "ZSTD"), ("lz4", None, "LZ4"),
     ("none", None, "UNCOMPRESSED")],
)  # fmt: skip
def test_files_are_compressed_as_asked(
    tmp_path: Path, compression: str, level: int | None, stored: str
) -> None:
    """Each codec, with a level where it has one."""
    sink = sink_at(tmp_path, compression=compression, compression_level=level)
    write(sink, [numbered_events(n) for n in range(20)])
    sink.close()
    (path,) = tmp_path.rglob("*.parquet")
    column = pq.read_metadata(path).row_group(0).column(0)
    assert column.compression == stored
    assert sorted(numbers_in_tables(tmp_path)) == list(range(20))


def test_row_groups_have_as_many_rows_as_asked(tmp_path: Path) -> None:
    """`buffer_rows`; batches are not cut for it."""
    sink = sink_at(tmp_path, buffer_rows=100)
    for n in range(10):
        write(sink, [numbered_events(n, messages=40)])
    sink.close()
    (path,) = tmp_path.rglob("*.parquet")
    found = pq.read_metadata(path)
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [80] * 5


def test_what_comes_after_a_file_goes_into_the_next(tmp_path: Path) -> None:
    """A published file is never written again."""
    clock = FakeClock()
    sink = sink_at(tmp_path, clock, lateness_s=60)
    write(sink, [numbered_events(0)])
    clock.sleep_ms(HOUR_MS + 61_000)
    while not tables(tmp_path):
        sink.tick(clock.now_ms())
    first = (tmp_path / "1/2026-01-01/00/events.parquet").read_bytes()
    write(sink, [numbered_events(1)])
    sink.close()
    assert tables(tmp_path) == [
        "1/2026-01-01/00/events-1.parquet",
        "1/2026-01-01/00/events.parquet",
    ]
    assert numbers_in_tables(tmp_path) == [1, 0]
    assert (tmp_path / "1/2026-01-01/00/events.parquet").read_bytes() == first


def test_readers_of_the_directory_see_published_files_only(tmp_path: Path) -> None:
    """Journal and unfinished files are neither `*.parquet` nor visible."""
    sink = sink_at(tmp_path, buffer_rows=10)
    write(sink, [numbered_events(0, messages=25)])
    while sink.counters()["backlog_bytes"]:
        pass
    assert list(tmp_path.rglob("*.inprogress"))
    assert list(tmp_path.rglob("*.parquet")) == []
    assert {path.name for path in tmp_path.iterdir()} == {".journal"}
    sink.close()
    assert pa.dataset.dataset(tmp_path, partitioning=None).count_rows() == 25
    assert list(tmp_path.rglob("*.inprogress")) == []


def test_a_batch_that_comes_again_is_not_there_twice(tmp_path: Path) -> None:
    """Also when its file was published and its journal removed, in another life of the sink."""
    batch = numbered_events(0)
    h = batch.header
    sink = sink_at(tmp_path)
    assert isinstance(sink, KeepsLedger)
    write(sink, [batch])
    for _ in range(3):
        sink.close()
        assert held_in_journal(tmp_path) == 0
        sink = sink_at(tmp_path)
        assert sink.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum)
        assert not sink.ledger_for(2).has(h.producer, h.epoch, h.sequence, h.checksum)
    sink.close()


def test_the_next_sink_publishes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Without waiting for a batch of that workspace, and lets go of it again."""
    sink = sink_at(tmp_path)
    for workspace in range(1, 41):
        write(sink, [numbered_events(workspace, workspace)])
    kill(sink)
    clock = FakeClock()
    sink = sink_at(tmp_path, clock)
    while len(tables(tmp_path)) < 40 or sink._chains.chains:
        clock.sleep_ms(1_000)
        sink.tick(clock.now_ms())
    assert sorted(numbers_in_tables(tmp_path)) == list(range(1, 41))
    assert held_in_journal(tmp_path) == 0
    other = sink_at(tmp_path)
    write(other, [numbered_events(100, 3)])
    other.close()
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == [*range(1, 41), 100]


def test_a_folder_of_the_journal_that_is_no_workspace_is_passed_over(tmp_path: Path) -> None:
    """Whoever made it."""
    sink = sink_at(tmp_path)
    write(sink, [numbered_events(0)])
    kill(sink)
    for name in ("0", "99999999999", "other"):
        shutil.copytree(tmp_path / ".journal/1", tmp_path / ".journal" / name)
    sink = sink_at(tmp_path)
    sink.tick(RECEIVED_AT_MS)
    sink.close()
    assert numbers_in_tables(tmp_path) == [0]


def test_messages_that_do_not_decode_are_refused_and_the_others_land(
    maker: Any, tmp_path: Path
) -> None:
    """The error names them, so that the lane keeps them; coming again doubles nothing."""
    good = maker.message(filler=b'{"n":7}')
    batch = maker.batch([good, b"not a message at all", good], workspace_id=1)
    sink = sink_at(tmp_path)
    for _ in range(3):
        with pytest.raises(PartialWriteError) as caught:
            sink.write(batch)
        assert caught.value.failed_messages == (1,)
    sink.flush()
    with pytest.raises(PartialWriteError):
        sink.write(batch)
    sink.flush()
    sink.close()
    assert numbers_in_tables(tmp_path) == [7, 7]


def test_a_batch_without_a_row_is_refused(maker: Any, tmp_path: Path) -> None:
    """No message decodes, no such table, or offsets that lie."""
    sink = sink_at(tmp_path)
    nothing = maker.batch([b"not a message", b"nor is this"])
    unknown = of_schema(maker.batch([maker.message()]), 0)
    wrong = numbered_events(0)
    wrong = Batch(wrong.header, wrong.records, wrong.offsets[:-1])
    for batch in (nothing, unknown, wrong):
        with pytest.raises(TerminalError, match="batch"):
            sink.write(batch)
    sink.flush()
    sink.close()
    assert tables(tmp_path) == []


def test_small_segments_make_many_files_and_lose_nothing(tmp_path: Path) -> None:
    """A segment ends at `segment_bytes_max`; the numbers are there at every moment."""
    sink = sink_at(tmp_path, segment_bytes_max=20_000, buffer_rows=30)
    for n in range(30):
        write(sink, [numbered_events(n, messages=20)])
        sink.tick(RECEIVED_AT_MS)
        if n % 7 == 0:
            assert sorted(set(numbers_in_warehouse(tmp_path))) == list(range(n + 1))
    sink.close()
    assert len(tables(tmp_path)) > 5
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(30)] * 20)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "path"),
        ({"path": "x", "compression": "gzip"}, "compression = 'gzip'"),
        ({"path": "x", "rotation": "weekly"}, "rotation = 'weekly'"),
        ({"path": "x", "buffer_rows": 0}, "buffer_rows = 0"),
        ({"path": "x", "lz4_preset": "fast"}, "lz4_preset"),
        ({"path": "x", "compression": "zstd", "compression_level": 99}, "level 99"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], part: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError) as caught:
        load_config("parquet", options)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"compression": "snappy", "compression_level": 3}, "snappy has no levels"),
        ({"compression": "zstd", "compression_level": 40}, r"not in 1\.\.22"),
        ({"compression": "gzip"}, "compression"),
    ],
)
def test_settings_that_can_t_be_are_refused(options: Any, text: str, tmp_path: Path) -> None:
    """When the configuration is read, not when the first batch comes."""
    with pytest.raises(ValueError, match=text):
        ParquetConfig(path=tmp_path, **options)
    config = ParquetConfig(path=tmp_path, compression="zstd", compression_level=3)
    assert config.settings().level == 3
