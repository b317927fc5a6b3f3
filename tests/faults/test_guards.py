"""What each guard of files and lanes is for: without it, the same fault breaks a promise.

| fault | guard | taken out | then |
| --- | --- | --- | --- |
| SIGKILL of a chain | a lane answers after the flush | it answers before | not there |
| SIGKILL of router or lane | the ledger knows what is there | it knows nothing | twice |
| SIGKILL of a router | pushes are numbered | they are taken as they come | out of order |
| end of the machine | sync before the answer | no sync | not there |
| end of the machine | checksums say what a torn write is | they are not looked at | not there |
| EIO of a sync | that file is never synced again | it is, and that succeeds | not there |
| full disk | a torn write is cut back | it stays | damaged |
| two writers | a look at the fence after each sync | no look | not there |
| SIGKILL in a publication | a file says what it was made of | nobody reads that | twice |
| a name that is taken | a move that replaces nothing | one that does | not there |

*Not there* is what was acknowledged. Those of producer, router and
spool are in `test_guards_routing.py`, those of rows in `test_guards_rows.py`.
"""

from __future__ import annotations

import errno
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.push import DURABLE
from cdp_ray_sinks.delivery.turns import Turns
from cdp_ray_sinks.errors import SequenceGapError, SinkError
from cdp_ray_sinks.files import chain_set, recovery
from cdp_ray_sinks.files.fence import Fence
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.publication import Publication
from cdp_ray_sinks.files.segment import Segment
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinarySink
from cdp_ray_sinks.sinks.parquet import ParquetSink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import FakeClock, numbered_events, numbers_in_tables

SINKS: dict[str, Any] = {"disk_binary": DiskBinarySink, "parquet": ParquetSink}


class EndError(BaseException):
    """Where the machine stops."""


class Life:
    """One process with a file sink; writes what its ledger lacks and acknowledges, as a lane."""

    def __init__(
        self, folder: Path, fs: Any = None, kind: str = "disk_binary", **options: Any
    ) -> None:
        config = load_config(kind, {"type": kind, "path": folder, **options})
        self.clock = FakeClock()
        self.sink = SINKS[kind](config, SinkContext("kept", self.clock), fs)
        self.sink.open()
        self.acked: list[int] = []

    def deliver(self, *numbers: int) -> bool:
        """Write, flush, acknowledge; whether that went well."""
        batches = [numbered_events(number) for number in numbers]
        try:
            for batch in batches:
                if not self.has(batch):
                    self.sink.write(batch)
            self.sink.flush()
        except (SinkError, EndError):
            return False
        self.acked += numbers
        return True

    def has(self, batch: Batch) -> bool:
        header = batch.header
        ledger = self.sink.ledger_for(header.workspace_id)
        known: bool = ledger.has(header.producer, header.epoch, header.sequence, header.checksum)
        return known

    def kill(self) -> None:
        """Let go of descriptors and locks, as the kernel would; nothing is written."""
        for chain in self.sink._chains.chains.values():
            chain.segments.abandon()
            chain._let_go()


@contextmanager
def lane_in(folder: Path) -> Iterator[Lane]:
    """A lane over an archive; closed at the end."""
    config = load_config("disk_binary", {"type": "disk_binary", "path": folder})
    letters = DeadLetterArchive(folder.with_name("dead"), "kept", SystemClock())
    sink = config.build(SinkContext("kept"))
    lane = Lane(sink, SystemClock(), letters, random.random, by_workspace=True)
    lane.start()
    yield lane
    lane.close(10_000)


def push(lane: Lane, session: int, number: int, *numbers: int) -> list[int]:
    """What of that push is acknowledged."""
    batches = [numbered_events(n) for n in numbers]
    try:
        outcomes = lane.push("router", session, number, [], batches)
    except SequenceGapError:
        return []
    return [n for n, outcome in zip(numbers, outcomes, strict=True) if outcome == DURABLE]


def test_a_lane_answers_after_the_flush(guards: Any) -> None:
    """Its process is killed as soon as it has answered."""

    def scenario(place: Path) -> set[str]:
        with lane_in(place / "kept") as lane:
            lane.hello("router", 1)
            acked = push(lane, 1, 1, 0, 1, 2)
            shutil.copytree(place / "kept", place / "left")  # what the next process finds
        there, _ = guards.stored(place / "left")
        return set(guards.broken(acked, there))

    guards.show(
        scenario,
        lambda patch: patch.setattr(Lane, "_flush", lambda self: None),
        "acknowledged and not there",
    )


def test_the_ledger_knows_what_comes_again(guards: Any) -> None:
    """The router is killed before it has the answer, and its successor pushes once more."""

    def scenario(place: Path) -> set[str]:
        acked = []
        for life in (1, 2):  # the lane is killed too, or another has its place
            with lane_in(place / "kept") as lane:
                for session in (2 * life, 2 * life + 1):
                    lane.hello("router", session)
                    acked += push(lane, session, 1, 0, 1, 2)
        there, _ = guards.stored(place / "kept")
        return set(guards.broken(acked, there))

    guards.show(scenario, lambda patch: patch.setattr(Ledger, "has", lambda *of: False), "twice")


@pytest.mark.parametrize("fault", ["overtaken", "left over"])
def test_pushes_are_numbered(guards: Any, fault: str) -> None:
    """A push overtakes another, or comes when the session of its router is over."""

    def scenario(place: Path) -> set[str]:
        acked = []
        with lane_in(place / "kept") as lane:
            lane.hello("router", 1)
            late = threading.Thread(target=lambda: acked.extend(push(lane, 1, 2, 2, 3)))
            if fault == "left over":
                lane.hello("router", 2)
            late.start()
            time.sleep(0.3)
            session = 2 if fault == "left over" else 1
            acked += push(lane, session, 1, 0, 1)
            late.join()
            acked += push(lane, session, 2, 2, 3)
        there, _ = guards.stored(place / "kept")
        assert len(there) == 4
        return set(guards.broken(acked, there))

    @contextmanager
    def anybody(self: Turns, caller: str, session: int, number: int) -> Iterator[None]:
        yield

    guards.show(scenario, lambda patch: patch.setattr(Turns, "turn", anybody), "out of order")


def test_bytes_are_synced_before_the_answer(guards: Any, unsynced_disk: Any) -> None:
    """The machine stops when a batch has just been acknowledged."""

    def scenario(place: Path) -> set[str]:
        disk = unsynced_disk()
        life = Life(place, disk)
        assert life.deliver(0, 1)
        assert life.deliver(2)
        life.kill()
        disk.cut_power(place)
        there, _ = guards.stored(place)
        return set(guards.broken(life.acked, there))

    def no_sync(fs: Any, segments: Sequence[Segment]) -> dict[Segment, OSError]:
        return {}

    guards.show(
        scenario,
        lambda patch: patch.setattr(chain_set, "sync_segments", no_sync),
        "acknowledged and not there",
    )


def test_checksums_tell_a_torn_write(guards: Any, unsynced_disk: Any) -> None:
    """The machine stops within a sync: the index has reached the disk, its bytes have not."""

    def scenario(place: Path) -> set[str]:
        disk = unsynced_disk()
        life = Life(place, disk)
        assert life.deliver(0)

        def ends(operation: str, name: str) -> int:
            if operation == "sync" and name == "data.bin":
                raise EndError
            return 0

        disk.fails = ends
        assert not life.deliver(1, 2)
        life.kill()
        disk.cut_power(place, but=".idx")
        successor = Life(place)
        assert successor.deliver(0, 1, 2)
        successor.sink.close()
        there, _ = guards.stored(place)
        return set(guards.broken(successor.acked, there))

    guards.show(
        scenario,
        lambda patch: patch.setattr(recovery, "commit_damage", lambda *of: None),
        "acknowledged and not there",
    )


def test_a_file_whose_sync_failed_is_not_synced_again(guards: Any, unsynced_disk: Any) -> None:
    """The kernel says EIO once and forgets the pages; the next sync of the file succeeds."""

    def scenario(place: Path) -> set[str]:
        disk = unsynced_disk()
        life = Life(place, disk)
        assert life.deliver(0)
        disk.fail_once("sync", "data.bin", errno.EIO)
        if not life.deliver(1):
            assert life.deliver()  # once more, what was kept
            life.acked.append(1)
        assert life.deliver(2)
        life.kill()
        disk.cut_power(place)
        there, _ = guards.stored(place)
        return set(guards.broken(life.acked, there))

    once = Segment.sync

    def and_again(segment: Segment, fs: Any) -> None:
        try:
            once(segment, fs)
        except OSError:
            segment.sync_failed = False
            once(segment, fs)

    guards.show(
        scenario,
        lambda patch: patch.setattr(Segment, "sync", and_again),
        "acknowledged and not there",
    )


def test_a_torn_write_is_cut_back(guards: Any, failing_disk: Any) -> None:
    """The disk is full in the middle of an index record, and later it is not."""

    def scenario(place: Path) -> set[str]:
        life = Life(place, failing_disk)
        assert life.deliver(0)
        failing_disk.fail_once("append", "data.bin.idx", errno.ENOSPC)
        assert not life.deliver(1)
        assert life.deliver()
        life.acked.append(1)
        life.kill()
        there, damage = guards.stored(place)
        return guards.broken(life.acked, there) | ({"damaged"} if damage else set())

    def stay(segment: Segment, fs: Any) -> None:
        segment.written, segment.is_taken = segment.confirmed, False

    guards.show(scenario, lambda patch: patch.setattr(Segment, "take_back", stay), "damaged")


def test_a_writer_looks_at_the_fence_after_its_sync(guards: Any, failing_disk: Any) -> None:
    """It is frozen in a commit for longer than its lease, and wakes when another has come."""

    def scenario(place: Path) -> set[str]:
        frozen = Life(place, failing_disk, shared_file_system=True, lease_s=1)
        assert frozen.deliver(0)
        successors = []

        def freeze(operation: str, name: str) -> int:
            if operation == "write" and not successors:
                successors.append(Life(place, shared_file_system=True, lease_s=1))
                assert successors[0].deliver(0, 5)
                successors[0].clock.sleep_ms(2000)
                successors[0].sink.tick(successors[0].clock.now_ms())
                successors[0].sink._chains._sealer.join()
            return 0

        failing_disk.fails = freeze
        frozen.deliver(1)
        frozen.kill()
        successors[0].sink.close()
        there, _ = guards.stored(place)
        return set(guards.broken(frozen.acked + successors[0].acked, there))

    def look_away(fence: Fence) -> None:
        return None

    guards.show(
        scenario,
        lambda patch: patch.setattr(Fence, "check", look_away),
        "acknowledged and not there",
    )


class PictureDisk(LocalFileSystem):
    """Takes a picture of a folder when a file has just been published."""

    def __init__(self, folder: Path, picture: Path) -> None:
        self._folder, self._picture = folder, picture

    def move_new(self, source: Path, target: Path) -> None:
        super().move_new(source, target)
        if not self._picture.exists():
            shutil.copytree(self._folder, self._picture)


def test_a_published_file_says_what_it_was_made_of(guards: Any) -> None:
    """The process is killed when a file has its name, and its journal is still there."""

    def scenario(place: Path) -> set[str]:
        folder, picture = place / "tables", place / "picture"
        life = Life(folder, PictureDisk(folder, picture), "parquet")
        assert life.deliver(0, 1, 2)
        life.sink.close()
        successor = Life(picture, None, "parquet")
        assert successor.deliver(0, 1, 2)  # opens the workspace; what was left is published
        successor.sink.close()
        return set(guards.broken(life.acked, sorted(numbers_in_tables(picture))))

    def nobody_reads(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Publication, "_has_id", lambda *of: False)

    guards.show(scenario, nobody_reads, "twice")


def test_a_move_replaces_nothing(guards: Any) -> None:
    """Another writer publishes under the name first."""

    def scenario(place: Path) -> set[str]:
        lives = [Life(place / name, None, "parquet") for name in ("here", "elsewhere")]
        assert lives[0].deliver(0, 1)
        lives[1].clock.sleep_ms(1)
        assert lives[1].deliver(2, 3)
        lives[1].sink.close()
        (other,) = (place / "elsewhere").rglob("*.parquet")
        target = place / "here" / other.relative_to(place / "elsewhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        other.rename(target)
        lives[0].sink.close()
        there = sorted(numbers_in_tables(place / "here"))
        return set(guards.broken([*lives[0].acked, *lives[1].acked], there))

    def replace(disk: LocalFileSystem, source: Path, target: Path) -> None:
        source.replace(target)

    guards.show(
        scenario,
        lambda patch: patch.setattr(LocalFileSystem, "move_new", replace),
        "acknowledged and not there",
    )
