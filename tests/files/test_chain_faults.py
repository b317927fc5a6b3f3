"""What a chain does when the disk fails: nothing acknowledged that is not there, no copy twice."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import PartialFlushError, TransientError
from cdp_ray_sinks.files.chain_set import ChainSet

HOUR_MS = 3_600_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is refused: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_refuses_and_heals_without_loss_or_copy(bench: Any, small_disk: Path) -> None:
    """What was acknowledged before stays; the refused batch is durable once there is room."""
    bench.base = small_disk
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    chain = bench.chain()
    acked: list[int] = []

    def fill() -> None:
        for sequence in range(100):
            chain.append(bench.batch(sequence, text="x" * 20_000))
            chain.commit()
            acked.append(sequence)

    with pytest.raises(TransientError, match="ENOSPC"):
        fill()
    assert 3 < len(acked) < 30
    assert bench.stored() == acked
    size = bench.path("2026-01-01/00/data.bin").stat().st_size
    with pytest.raises(TransientError, match="ENOSPC"):
        chain.commit()
    assert bench.path("2026-01-01/00/data.bin").stat().st_size == size
    assert bench.known(chain) == set(acked)
    ballast.unlink()
    chain.commit()
    assert bench.stored() == [*acked, len(acked)]
    chain.close()
    assert list(chain.recovery_report) == []


def test_a_start_that_can_not_seal_goes_on_and_seals_later(bench: Any) -> None:
    """A start on a full disk knows the ledger, reports what it can't seal, and serves."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    bench.kill(chain)
    bench.fs.fail_once("append", "data.bin.idx", errno.ENOSPC)
    again = bench.chain()
    assert bench.known(again) == {0}
    assert "can't be sealed: ENOSPC" in again.recovery_report[0].reason
    again.append(bench.batch(1))
    again.commit()
    assert bench.stored() == [0, 1]
    again.tick(bench.clock.now_ms())
    contents = bench.contents("2026-01-01/00/data.bin")
    assert contents.damage is None
    assert contents.seal is not None
    assert again.segment_counters.recovered == 1


def test_a_full_disk_hurts_no_neighbour(bench: Any, small_disk: Path, tmp_path: Path) -> None:
    """The flush names the workspace that is not durable; all others are."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "5").symlink_to(small_disk)
    chains = ChainSet(base, bench.writer, bench.options(), clock=SystemClock())
    chains.open()
    for workspace_id in (4, 5, 6):
        text = "x" * (2_000_000 if workspace_id == 5 else 10)
        batch = bench.hand.batch([text.encode()], workspace_id=workspace_id)
        chains.append(batch)
    with pytest.raises(PartialFlushError) as caught:
        chains.flush()
    assert [workspace_id for workspace_id, _ in caught.value.failures] == [5]
    assert "ENOSPC" in str(caught.value)
    for workspace_id in (4, 6):
        assert len(chains.chain(workspace_id).ledger.snapshot()) == 1
    assert not chains.chain(5).ledger.snapshot()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    chains.flush()
    chains.close()
    assert (small_disk / "2026-01-01" / "00" / "data.bin").stat().st_size > 2_000_000


@pytest.mark.parametrize(
    ("operation", "suffix"), [("write", ".bin"), ("append", ".idx"), ("append", "data.bin.idx")]
)
def test_a_failed_write_is_cut_back_and_written_again_in_the_same_segment(
    bench: Any, operation: str, suffix: str
) -> None:
    """No half of it stays before the copy that counts."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    bench.fs.fail_once(operation, suffix, errno.EIO)
    chain.append(bench.batch(1))
    with pytest.raises(TransientError, match="EIO"):
        chain.commit()
    assert chain.is_dirty
    assert bench.stored() == [0]
    assert bench.path("2026-01-01/00/data.bin").stat().st_size == len(bench.batch(0).records)
    chain.commit()
    assert bench.data_files == ["2026-01-01/00/data.bin"]
    assert bench.stored() == [0, 1]
    assert bench.path("2026-01-01/00/data.bin").stat().st_size == 2 * len(bench.batch(0).records)


def test_a_segment_that_can_not_be_cut_back_is_left_for_the_next(bench: Any) -> None:
    """It is sealed at its last good commit, and the group goes into a new segment."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    failing = {"append", "truncate"}
    bench.fs.fails = lambda operation, name: (
        errno.EIO if operation in failing and name == "data.bin.idx" else 0
    )
    chain.append(bench.batch(1))
    with pytest.raises(TransientError):
        chain.commit()
    chain.commit()
    chain.segments.join()
    assert [bench.stored_in(name) for name in bench.data_files] == [[0], [1]]
    assert bench.contents("2026-01-01/00/data.bin").seal is not None


@pytest.mark.parametrize("suffix", ["data.bin", "data.bin.idx"])
def test_after_a_failed_sync_the_descriptor_is_never_synced_again(bench: Any, suffix: str) -> None:
    """The kernel forgets what it could not write: sealed at the last good commit, written anew."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    bench.fs.fail_once("sync", suffix)
    chain.append(bench.batch(1))
    with pytest.raises(TransientError, match="can't sync"):
        chain.commit()
    assert bench.known(chain) == {0}
    bench.fs.calls.clear()
    chain.commit()
    chain.segments.join()
    assert ("sync", "data.bin") not in bench.fs.calls
    assert ("sync", "data.bin.idx") not in bench.fs.calls
    assert [bench.stored_in(name) for name in bench.data_files] == [[0], [1]]
    assert bench.contents("2026-01-01/00/data.bin").seal is not None
    assert chain.segment_counters.sync_failures == 1
    chain.close()
    assert bench.known(bench.chain()) == {0, 1}


@pytest.mark.parametrize(
    ("operation", "name"),
    [("sync", "data.bin.idx"), ("sync_directory", "00"), ("sync_directory", "42"),
     ("sync_directory", ".lane"), ("append", "data.bin.idx")],
)  # fmt: skip
def test_a_segment_that_can_not_be_made_lasting_is_not_written(
    bench: Any, operation: str, name: str
) -> None:
    """Its names, its header and the ledger must be on the disk before any batch."""
    chain = bench.chain()
    bench.fs.fail_once(operation, name)
    chain.append(bench.batch(0))
    with pytest.raises(TransientError, match="EIO"):
        chain.commit()
    assert bench.data_files == []
    assert ("write", "data.bin") not in bench.fs.calls
    chain.commit()
    assert bench.data_files == ["2026-01-01/00/data.bin"]
    assert bench.stored() == [0]


def test_a_segment_that_could_not_be_made_covers_no_other(bench: Any) -> None:
    """Marks go only when a snapshot that holds what they lead to is on the disk."""
    chain = bench.chain(idle_s=1)
    later_ms = bench.hand.start_ms + HOUR_MS
    for sequence, at_ms in enumerate([bench.hand.start_ms, later_ms, bench.hand.start_ms]):
        chain.append(bench.batch(sequence, received_at_ms=at_ms))
        chain.commit()
    bench.clock.turn(1000)
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    bench.fs.fail_once("sync_directory", ".lane")
    chain.append(bench.batch(3))
    with pytest.raises(TransientError):
        chain.commit()
    bench.kill(chain)
    assert bench.known(bench.chain()) == {0, 1, 2}


def test_a_stream_that_failed_goes_on_in_the_segments_it_has(bench: Any) -> None:
    """What was planned and not written is free again: no segment is taken for ever."""
    chain = bench.chain(segment_bytes_max=60)
    for sequence in range(3):
        chain.append(bench.batch(sequence))
    bench.fs.fail_once("write", ".bin")
    with pytest.raises(TransientError):
        chain.commit()
    last = bench.data_files[-1]
    chain.commit()
    assert bench.stored_in(last) == [0]
    assert bench.stored() == [0, 1, 2]


def test_what_names_a_segment_is_synced_before_it_is_written(bench: Any) -> None:
    """All directories down from the base for the first, its own and the marks' for the next."""
    chain = bench.chain(segment_bytes_max=60)
    chain.append(bench.batch(0))
    chain.commit()
    first = [name for call, name in bench.fs.calls if call == "sync_directory"]
    above = {bench.base.name, "42", ".lane", "2026-01-01", "00"}
    assert set(first) == above
    assert len(first) == len(above)
    assert bench.fs.calls.index(("write", "data.bin")) > len(first)
    bench.fs.calls.clear()
    chain.append(bench.batch(1))
    chain.append(bench.batch(2, received_at_ms=bench.hand.start_ms + HOUR_MS))
    chain.commit()
    later = [name for call, name in bench.fs.calls if call == "sync_directory"]
    assert sorted(later) == [".lane", "00", "01", "2026-01-01"]


def test_a_kill_right_after_a_failed_sync_leaves_no_second_copy(bench: Any) -> None:
    """Before the failed segment could be sealed anew."""
    chain = bench.chain()
    left = [errno.EIO]
    bench.fs.fails = lambda operation, name: (
        errno.EIO
        if name.endswith(".new")
        else left.pop()
        if left and (operation, name) == ("sync", "data.bin")
        else 0
    )
    chain.append(bench.batch(0))
    with pytest.raises(TransientError):
        chain.commit()
    chain.commit()
    bench.kill(chain)
    again = bench.chain()
    assert bench.stored() == [0]
    assert bench.known(again) == {0}
    assert list(again.recovery_report) == []


def test_later_segments_of_a_stream_do_not_overtake_a_failed_one(bench: Any) -> None:
    """One commit in three segments, the sync of the first fails: the order stays."""
    chain = bench.chain(segment_bytes_max=60)
    bench.fs.fail_once("sync", "data.bin")
    for sequence in range(3):
        chain.append(bench.batch(sequence))
    with pytest.raises(TransientError):
        chain.commit()
    assert bench.known(chain) == set()
    chain.commit()
    chain.close()
    assert bench.stored() == [0, 1, 2]


def test_one_failing_partition_leaves_the_others_durable(bench: Any) -> None:
    """Within a workspace too."""
    chain = bench.chain()
    bench.path("2026-01-01").mkdir()
    bench.path("2026-01-01/05").write_bytes(b"a file where a directory should be")
    for sequence, hour in enumerate([4, 5, 6]):
        at_ms = bench.hand.start_ms + hour * HOUR_MS
        chain.append(bench.batch(sequence, received_at_ms=at_ms))
    with pytest.raises(TransientError, match="2026-01-01/05"):
        chain.commit()
    assert bench.known(chain) == {0, 2}
    bench.path("2026-01-01/05").unlink()
    chain.commit()
    assert bench.known(chain) == {0, 1, 2}


def test_a_failed_background_sync_retires_the_segment_and_is_reported(bench: Any) -> None:
    """With `fsync = "interval"` the batches are acknowledged already: it must be seen."""
    chain = bench.chain(fsync="interval")
    chain.append(bench.batch(0))
    chain.commit()
    bench.fs.fail_once("sync", "data.bin")
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    chain.append(bench.batch(1))
    chain.commit()
    assert len(bench.data_files) == 2
    assert "sync failed: EIO" in chain.recovery_report[0].reason
    chain.close()
    assert bench.stored() == [0, 1]


def test_a_seal_that_fails_is_tried_again(bench: Any) -> None:
    """The next tick does it; until then the mark stays."""
    chain = bench.chain(idle_s=1)
    chain.append(bench.batch(0))
    chain.commit()
    bench.clock.turn(1000)
    bench.fs.fail_once("append", ".idx", errno.ENOSPC)
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    assert bench.contents("2026-01-01/00/data.bin").seal is None
    assert "seal failed: ENOSPC" in chain.recovery_report[0].reason
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    assert bench.contents("2026-01-01/00/data.bin").seal is not None
    assert bench.contents("2026-01-01/00/data.bin").damage is None


def test_a_deleted_open_segment_does_not_stop_its_chain(bench: Any) -> None:
    """Someone removed the files under a parked segment."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    (segment,) = chain.segments
    chain.segments.park(segment)
    segment.path.unlink()
    segment.index_path.unlink()
    chain.append(bench.batch(1))
    with pytest.raises(TransientError, match="ENOENT"):
        chain.commit()
    chain.commit()
    chain.close()
    assert bench.stored() == [1]


def test_a_fence_that_can_not_be_seen_acknowledges_nothing(bench: Any) -> None:
    """An unreachable directory is no successor: the commit is taken back and made again."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    fence = chain._fence
    before = fence._next
    chain.append(bench.batch(1))
    chain.prepare()
    written = chain.write_pending({})
    fence._next = "x" * 300  # ENAMETOOLONG
    with pytest.raises(TransientError, match="ENAMETOOLONG"):
        chain.confirm({})
    assert bench.known(chain) == {0}
    fence._next = before
    chain.commit()
    assert written[0] not in list(chain.segments)
    chain.close()
    assert [bench.stored_in(name) for name in bench.data_files] == [[0], [1]]
    assert bench.contents(bench.data_files[0]).seal.message_count == 1


def test_a_commit_interrupted_in_the_middle_is_taken_back(bench: Any) -> None:
    """Whatever the writer raised: its batches are written once, by the next commit."""
    chain = bench.chain()
    for hour in range(3):
        chain.append(bench.batch(hour, received_at_ms=bench.hand.start_ms + hour * HOUR_MS))
    encode = chain._writer.encode
    chain._writer.encode = lambda batches: (
        [][0] if batches[0].header.sequence == 1 else encode(batches)
    )
    with pytest.raises(IndexError):
        chain.commit()
    chain._writer.encode = encode
    chain.commit()
    chain.close()
    assert sorted(bench.stored()) == [0, 1, 2]


@pytest.mark.parametrize("operation", ["write_at", "append"])
def test_an_interrupt_inside_a_write_leaves_no_trace(bench: Any, operation: str) -> None:
    """The bytes were written, the chain never learned of it: they are taken back first."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    chain.append(bench.batch(1))
    system_call = getattr(bench.fs, operation)

    def interrupted(*arguments: Any) -> int:
        system_call(*arguments)
        raise KeyboardInterrupt

    setattr(bench.fs, operation, interrupted)
    with pytest.raises(KeyboardInterrupt):
        chain.commit()
    setattr(bench.fs, operation, system_call)
    chain.append(bench.batch(2))
    chain.commit()
    bench.kill(chain)
    assert bench.stored() == [0, 1, 2]
    again = bench.chain()
    assert bench.known(again) == {0, 1, 2}
    assert list(again.recovery_report) == []


def test_short_writes_are_finished(bench: Any) -> None:
    """A disk that takes seven bytes at a time makes the same file."""
    bench.fs.bytes_at_once_max = 7
    chain = bench.chain()
    for sequence in range(3):
        chain.append(bench.batch(sequence))
    chain.commit()
    chain.close()
    assert bench.stored() == [0, 1, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become someone else")
def test_a_directory_without_permission_is_a_clear_error(bench: Any) -> None:
    """As another user than the one whose directory it is: nothing of it is taken as written."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from cdp_ray_sinks.errors import ConfigError\n"
        "from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig\n"
        "from cdp_ray_sinks.sinks.base import SinkContext\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        DiskBinaryConfig(path=path).build(SinkContext('x')).open()\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
    )
    for directory in [bench.base, *bench.base.parents]:
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(directory.stat().st_mode | 0o005)
    command = [sys.executable, "-c", script, str(bench.base), str(bench.base / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert "no permission to write there" in first
    assert "EACCES" in second
