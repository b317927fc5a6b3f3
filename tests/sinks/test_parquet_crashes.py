"""A process that ends in any call to the disk: nothing is missing, nothing is there twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
from cdp_ray_sinks.testing import FakeClock, numbered_events, numbers_in_tables

pytestmark = [
    # Threads end where the process is said to, and what they held is never put in order.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BATCHES = [numbered_events(number, 1 + number % 2, 900, messages=3) for number in range(6)]
NUMBERS = [number for number in range(6) for _ in range(3)]
VARIANTS: dict[str, dict[str, Any]] = {
    "small_segments": {"segment_bytes_max": 4096, "buffer_rows": 4},
    "one_segment": {"buffer_rows": 1000},
    "off": {"journal": "off", "buffer_rows": 4},
}


class Life:
    """One process: a sink that writes what its ledger lacks, as a lane would."""

    def __init__(self, folder: Path, fs: Any, options: dict[str, Any]) -> None:
        config = ParquetConfig(path=folder, **options)
        self.sink = ParquetSink(config, SinkContext("tables", FakeClock()), fs)
        self.acked: list[int] = []

    def run(self, batches: Sequence[Batch]) -> None:
        """Write, flush after each pair, close."""
        self.sink.open()
        for place in range(0, len(batches), 2):
            pair = batches[place : place + 2]
            for batch in pair:
                h = batch.header
                ledger = self.sink.ledger_for(h.workspace_id)
                if not ledger.has(h.producer, h.epoch, h.sequence, h.checksum):
                    self.sink.write(batch)
            self.sink.flush()
            self.acked += [batch.header.sequence for batch in pair]
            self.sink.tick(0)
        self.sink.close()

    def run_until_crash(self, crashed: threading.Event, batches: Sequence[Batch]) -> None:
        """The same, up to the crash; whoever waits for a thread that has ended is left alone."""
        ended = threading.Event()

        def live() -> None:
            try:
                self.run(batches)
            finally:
                ended.set()

        threading.Thread(target=live, daemon=True).start()
        while not ended.wait(0.01):
            if crashed.is_set():
                ended.wait(0.1)
                break
        self.sink._publisher.close()
        if self.sink._direct is not None:
            self.sink._direct._row_maker.shutdown()
        for chain in self.sink._chains.chains.values():
            for segment in chain.segments:
                segment.close()
            chain._fence.give_up()


def check(folder: Path) -> None:
    """Every number once per message, in files that are whole, and nothing left in the journal."""
    assert sorted(numbers_in_tables(folder)) == NUMBERS
    for path in folder.rglob("*.parquet"):
        assert pq.ParquetFile(path).read().num_rows == pq.read_metadata(path).num_rows
    assert not any(path.stat().st_size for path in (folder / ".journal").rglob("*.bin"))
    assert not list(folder.rglob("*.inprogress"))


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_crash_in_any_call_loses_and_doubles_nothing(
    variant: str, step: int, tmp_path: Path, crashing_disk: Callable[[int | None], Any]
) -> None:
    """The next life sends all again; and one more finds all of it there."""
    options = VARIANTS[variant]
    fs = crashing_disk(None)
    Life(tmp_path / "whole", fs, options).run(BATCHES)
    check(tmp_path / "whole")
    crash_count = 0
    for crash_at in range(0, len(fs.calls) + 5, step):
        folder = tmp_path / str(crash_at)
        crashing = crashing_disk(crash_at)
        life = Life(folder, crashing, options)
        life.run_until_crash(crashing.crashed, BATCHES)
        crash_count += crashing.crashed.is_set()
        for _ in range(2):
            Life(folder, crashing_disk(None), options).run(BATCHES)
            check(folder)
    assert crash_count > len(fs.calls) // step // 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_acknowledged_is_there_though_it_is_never_sent_again(
    variant: str, tmp_path: Path, crashing_disk: Callable[[int | None], Any]
) -> None:
    """An acknowledged batch is the sink's alone; one that was not may be there or not."""
    options = VARIANTS[variant]
    for crash_at in range(3, 60, 14):
        folder = tmp_path / str(crash_at)
        crashing = crashing_disk(crash_at)
        life = Life(folder, crashing, options)
        life.run_until_crash(crashing.crashed, BATCHES)
        Life(folder, crashing_disk(None), options).run([])
        found = numbers_in_tables(folder)
        assert set(life.acked) <= set(found)
        assert all(found.count(number) == 3 for number in set(found))
