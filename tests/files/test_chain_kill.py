"""Real processes, killed and stopped: all that was acknowledged is there, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("acking_writer.py")


class Writers:
    """The processes of one test; all are ended with it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.started: list[subprocess.Popen[str]] = []

    def start(self, seed: str, first: int = 0, mode: str = "own") -> subprocess.Popen[str]:
        """A writer that has opened its chain, or has ended trying."""
        command = [sys.executable, str(PROGRAM), str(self.base), seed, str(first), mode]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
            cwd=PROGRAM.parents[2], env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    """Starts writer processes on one directory."""
    writers = Writers(tmp_path)
    yield writers
    writers.end()


def acked_in(output: str) -> set[int]:
    """The sequences of all whole `acked` lines."""
    lines = output[: output.rfind("\n") + 1].splitlines()
    return {int(word) for line in lines if line.startswith("acked") for word in line.split()[1:]}


def read_until(process: subprocess.Popen[str], count: int) -> str:
    """The process's first lines."""
    assert process.stdout is not None
    return "".join(process.stdout.readline() for _ in range(count))


def test_whatever_was_acknowledged_before_a_kill_is_there_once(
    bench: Any, writers: Writers
) -> None:
    """Writers killed at random instants, one after the other, on the same directory."""
    draw = random.Random("kill")
    acked: set[int] = set()
    for turn in range(5):
        process = writers.start(f"seed {turn}", first=turn * 1_000_000)
        output = read_until(process, draw.randrange(1, 60))
        assert output.startswith(f"open {turn * 2 + 1}\n")
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acked |= acked_in(output + rest)
        chain = bench.chain()
        known = bench.known(chain)
        assert acked <= known
        stored = Counter(bench.stored())
        assert set(stored) == known
        assert set(stored.values()) <= {1}
        # The kill may have come within an index record; nothing of that was acknowledged.
        assert {damage.reason for damage in chain.recovery_report} <= {"torn index record"}
        chain.close()
    assert len(acked) > 20


def test_a_second_process_is_refused_while_the_first_lives(bench: Any, writers: Writers) -> None:
    """The error names the directory and the process that holds it."""
    first = writers.start("a")
    read_until(first, 2)
    second = writers.start("b")
    _, errors = second.communicate(timeout=60)
    assert f"{bench.base}/42/.lane is held by process {first.pid}" in errors
    assert "acked" in read_until(first, 3)
    first.kill()
    first.wait()
    assert read_until(writers.start("c", first=1_000_000), 1).startswith("open")


def test_a_stopped_writer_that_wakes_up_acknowledges_nothing(bench: Any, writers: Writers) -> None:
    """On a shared file system: stopped in mid-work, replaced, woken; the archive stays whole."""
    first = writers.start("stopped", mode="shared")
    output = read_until(first, 20)
    first.send_signal(signal.SIGSTOP)
    second = writers.start("successor", first=1_000_000, mode="shared")
    second_output = read_until(second, 20)
    first.send_signal(signal.SIGCONT)
    rest, _ = first.communicate(timeout=60)
    assert (output + rest).rstrip().endswith("fenced")
    # What it wrote but never acknowledged is cut when the lease is over.
    second.kill()
    rest_of_second, _ = second.communicate()
    acked = acked_in(output + rest) | acked_in(second_output + rest_of_second)
    chain = bench.chain()
    assert acked <= bench.known(chain)
    stored = Counter(bench.stored())
    assert acked <= set(stored)
    assert set(stored.values()) == {1}
