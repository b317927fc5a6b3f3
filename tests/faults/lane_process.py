"""A lane with its file sink in a process of its own, for tests that freeze and replace it.

Arguments: sink type, directory, "shared" or "own", and where to freeze: "never", or
"write", "index" or "sync" with the number of the call, as "sync:3". It freezes itself by
SIGSTOP inside a flush: before the data is written, between data and index, or after a
sync, before the look for a successor.

Standard input: a line of running numbers is a push. Standard output, a line each: `acked`
with those that are durable, `pending` with why, `fenced`, `closed`. At the end of its input
it closes the lane.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.push import DURABLE
from cdp_ray_sinks.errors import FencedError, SequenceGapError, TransientError
from cdp_ray_sinks.files.file_system import Buffer, LocalFileSystem
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinarySink
from cdp_ray_sinks.sinks.parquet import ParquetSink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import TEST_PRODUCER, numbered_events

SINKS: dict[str, Any] = {"disk_binary": DiskBinarySink, "parquet": ParquetSink}


def say(*words: object) -> None:
    """One line, whole whichever threads speak."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class FreezingDisk(LocalFileSystem):
    """The disk, and a process that stops at one of its calls until it is woken."""

    def __init__(self, where: str) -> None:
        self._where, _, number = where.partition(":")
        self._left = int(number or 0)
        self._counting = threading.Lock()
        self.is_counting = False

    def _at(self, where: str) -> None:
        with self._counting:
            if where != self._where or not self._left or not self.is_counting:
                return
            self._left -= 1
            if self._left:
                return
        say("freezing")
        # To this thread: one to the process would let it run on until another thread takes it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def write_at(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Maybe freeze, then write."""
        self._at("write")
        return super().write_at(fd, buffers, offset)

    def append(self, fd: int, data: Buffer) -> int:
        """Maybe freeze, then append to an index."""
        self._at("index")
        return super().append(fd, data)

    def sync(self, fd: int) -> None:
        """Sync, then maybe freeze."""
        super().sync(fd)
        self._at("sync")

    def sync_all(self, fd: int) -> None:
        """Sync, then maybe freeze."""
        super().sync_all(fd)
        self._at("sync")


def main() -> None:
    """Take pushes until the input ends or a successor has come."""
    kind, base, mode, where = sys.argv[1:]
    options = {"type": kind, "path": base, "shared_file_system": mode == "shared", "lease_s": 1}
    disk = FreezingDisk(where)
    sink = SINKS[kind](load_config(kind, options), SinkContext("kept"), disk)
    flush = sink.flush

    def watched_flush() -> None:
        disk.is_counting = True
        try:
            flush()
        finally:
            disk.is_counting = False

    sink.flush = watched_flush
    dead_letters = DeadLetterArchive(
        Path(base).with_name(f"dead-{os.getpid()}"), "kept", SystemClock()
    )
    lane = Lane(sink, SystemClock(), dead_letters, random.random, by_workspace=True)
    lane.start()
    lane.hello("router", 1)
    say("open")
    is_fenced = threading.Event()

    def push(turn: int, numbers: list[int]) -> None:
        try:
            batches = [numbered_events(number, record_bytes=2000) for number in numbers]
            lows = [(TEST_PRODUCER, 1, 0)]
            outcomes = lane.push("router", 1, turn, lows, batches)
        except FencedError:
            say("fenced")
            is_fenced.set()
            lane.hello("router", 2)  # so that no later push waits for its turn
            return
        except SequenceGapError:
            return
        except TransientError as error:
            say("pending", error)
            return
        acked = [n for n, outcome in zip(numbers, outcomes, strict=True) if outcome == DURABLE]
        if acked:
            say("acked", *acked)
        if len(acked) < len(numbers):
            say("pending", lane.last_error())

    with ThreadPoolExecutor(8) as pool:
        for turn, line in enumerate(sys.stdin, start=1):
            pool.submit(push, turn, [int(word) for word in line.split()])
            if is_fenced.is_set():
                break
    lane.close(30_000)
    say("closed")


if __name__ == "__main__":
    main()
