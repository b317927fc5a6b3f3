"""The in-process rotation: submit never waits, and what was submitted is in the files."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.errors import ConfigError, DrainTimeoutError, QueueFullError, SinkError
from cdp_ray_sinks.files.archive import segments, verify
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.files.rotation import AtomicRotationSink, RotationConfig, RotationInterval
from cdp_ray_sinks.writers.binary import BinaryReader, BinaryWriter

HOUR_MS = 3_600_000


class SlowDisk(LocalFileSystem):
    """A disk whose syncs take their time, or wait until they are let go."""

    def __init__(self, sync_s: float = 0.0) -> None:
        self.sync_s = sync_s
        self.go = threading.Event()
        self.go.set()

    def sync(self, fd: int) -> None:
        """Wait, then sync."""
        time.sleep(self.sync_s)
        self.go.wait(20)
        super().sync(fd)


class FullDisk(LocalFileSystem):
    """A disk that takes nothing while `is_full`."""

    is_full = True

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """ENOSPC, or the write."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write_at(fd, buffers, offset)


def records(maker: Any, *, at_ms: int = 0, count: int = 1, text: bytes = b"x") -> bytes:
    """The record bytes of `count` messages received `at_ms` after the start."""
    message = maker.message(filler=text)
    return b"".join(maker.record(message, maker.start_ms + at_ms) for _ in range(count))


def sink_in(path: Path, **options: Any) -> AtomicRotationSink:
    """A sink with short waits; keyword arguments of the sink itself begin with `with_`."""
    own = {key[5:]: options.pop(key) for key in list(options) if key.startswith("with_")}
    config = RotationConfig(path, **({"flush_interval_ms": 5} | options))
    return AtomicRotationSink(config, BinaryWriter(), **own)


def texts_in(path: Path) -> list[tuple[str, bytes]]:
    """Directory and payload text of every message of an archive."""
    found = []
    for info in segments(path):
        with BinaryReader.open(info.path) as reader:
            for message in reader.read_all():
                text = bytes(message.message).partition(b"<")[2].partition(b">")[0]
                found.append((str(info.path.parent.relative_to(path)), text))
    return found


def test_what_was_submitted_is_durable_and_sealed_after_stop(maker: Any, tmp_path: Path) -> None:
    """Every message of every workspace is there once, in order, in sealed segments."""
    sink = sink_in(tmp_path)
    for number in range(50):
        sink.submit(7, records(maker, text=b"<%d>" % number, count=2), 2)
        sink.submit("workspace_123", records(maker, text=b"<%d>" % number), 1)
    sink.stop()
    found = texts_in(tmp_path)
    assert [text for _, text in found if text] == [
        *(b"%d" % (number // 2) for number in range(100)),
        *(b"%d" % n for n in range(50)),
    ]
    assert {place for place, _ in found} == {"7/2026-01-01/00", "123/2026-01-01/00"}
    assert all(info.is_sealed for info in segments(tmp_path))
    report = verify(tmp_path)
    assert (report.ok, report.messages, report.events) == (True, 150, 150)


def test_the_hour_in_the_records_decides_the_file(maker: Any, tmp_path: Path) -> None:
    """Each hour has its directory, whenever the batch is written."""
    with sink_in(tmp_path) as sink:
        for hour in (0, 1, 0, 2):
            sink.submit(7, records(maker, at_ms=hour * HOUR_MS, text=b"<%d>" % hour), 1)
        sink.flush()
        assert sink.metrics().rotations == 2
    assert sorted(texts_in(tmp_path)) == [
        ("7/2026-01-01/00", b"0"),
        ("7/2026-01-01/00", b"0"),
        ("7/2026-01-01/01", b"1"),
        ("7/2026-01-01/02", b"2"),
    ]


def test_a_buffer_across_the_hour_is_split(maker: Any, tmp_path: Path) -> None:
    """One submit may hold records of two hours; each goes where it belongs."""
    buffer = records(maker, text=b"<a>") + records(maker, at_ms=HOUR_MS, text=b"<b>")
    with sink_in(tmp_path) as sink:
        sink.submit(7, buffer, 2)
    assert texts_in(tmp_path) == [("7/2026-01-01/00", b"a"), ("7/2026-01-01/01", b"b")]


def test_daily_rotation_has_no_hours(maker: Any, tmp_path: Path) -> None:
    """One directory per day."""
    with sink_in(tmp_path, rotation_interval=RotationInterval.DAILY) as sink:
        for hour in (0, 5, 24):
            sink.submit(7, records(maker, at_ms=hour * HOUR_MS, text=b"<%d>" % hour), 1)
    assert texts_in(tmp_path) == [
        ("7/2026-01-01", b"0"),
        ("7/2026-01-01", b"5"),
        ("7/2026-01-02", b"24"),
    ]


def test_the_prefix_names_the_files(maker: Any, tmp_path: Path) -> None:
    """`file_prefix` stands where `data` does by default."""
    with sink_in(tmp_path, file_prefix="clicks") as sink:
        sink.submit(7, records(maker), 1)
    assert [info.path.name for info in segments(tmp_path)] == ["clicks.bin"]


def test_check_rotation_seals_what_is_over(maker: Any, tmp_path: Path) -> None:
    """By the time it is told, an hour that has passed is sealed while the sink goes on."""
    with sink_in(tmp_path) as sink:
        sink.submit(7, records(maker), 1)
        sink.flush()
        sink.check_rotation(maker.start_ms + HOUR_MS - 1)
        sink.flush()
        time.sleep(0.05)
        assert [info.is_sealed for info in segments(tmp_path)] == [False]
        # The last write was now by the wall clock, so late data may still come until then.
        sink.check_rotation(int(time.time() * 1000) + 2 * HOUR_MS)
        sink.flush()
        for _ in range(200):
            if all(info.is_sealed for info in segments(tmp_path)):
                break
            time.sleep(0.01)
        assert [info.is_sealed for info in segments(tmp_path)] == [True]
        sink.submit(7, records(maker, at_ms=HOUR_MS), 1)
    assert verify(tmp_path).messages == 2


def test_no_submit_waits_for_a_rotation(maker: Any, tmp_path: Path) -> None:
    """With a slow disk and an hour that changes every 50 submits, each submit is immediate."""
    sink = sink_in(tmp_path, queue_size=2000, with_fs=SlowDisk(0.02))
    buffers = [records(maker, at_ms=hour * HOUR_MS) for hour in range(20)]
    took_ns = []
    for place in range(1000):
        started = time.perf_counter_ns()
        sink.submit(7, buffers[place // 50], 1)
        took_ns.append(time.perf_counter_ns() - started)
        if place % 50 == 49:
            sink.check_rotation(maker.start_ms + (place // 50) * HOUR_MS)
            time.sleep(0.005)
    sink.stop()
    # One wait for a sync is 20 ms; a busy machine may well hold up a few calls as long.
    assert sorted(took_ns)[950] < 1_000_000
    assert sum(took_ns) < 1_000_000_000
    report = verify(tmp_path)
    assert (report.ok, report.messages, report.segments) == (True, 1000, 20)
    assert sink.metrics().rotations == 19


def test_a_full_queue_is_an_error_and_takes_nothing(maker: Any, tmp_path: Path) -> None:
    """The bound is exact; what was refused is counted and is not in the files."""
    disk = SlowDisk()
    disk.go.clear()
    sink = sink_in(tmp_path, queue_size=10, with_fs=disk)
    for _ in range(10):
        sink.submit(7, records(maker), 1)
    for _ in range(3):
        with pytest.raises(QueueFullError, match="10 batches"):
            sink.submit(7, records(maker), 1)
    assert (sink.metrics().queue_full, sink.metrics().batches_rejected) == (3, 3)
    assert sink.metrics().batches_queued == 10
    disk.go.set()
    sink.stop()
    assert verify(tmp_path).messages == 10


def test_room_comes_back_when_batches_are_durable(maker: Any, tmp_path: Path) -> None:
    """A queue of four takes hundreds, one flush after the other."""
    with sink_in(tmp_path, queue_size=4) as sink:
        for _ in range(30):
            for _ in range(4):
                sink.submit(7, records(maker), 1)
            sink.flush()
    assert verify(tmp_path).messages == 120


def test_flush_means_durable(maker: Any, tmp_path: Path) -> None:
    """When it returns, a reader finds everything, though the segment is open."""
    with sink_in(tmp_path, flush_interval_ms=60_000) as sink:
        sink.submit(7, records(maker, count=3), 3)
        sink.flush()
        assert verify(tmp_path).messages == 3
        assert sink.metrics().items_written == 3


def test_what_is_submitted_becomes_durable_by_itself(maker: Any, tmp_path: Path) -> None:
    """After the flush interval, without any call."""
    with sink_in(tmp_path, flush_interval_ms=20) as sink:
        sink.submit(7, records(maker), 1)
        for _ in range(300):
            if sink.metrics().batches_written:
                break
            time.sleep(0.01)
        assert sink.metrics().batches_written == 1


def test_the_metrics_add_up(maker: Any, tmp_path: Path) -> None:
    """Submitted is written plus failed plus queued."""
    with sink_in(tmp_path) as sink:
        for workspace in (1, 2, 3):
            sink.submit(workspace, records(maker, count=5), 5)
        sink.submit(1, b"no record at all, but long enough to look", 1)
        sink.flush()
        found = sink.metrics().to_dict()
    assert {key: found[key] for key in found if key not in ("last_error", "bytes_written")} == {
        "batches_queued": 0,
        "batches_submitted": 4,
        "batches_written": 3,
        "batches_failed": 1,
        "batches_rejected": 0,
        "items_submitted": 16,
        "items_written": 15,
        "rotations": 0,
        "workspace_count": 3,
        "queue_full": 0,
    }
    assert found["bytes_written"] == 3 * len(records(maker, count=5))
    assert found["last_error"].startswith("workspace 1: ")


@pytest.mark.parametrize(
    ("change", "count", "reason"),
    [
        (lambda buffer: buffer[:-1], 1, "torn record"),
        (lambda buffer: buffer + b"?", 1, "torn record"),
        (lambda buffer: buffer, 2, "holds 1 messages and should hold 2"),
        (lambda buffer: b"", 0, ""),
        (lambda buffer: b"\xff" * 8 + buffer[8:], 1, "not between 1970 and 9999"),
        (lambda buffer: 17, 1, ""),
    ],
)
def test_what_is_no_records_is_refused_and_harms_nobody(
    maker: Any, tmp_path: Path, change: Any, count: int, reason: str
) -> None:
    """A bad buffer is counted with its reason; its neighbours are written."""
    with sink_in(tmp_path) as sink:
        sink.submit(7, records(maker, text=b"<a>"), 1)
        sink.submit(7, change(records(maker)), count)
        sink.submit(7, records(maker, text=b"<b>"), 1)
        sink.flush()
        assert sink.metrics().batches_failed == 1
        assert reason in str(sink.metrics().last_error)
    assert [text for _, text in texts_in(tmp_path)] == [b"a", b"b"]


@pytest.mark.parametrize("workspace", [0, -1, 2**32, "", "x", "workspace_", "1.5", True, "٣"])
def test_a_workspace_that_cannot_be_is_refused_at_once(
    maker: Any, tmp_path: Path, workspace: Any
) -> None:
    """The error names it, and nothing was taken."""
    with sink_in(tmp_path) as sink:
        with pytest.raises(ValueError, match="workspace"):
            sink.submit(workspace, records(maker), 1)
        assert sink.metrics().batches_submitted == 0


@pytest.mark.parametrize(
    "options",
    [
        {"queue_size": 0},
        {"buffer_size": 0},
        {"flush_interval_ms": 0},
        {"file_prefix": "a/b"},
        {"file_prefix": ""},
        {"file_prefix": ".x"},
    ],
)
def test_a_config_that_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    """The error names the key."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        RotationConfig(tmp_path, **options)


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """At the start, by name."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        sink_in(tmp_path / "file")


def test_after_stop_nothing_is_taken(maker: Any, tmp_path: Path) -> None:
    """Submit says so, stop may be called again."""
    sink = sink_in(tmp_path)
    sink.stop()
    sink.stop()
    with pytest.raises(SinkError, match="stopped"):
        sink.submit(7, records(maker), 1)


def test_stop_while_others_submit_loses_nothing_that_was_taken(maker: Any, tmp_path: Path) -> None:
    """Every submit that returned is in the files, every other one raised."""
    sink = sink_in(tmp_path, queue_size=64)
    buffer = records(maker)
    taken = [0] * 4

    def submit_until_stopped(place: int) -> None:
        while True:
            try:
                sink.submit(7 + place, buffer, 1)
                taken[place] += 1
            except QueueFullError:
                time.sleep(0.0005)
            except SinkError:
                return

    threads = [threading.Thread(target=submit_until_stopped, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    sink.stop()
    for thread in threads:
        thread.join()
    report = verify(tmp_path)
    assert (report.ok, report.messages) == (True, sum(taken))
    assert report.messages > 0


def test_a_disk_that_heals_gets_everything_in_order(maker: Any, tmp_path: Path) -> None:
    """While it is full batches wait; afterwards each is there once."""
    disk = FullDisk()
    sink = sink_in(tmp_path, with_fs=disk)
    for number in range(5):
        sink.submit(7, records(maker, text=b"<%d>" % number), 1)
    with pytest.raises(DrainTimeoutError, match="No space left") as caught:
        sink.flush(timeout_s=0.3)
    assert caught.value.unsettled == 5
    disk.is_full = False
    sink.flush()
    sink.stop()
    assert [text for _, text in texts_in(tmp_path)] == [b"%d" % n for n in range(5)]


def test_stop_on_a_disk_that_stays_full_ends_with_an_error(maker: Any, tmp_path: Path) -> None:
    """It says how many batches are not durable, and the thread is gone."""
    sink = sink_in(tmp_path, with_fs=FullDisk())
    sink.submit(7, records(maker), 1)
    with pytest.raises((DrainTimeoutError, SinkError), match="No space left"):
        sink.stop(timeout_s=0.3)
    assert "rotation" not in {thread.name for thread in threading.enumerate()}


def test_pool_buffers_come_back_when_durable(maker: Any, tmp_path: Path) -> None:
    """Views of lent buffers can be submitted; the pool never runs dry."""
    pool = BufferPool(8, 4096)
    encoded = np.frombuffer(records(maker), np.uint8)
    with sink_in(tmp_path, queue_size=8, with_pool=pool) as sink:
        for _ in range(20):
            for _ in range(4):
                buffer = pool.get()
                buffer[: len(encoded)] = encoded
                sink.submit(7, buffer[: len(encoded)], 1)
            sink.flush()
    assert (pool.hits, pool.misses, pool.available) == (80, 0, 8)
    assert verify(tmp_path).messages == 80


def test_a_second_sink_goes_on_behind_the_first(maker: Any, tmp_path: Path) -> None:
    """A restart in the same hour loses nothing and mixes nothing."""
    for number in range(3):
        with sink_in(tmp_path) as sink:
            sink.submit(7, records(maker, text=b"<%d>" % number), 1)
    assert [text for _, text in texts_in(tmp_path)] == [b"0", b"1", b"2"]
    assert verify(tmp_path).ok


def test_a_workspace_that_someone_else_writes_stays_owed(maker: Any, tmp_path: Path) -> None:
    """Its batches wait while others are written, and are written when it is free."""
    first, second = sink_in(tmp_path), sink_in(tmp_path)
    first.submit(7, records(maker, text=b"<first>"), 1)
    first.flush()
    second.submit(7, records(maker, text=b"<second>"), 1)
    second.submit(8, records(maker, text=b"<other>"), 1)
    with pytest.raises(DrainTimeoutError, match="workspace 7"):
        second.flush(timeout_s=0.3)
    assert second.metrics().items_written == 1
    first.stop()
    second.stop()
    assert sorted(text for _, text in texts_in(tmp_path)) == [b"first", b"other", b"second"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([3, 4]), st.integers(0, 5), st.integers(1, 3)),
        max_size=25,
    ),
    st.integers(1, 8),
)
def test_any_submits_are_read_back_in_their_order(
    maker: Any, tmp_path_factory: Any, plan: list[tuple[int, int, int]], queue_size: int
) -> None:
    """Per workspace and hour: what was submitted, once, in that order, whatever the queue."""
    directory = tmp_path_factory.mktemp("rotation")
    expected: dict[str, list[bytes]] = {}
    with sink_in(directory, queue_size=queue_size) as sink:
        for number, (workspace, hour, count) in enumerate(plan):
            text = b"<%d>" % number
            buffer = records(maker, at_ms=hour * HOUR_MS, count=count, text=text)
            while True:
                try:
                    sink.submit(workspace, buffer, count)
                    break
                except QueueFullError:
                    sink.flush()
            place = f"{workspace}/2026-01-01/{hour:02d}"
            expected.setdefault(place, []).extend([text[1:-1]] * count)
    found: dict[str, list[bytes]] = {}
    for place, text in texts_in(directory):
        found.setdefault(place, []).append(text)
    assert found == expected
    assert verify(directory).ok
