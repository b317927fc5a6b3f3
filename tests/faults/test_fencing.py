"""Two writers of one workspace on one directory: one is frozen, replaced and woken."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest

from cdp_ray_sinks.files.archive import segments, verify
from cdp_ray_sinks.testing import numbers_in_tables
from cdp_ray_sinks.writers.binary import BinaryReader

PROGRAM = Path(__file__).with_name("lane_process.py")
PATIENCE_S = 90


class LaneProcess:
    """A lane in a process; its lines are read as they come."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        )  # fmt: skip
        self.acked: set[int] = set()
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("acked "):
                self.acked |= {int(word) for word in line.split()[1:]}
            self.lines.append(line.strip())
            self._new.put(line.strip())
        self._new.put("ended")

    def push(self, numbers: list[int]) -> None:
        """Hand over a group; the answer comes as a line, unless the process is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(" ".join(map(str, numbers)) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def wait_for(self, *beginnings: str) -> str:
        """The next line that begins with one of these."""
        until = time.monotonic() + PATIENCE_S
        while True:
            line = self._new.get(timeout=max(0.1, until - time.monotonic()))
            if line.startswith(beginnings):
                return line
            assert line != "ended", f"ended before {beginnings}: {self.lines[-5:]}"

    def signal(self, number: int) -> None:
        """Send it."""
        self.process.send_signal(number)

    def finish(self) -> None:
        """Close the lane by the end of its input, and wait for the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(PATIENCE_S)


class Producer:
    """Numbers its groups, and knows as a producer does what nobody has acknowledged."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.submitted: list[list[int]] = []
        self._next = 0

    def submit_to(self, lane: LaneProcess, groups: int) -> None:
        """Push new groups of a few batches each."""
        for _ in range(groups):
            count = self.chance.randrange(1, 6)
            self.submitted.append(list(range(self._next, self._next + count)))
            self._next += count
            lane.push(self.submitted[-1])
            time.sleep(self.chance.random() * 0.005)

    def submit_until_frozen(self, lane: LaneProcess) -> None:
        """One group at a time, so that when it freezes only the last one is unanswered."""
        while "freezing" not in lane.lines:
            assert len(self.submitted) < 50
            self.submit_to(lane, 1)
            while lane.wait_for("acked", "freezing", "pending").startswith("pending"):
                self.resend_to(lane, lane.acked)
        wait_until_frozen(lane)
        self.submit_to(lane, 5)

    def resend_to(self, lane: LaneProcess, acked: Set[int]) -> None:
        """Push again, in order, every group that is not wholly acknowledged."""
        for numbers in self.submitted:
            if not acked.issuperset(numbers):
                lane.push(numbers)

    def settle_with(self, lane: LaneProcess, acked_elsewhere: Set[int] = frozenset()) -> None:
        """Resend now and then until everything is acknowledged, by this lane or elsewhere."""
        until = time.monotonic() + PATIENCE_S
        while not self.numbers <= acked_elsewhere | lane.acked:
            assert time.monotonic() < until, f"not all acknowledged: {lane.lines[-5:]}"
            self.resend_to(lane, acked_elsewhere | lane.acked)
            again = time.monotonic() + 1
            while time.monotonic() < again and not self.numbers <= acked_elsewhere | lane.acked:
                time.sleep(0.01)

    @property
    def numbers(self) -> set[int]:
        """All that was submitted."""
        return {number for group in self.submitted for number in group}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LaneProcess]]:
    """Starts lanes on one directory; all are ended with the test."""
    started: list[LaneProcess] = []

    def start_one(kind: str, mode: str, where: str = "never") -> LaneProcess:
        started.append(LaneProcess(kind, str(tmp_path / "base"), mode, where))
        started[-1].wait_for("open")
        return started[-1]

    yield start_one
    for lane in started:
        lane.process.kill()
        lane.process.wait()


def numbers_there(kind: str, base: Path) -> Counter[int]:
    """How often each number is there for whoever reads the sink's files."""
    if kind == "parquet":
        return Counter(numbers_in_tables(base))
    found: Counter[int] = Counter()
    for segment in segments(base):
        with BinaryReader.open(segment.path) as reader:
            for message in reader.messages():
                found[number_of(bytes(message.message))] += 1
    return found


def wait_until_frozen(lane: LaneProcess) -> None:
    """Return once the kernel says that the process is stopped."""
    stat = Path(f"/proc/{lane.process.pid}/stat")
    until = time.monotonic() + PATIENCE_S
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < until, lane.lines[-5:]
        time.sleep(0.01)


def number_of(message: bytes) -> int:
    """The running number in the payload of the one event of a message."""
    return int(message.split(b'{"n":')[1].partition(b",")[0])


def check_once(kind: str, base: Path, producer: Producer) -> None:
    """Everything is there once, and an archive verifies."""
    there = numbers_there(kind, base)
    assert set(there) == producer.numbers
    assert set(there.values()) == {1}
    if kind == "disk_binary":
        report = verify(base)
        assert report.ok, report.damaged


@pytest.mark.parametrize("wake_within_lease", [True, False])
@pytest.mark.parametrize("where", ["write:3", "index:4", "sync:3"])
@pytest.mark.parametrize("kind", ["disk_binary", "parquet"])
def test_a_woken_writer_acknowledges_nothing(
    kind: str,
    where: str,
    wake_within_lease: bool,
    tmp_path: Path,
    start: Callable[..., LaneProcess],
) -> None:
    """Frozen inside a commit on a shared file system; the successor has all, and once."""
    producer = Producer(seed=len(where))
    frozen = start(kind, "shared", where)
    producer.submit_until_frozen(frozen)
    acked_before = set(frozen.acked)

    successor = start(kind, "shared")
    producer.submit_to(successor, 10)
    producer.settle_with(successor, acked_before)
    if not wake_within_lease:
        time.sleep(2.5)
    frozen.signal(signal.SIGCONT)
    frozen.wait_for("fenced")
    producer.submit_to(successor, 10)
    frozen.finish()
    assert frozen.acked == acked_before, frozen.lines
    producer.settle_with(successor, acked_before)
    successor.finish()
    assert "closed" in successor.lines
    check_once(kind, tmp_path / "base", producer)


@pytest.mark.parametrize("seed", range(4))
def test_frozen_at_any_instant(
    seed: int, tmp_path: Path, start: Callable[..., LaneProcess]
) -> None:
    """Wherever SIGSTOP comes: what either of the two acknowledged is there, and once."""
    producer = Producer(seed)
    frozen = start("disk_binary", "shared")
    producer.submit_to(frozen, 1)
    frozen.wait_for("acked", "pending")  # it has the workspace
    producer.submit_to(frozen, producer.chance.randrange(5, 40))
    frozen.signal(signal.SIGSTOP)
    successor = start("disk_binary", "shared")
    # An acknowledgement may be in the pipe; a producer that has not read it sends again.
    producer.settle_with(successor)
    time.sleep(2 * producer.chance.random())
    frozen.signal(signal.SIGCONT)
    late = list(range(10_000, 10_010))
    frozen.push(late)
    frozen.wait_for("fenced")
    frozen.finish()
    assert not frozen.acked & set(late)
    assert frozen.acked <= producer.numbers
    producer.submit_to(successor, 5)
    producer.settle_with(successor)
    successor.finish()
    check_once("disk_binary", tmp_path / "base", producer)


@pytest.mark.parametrize("is_woken", [True, False])
@pytest.mark.parametrize("kind", ["disk_binary", "parquet"])
def test_on_one_host_a_frozen_writer_keeps_its_lock(
    kind: str, is_woken: bool, tmp_path: Path, start: Callable[..., LaneProcess]
) -> None:
    """Nobody takes over while it lives, told with its process; killed, it is replaced at once."""
    producer = Producer(seed=7)
    frozen = start(kind, "own", "sync:3")
    producer.submit_until_frozen(frozen)
    successor = start(kind, "own")
    producer.resend_to(successor, frozen.acked)
    assert f"is held by process {frozen.process.pid}" in successor.wait_for("pending")
    if is_woken:
        frozen.signal(signal.SIGCONT)
        producer.settle_with(frozen)
    assert not successor.acked
    frozen.signal(signal.SIGKILL)
    frozen.process.wait()
    producer.submit_to(successor, 5)
    producer.settle_with(successor, frozen.acked)
    successor.finish()
    check_once(kind, tmp_path / "base", producer)
