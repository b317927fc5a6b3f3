"""The background thread: its bound, its order, and that nobody waits for it."""

from __future__ import annotations

import threading
import time
from typing import Any

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.files.sealer import Sealer


def test_nobody_waits_for_a_seal(bench: Any) -> None:
    """While the sealer hangs in a sync, commits go on and the clock's tick returns."""
    chain = bench.chain(idle_s=1)
    chain.append(bench.batch(0))
    chain.commit()
    hang, reached = threading.Event(), threading.Event()
    sealed_name = "data.bin.idx"

    def fails(operation: str, name: str) -> int:
        if (operation, name) == ("sync", sealed_name):
            reached.set()
            hang.wait(30)
        return 0

    bench.fs.fails = fails
    bench.clock.turn(1000)
    began = time.monotonic()
    chain.tick(bench.clock.now_ms())
    assert reached.wait(60)
    for sequence in range(1, 4):
        chain.append(bench.batch(sequence))
        chain.commit()
    took_s = time.monotonic() - began
    hang.set()
    chain.close()
    assert took_s < 10
    assert bench.stored() == [0, 1, 2, 3]
    assert [bench.stored_in(name) for name in bench.data_files] == [[0], [1, 2, 3]]


def test_a_full_queue_makes_the_caller_seal(bench: Any) -> None:
    """The queue is bounded: past it the work is done where it arises."""
    sealer = Sealer(bench.fs, bench.clock, queue_max=1)
    hang = threading.Event()

    def fails(operation: str, name: str) -> int:
        if operation == "append" and threading.current_thread().name == "sealer":
            hang.wait(30)
        return 0

    chain = bench.chain(segment_bytes_max=60)
    chain.segments._sealer = sealer
    bench.fs.fails = fails
    for sequence in range(6):
        chain.append(bench.batch(sequence))
        chain.commit()
    sealed = [bench.contents(name).seal is not None for name in bench.data_files]
    hang.set()
    sealer.join()
    sealer.close()
    sealer.close()
    assert sum(sealed) >= 2
    assert bench.stored() == list(range(6))


def test_closing_does_what_is_queued() -> None:
    """An idle sealer closes at once, and has never had a thread."""
    before = threading.active_count()
    sealer = Sealer(None, SystemClock())  # type: ignore[arg-type]
    sealer.join()
    sealer.close()
    assert threading.active_count() == before
