"""The parquet sink on disks that fail: it says so, tries again, and loses nothing."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import FencedError, PartialFlushError, TransientError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
from cdp_ray_sinks.testing import RECEIVED_AT_MS, numbered_events, numbers_in_tables
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse


class StoppedClock(SystemClock):
    """Real durations, but no hour is ever over."""

    def now_ms(self) -> int:
        return RECEIVED_AT_MS


def sink_at(path: Path, fs: Any = None, **options: Any) -> ParquetSink:
    """An open sink whose segments end after one batch or two."""
    options = {"segment_bytes_max": 4096, "buffer_rows": 8} | options
    sink = ParquetSink(
        ParquetConfig(path=path, **options), SinkContext("tables", StoppedClock()), fs
    )
    sink.open()
    return sink


def write(sink: ParquetSink, *numbers: int, workspace: int = 1) -> None:
    """Have a batch of ten rows for each number durable."""
    for number in numbers:
        sink.write(numbered_events(number, workspace, messages=10))
        sink.flush()


def tick_until(sink: ParquetSink, done: Callable[[list[str]], object]) -> list[str]:
    """Tick until something holds, for what the ticks raised among others; returns that."""
    said: list[str] = []
    until = time.monotonic() + 20
    while not done(said):
        assert time.monotonic() < until, said
        try:
            sink.tick(RECEIVED_AT_MS)
        except TransientError as error:
            said.append(str(error))
        time.sleep(0.01)
    return said


@pytest.mark.parametrize(
    ("operation", "name"),
    [("write", ".inprogress"), ("sync", ".inprogress"), ("move", ".parquet"),
     ("sync_directory", "00")],
)  # fmt: skip
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_publication_that_fails_is_told_and_tried_again(
    operation: str, name: str, number: int, tmp_path: Path, failing_disk: Any
) -> None:
    """Batches are acknowledged all the while; each is published once when the disk is well."""
    sink = sink_at(tmp_path, failing_disk)
    write(sink, 0, 1, 2)

    def fails(called: str, found: str) -> int:
        # Directories of the journal are synced by the chain, those of files by the publisher.
        is_meant = called != "sync_directory" or current_thread().name == "publisher"
        return number if called == operation and found.endswith(name) and is_meant else 0

    failing_disk.fails = fails
    write(sink, 3, 4, 5)
    said = tick_until(sink, lambda said: said and sink.counters()["publication_failures"] > 1)
    assert errno.errorcode[number] in said[0]
    assert f"can't publish {tmp_path}" in said[0]
    failing_disk.fails = lambda called, found: 0
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(6)] * 10)
    assert not any(path.stat().st_size for path in (tmp_path / ".journal").rglob("*.bin"))


def test_closing_on_a_disk_that_fails_keeps_the_journal(tmp_path: Path, failing_disk: Any) -> None:
    """It says so and ends; the next sink publishes."""
    # Nothing is full before the disk fails, or it would be published meanwhile.
    sink = sink_at(tmp_path, failing_disk, segment_bytes_max=1 << 20)
    write(sink, 0, 1, 2)
    failing_disk.fails = lambda called, found: errno.ENOSPC if found.endswith(".parquet") else 0
    with pytest.raises(TransientError, match="ENOSPC"):
        sink.close()
    with pytest.raises(TransientError, match="ENOSPC"):
        sink.close()
    assert numbers_in_tables(tmp_path) == []
    sink = sink_at(tmp_path)
    tick_until(sink, lambda _: len(numbers_in_tables(tmp_path)) == 30)
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([0, 1, 2] * 10)


def test_a_journal_that_fails_is_written_again(tmp_path: Path, failing_disk: Any) -> None:
    """Like any archive: the workspace is named, the next flush owes the same bytes."""
    sink = sink_at(tmp_path, failing_disk)
    places = (("write", ".bin"), ("append", ".idx"), ("sync", ".bin"))
    for number, (operation, name) in enumerate(places):
        failing_disk.fail_once(operation, name, errno.ENOSPC)
        sink.write(numbered_events(number, messages=2))
        with pytest.raises(PartialFlushError, match="ENOSPC"):
            sink.flush()
        sink.flush()
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == [0, 0, 1, 1, 2, 2]


def test_too_much_unpublished_journal_stops_the_writing_and_says_why(
    tmp_path: Path, failing_disk: Any
) -> None:
    """`journal_backlog_bytes_max`; what was accepted stays, and goes on when it can."""
    sink = sink_at(tmp_path, failing_disk, segment_bytes_max=1 << 20,
                   journal_backlog_bytes_max=1 << 20)  # fmt: skip
    failing_disk.fails = lambda called, found: (
        errno.EIO if called == "write" and found.endswith(".inprogress") else 0
    )
    sent = 0

    def send_more() -> None:
        nonlocal sent
        for _ in range(50):
            sink.write(numbered_events(sent, 1, 50_000, messages=10))
            sent += 1
            sink.flush()

    with pytest.raises(TransientError, match=r"wait to be published.*EIO"):
        send_more()
    assert sent < 10
    failing_disk.fails = lambda called, found: 0
    tick_until(sink, lambda _: sink.counters()["backlog_bytes"] < 1 << 20)
    sink.flush()
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(sent)] * 10)


def test_a_file_of_others_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """Whatever it is: the next free name is taken."""
    folder = tmp_path / "1/2026-01-01/00"
    sink = sink_at(tmp_path, segment_bytes_max=1 << 20)
    write(sink, 0)
    folder.mkdir(parents=True)
    (folder / "events.parquet").write_bytes(b"PAR1 something else PAR1")
    pq.write_table(pa.table({"a": [1]}), folder / "events-1.parquet")
    sink.close()
    assert (folder / "events.parquet").read_bytes() == b"PAR1 something else PAR1"
    (folder / "events.parquet").unlink()
    (folder / "events-1.parquet").unlink()
    assert numbers_in_tables(tmp_path) == [0] * 10
    assert [path.name for path in folder.iterdir()] == ["events-2.parquet"]


def test_a_damaged_batch_of_the_journal_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """They are published; the bytes are kept aside and the place is told."""
    sink = sink_at(tmp_path, segment_bytes_max=1 << 20, buffer_rows=1000)
    write(sink, 0, 1, 2)
    (path,) = (tmp_path / ".journal").rglob("*.bin")
    held = len(numbered_events(0, messages=10).records)
    with path.open("r+b") as file:
        file.seek(held + 50)
        file.write(b"\0\1\2\3")
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([0, 2] * 10)
    ((workspace, found),) = sink.recovery_reports().items()
    assert (workspace, found[0].offset) == (1, held)
    assert "checksum does not hold" in found[0].reason
    (kept,) = path.parent.glob("*.damaged")
    assert kept.stat().st_size == 3 * held


def test_a_journal_segment_without_its_index_is_told_and_left(tmp_path: Path) -> None:
    """Nobody knows which batches it holds; the others are published."""
    sink = sink_at(tmp_path, segment_bytes_max=1 << 20)
    write(sink, 0)
    (path,) = (tmp_path / ".journal").rglob("*.bin")
    path.with_name("events-7.bin").write_bytes(path.read_bytes())
    sink.close()
    sink = sink_at(tmp_path)
    write(sink, 1)
    ((_, found),) = sink.recovery_reports().items()
    assert (Path(found[0].path).name, found[0].reason[:12]) == ("events-7.bin", "has no index")
    sink.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([0, 1] * 10)


def test_a_writer_with_a_successor_publishes_nothing_more(tmp_path: Path) -> None:
    """On a shared file system: the successor publishes what was left, once."""
    options = {"shared_file_system": True, "lease_s": 1}
    first = sink_at(tmp_path, segment_bytes_max=1 << 20, **options)
    write(first, 0, 1)
    second = sink_at(tmp_path, segment_bytes_max=1 << 20, **options)
    h = numbered_events(0, messages=10).header
    assert second.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum)
    first.write(numbered_events(2, messages=10))
    with pytest.raises(FencedError):
        first.flush()
    first.close()
    assert numbers_in_tables(tmp_path) == []
    write(second, 2)
    tick_until(second, lambda _: len(numbers_in_tables(tmp_path)) == 20)
    second.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([0, 1, 2] * 10)


@pytest.mark.parametrize(("operation", "name"), [("sync", ".inprogress"), ("move", ".parquet")])
def test_a_publisher_that_sleeps_through_a_takeover_publishes_no_second_copy(
    operation: str, name: str, tmp_path: Path, failing_disk: Any
) -> None:
    """Whether it slept before it looked for a successor or after: its file is gone."""
    options = {"shared_file_system": True, "lease_s": 1}
    asleep, awake = Event(), Event()

    def sleeps(called: str, found: str) -> int:
        if called == operation and found.endswith(name):
            asleep.set()
            awake.wait(30)
        return 0

    failing_disk.fails = sleeps
    first = sink_at(tmp_path, failing_disk, **options)
    write(first, 0, 1, 2)
    tick_until(first, lambda _: asleep.is_set())
    second = sink_at(tmp_path, **options)
    second.ledger_for(1)
    tick_until(second, lambda _: len(numbers_in_tables(tmp_path)) == 30)
    awake.set()
    with pytest.raises(FencedError):
        write(first, 3)
    first.close()
    write(second, 3)
    second.close()
    assert sorted(numbers_in_tables(tmp_path)) == sorted([*range(4)] * 10)
    assert verify_warehouse(tmp_path).ok
