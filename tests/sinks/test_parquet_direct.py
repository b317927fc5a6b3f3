"""The parquet sink without a journal: what is acknowledged is published."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.errors import (
    BatchConflictError,
    FencedError,
    PartialFlushError,
    PartialWriteError,
    TransientError,
)
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.parquet import BUSY_WAIT_MS, ParquetConfig, ParquetSink
from cdp_ray_sinks.testing import FakeClock, numbered_events, numbers_in_tables


def sink_at(path: Path, fs: Any = None, **options: Any) -> ParquetSink:
    """An open sink."""
    config = ParquetConfig(path=path, journal="off", **options)
    sink = ParquetSink(config, SinkContext("tables", FakeClock()), fs)
    sink.open()
    return sink


def tables(path: Path) -> list[str]:
    """The published files."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*.parquet"))


def test_a_flush_publishes_a_file_of_what_came_since_the_last(tmp_path: Path) -> None:
    """Nothing is journalled; each flush has its own name."""
    sink = sink_at(tmp_path, buffer_rows=10)
    for number in range(3):
        sink.write(numbered_events(number, messages=15))
        sink.flush()
    assert tables(tmp_path) == [
        f"1/2026-01-01/00/{name}.parquet" for name in ("events-1", "events-2", "events")
    ]
    assert sorted(numbers_in_tables(tmp_path)) == sorted([0, 1, 2] * 15)
    assert list((tmp_path / ".journal").rglob("*.bin*")) == []
    sink.flush()
    sink.close()
    assert len(tables(tmp_path)) == 3


def test_it_waits_for_more_until_it_is_old_enough(tmp_path: Path) -> None:
    """The lane is told how long."""
    clock = FakeClock()
    config = ParquetConfig(path=tmp_path, journal="off", publish_age_s_max=5)
    sink = config.build(SinkContext("tables", clock))
    sink.open()
    assert sink.due_in_ms(clock.now_ms()) == 0
    sink.write(numbered_events(0))
    assert sink.due_in_ms(clock.now_ms()) == 5_000
    clock.sleep_ms(5_000)
    assert sink.due_in_ms(clock.now_ms()) == BUSY_WAIT_MS, "it is being published"
    assert committed(sink, 1) == [numbered_events(0).header.batch_id]
    assert sink.due_in_ms(clock.now_ms()) == 0, "nothing is held"
    sink.write(numbered_events(1))
    assert sink.due_in_ms(clock.now_ms()) == 5_000
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == [0, 1]


def committed(sink: ParquetSink, count: int) -> list[BatchId]:
    """So many batches, as they are told to be durable without a flush."""
    found: list[BatchId] = []
    deadline_s = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline_s:
        found += sink.committed()
        time.sleep(0.001)
    return found


def test_batches_come_while_a_file_is_being_published(tmp_path: Path) -> None:
    """They go into the next one, and all are told of once, in order."""
    sink = sink_at(tmp_path, publish_age_s_max=0, buffer_rows=4)
    told: list[BatchId] = []
    for number in range(40):
        sink.write(numbered_events(number, messages=3))
        sink.due_in_ms(0)
        told += sink.committed()
    while sink.due_in_ms(0):
        told += committed(sink, 1)
    ids = [numbered_events(number, messages=3).header.batch_id for number in range(40)]
    assert told == ids
    assert len(tables(tmp_path)) < 40, "files are not made smaller than they need be"
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(40)] * 3)


def test_what_fails_in_the_background_waits_for_a_flush(tmp_path: Path, failing_disk: Any) -> None:
    """Which makes the file again and says what is still owed; nothing is told twice."""
    sink = sink_at(tmp_path, failing_disk, publish_age_s_max=0)
    failing_disk.fail_once("sync", ".inprogress", errno.EIO)
    sink.write(numbered_events(0))
    assert sink.due_in_ms(0) == BUSY_WAIT_MS
    while sink.due_in_ms(0):
        assert sink.committed() == []
        time.sleep(0.001)
    assert tables(tmp_path) == []
    failing_disk.fail_once("sync", ".inprogress", errno.EIO)
    with pytest.raises(PartialFlushError, match="EIO"):
        sink.flush()
    sink.write(numbered_events(1))
    sink.flush()
    assert sink.committed() == []
    assert sorted(numbers_in_tables(tmp_path)) == [0, 1]
    sink.close()


def test_what_was_published_just_before_a_kill_is_known_again(tmp_path: Path) -> None:
    """Its footer has the ids, and the batch falls into the same partition again."""
    batch = numbered_events(0)
    sink = sink_at(tmp_path)
    sink.write(batch)
    sink.flush()
    for chain in sink._chains.chains.values():
        chain._let_go()
    for _ in range(2):
        sink = sink_at(tmp_path)
        sink.write(batch)
        assert sink.due_in_ms(0) == 0, "nobody need wait for what is there"
        sink.write(numbered_events(1))
        sink.flush()
        other = Batch(batch.header._replace(checksum=1), batch.records, batch.offsets)
        with pytest.raises(BatchConflictError):
            sink.write(other)
        sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == [0, 1]


@pytest.mark.parametrize("operation", ["write", "sync", "move", "sync_directory"])
def test_a_workspace_that_cannot_be_published_is_kept_and_named(
    operation: str, tmp_path: Path, failing_disk: Any
) -> None:
    """The others are durable; the next flush publishes what is owed, once."""
    sink = sink_at(tmp_path, failing_disk, buffer_rows=4)
    batches = [numbered_events(n, 1 + n % 2, messages=3) for n in range(6)]
    for batch in batches:
        sink.write(batch)
    suffix = {"sync_directory": "00", "move": ".parquet"}.get(operation, ".inprogress")
    failing_disk.fail_once(operation, suffix, errno.ENOSPC)
    with pytest.raises(PartialFlushError, match="ENOSPC") as caught:
        sink.flush()
    assert [workspace for workspace, _ in caught.value.failures] in ([1], [2])
    sink.flush()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(6)] * 3)
    sink.write(numbered_events(6, messages=3))
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(7)] * 3)
    assert list(tmp_path.rglob("*.inprogress")) == []


def test_messages_that_do_not_decode_are_refused_and_the_others_land(
    maker: Any, tmp_path: Path
) -> None:
    """As with a journal."""
    good = maker.message(filler=b'{"n":7}')
    batch = maker.batch([good, b"not a message at all"], workspace_id=1)
    sink = sink_at(tmp_path)
    for _ in range(2):
        with pytest.raises(PartialWriteError):
            sink.write(batch)
    sink.flush()
    with pytest.raises(PartialWriteError):
        sink.write(batch)
    sink.close()
    assert numbers_in_tables(tmp_path) == [7]


def test_a_writer_with_a_successor_publishes_nothing(tmp_path: Path) -> None:
    """On a shared file system: what it had made is gone, and the workspace lost to it."""
    options = {"shared_file_system": True, "lease_s": 1}
    first = sink_at(tmp_path, **options)
    first.write(numbered_events(0))
    second = sink_at(tmp_path, **options)
    second.write(numbered_events(0))
    with pytest.raises(FencedError):
        first.flush()
    with pytest.raises(FencedError):
        first.write(numbered_events(1))
    second.flush()
    first.close()
    second.close()
    assert numbers_in_tables(tmp_path) == [0]


def test_a_journal_that_was_left_is_published_all_the_same(tmp_path: Path) -> None:
    """Turning the journal off forgets neither its batches nor their ids."""
    journalling = ParquetConfig(path=tmp_path).build(SinkContext("tables", FakeClock()))
    journalling.open()
    journalling.write(numbered_events(0))
    journalling.flush()
    journalling._publisher.close()
    for chain in journalling._chains.chains.values():
        chain.segments.abandon()
        chain._let_go()
    sink = sink_at(tmp_path)
    h = numbered_events(0).header
    assert sink.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum)
    sink.write(numbered_events(0))
    sink.write(numbered_events(1))
    sink.flush()
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == [0, 1]


def test_a_disk_that_cannot_be_read_at_the_start_is_tried_again(tmp_path: Path) -> None:
    """Without knowing what is published nothing is published."""
    sink = sink_at(tmp_path)
    sink.write(numbered_events(0))
    sink.close()
    folder = tmp_path / "1/2026-01-01/00"
    (folder / "events-1.parquet").symlink_to(folder / "events-1.parquet")
    sink = sink_at(tmp_path)
    with pytest.raises(TransientError, match="look through"):
        sink.write(numbered_events(0))
    (folder / "events-1.parquet").unlink()
    sink.write(numbered_events(0))
    sink.close()
    assert numbers_in_tables(tmp_path) == [0]
