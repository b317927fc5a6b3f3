"""`cat --follow`: events as they land, wherever they land, and nothing that was there before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.archive_reading import new_batches_of
from cdp_ray_sinks.files.archive_reading import ALL
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.testing import FakeClock
from cdp_ray_sinks.writers.binary import BinaryLz4Writer, BinaryWriter


def refuse(problem: str) -> None:
    raise AssertionError(problem)


class SteppingClock(FakeClock):
    """Whenever the follower sleeps, the next thing happens."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self._steps = list(steps)

    def sleep_ms(self, duration_ms: int) -> None:
        super().sleep_ms(duration_ms)
        assert self._steps, "nothing was seen of the last step"
        self._steps.pop(0)()


@pytest.mark.parametrize("compressed", [False, True])
def test_it_sees_new_commits_files_hours_and_workspaces(
    maker: Any, tmp_path: Path, compressed: bool
) -> None:
    """In the order in which they come, each once; what was there is not even read."""
    writer = BinaryLz4Writer() if compressed else BinaryWriter()
    name = "data.bin.lz4" if compressed else "data.bin"
    batches = [maker.batch([maker.message(filler=b"%d" % n)], sequence=n) for n in range(8)]
    chain = Chain(tmp_path, 42, writer, ChainOptions(), clock=FakeClock())
    chain.open()

    def commit(number: int) -> None:
        chain.append(batches[number])
        chain.commit()

    def segment(number: int, **options: Any) -> Path:
        found: Path = maker.segment(tmp_path, [[batches[number]]], **options)
        return found

    commit(0)
    old = segment(1, workspace_id=7, name=name)
    damaged = bytearray(old.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    old.write_bytes(damaged)
    clock = SteppingClock(
        lambda: commit(2),
        lambda: None,
        lambda: segment(3, partition="2026-01-01/01", name=name),
        lambda: segment(4, partition="2026-01-01/01", name=name.replace("data", "data-1")),
        lambda: segment(5, workspace_id=99, name=name),
        lambda: (commit(6), commit(7)),
    )
    followed = new_batches_of([tmp_path], refuse, ALL, clock)
    found = [batch.header.sequence for batch in islice(followed, 6)]
    assert found == [2, 3, 4, 5, 6, 7]
    chain.close()


def test_a_time_range_begins_with_what_is_there(maker: Any, tmp_path: Path) -> None:
    """Only messages that were received in it, of those there and of those that come."""
    start = maker.start_ms
    messages = [maker.message(filler=b"%d" % n) for n in range(4)]
    there = maker.batch(messages, sequence=1, received_at_ms=start, step_ms=1000)
    comes = maker.batch(messages, sequence=2, received_at_ms=start + 500, step_ms=1000)
    maker.segment(tmp_path, [[there]])
    clock = SteppingClock(
        lambda: maker.segment(tmp_path, [[comes]], name="data-1.bin"),
    )
    selection = Selection(start_ms=start + 1500, end_ms=start + 2500)
    followed = new_batches_of([tmp_path], refuse, selection, clock)
    counts = [len(batch.offsets) - 1 for batch in islice(followed, 2)]
    assert counts == [1, 2]


def test_a_folder_that_goes_away_is_no_error(maker: Any, tmp_path: Path) -> None:
    """An hour is removed while it is followed; the rest is still seen."""
    first = maker.segment(tmp_path, [[maker.batch([maker.message()], sequence=1)]])

    def remove() -> None:
        for path in first.parent.iterdir():
            path.unlink()
        first.parent.rmdir()

    late = replace(maker.batch([maker.message()], sequence=2))
    clock = SteppingClock(
        remove,
        lambda: None,
        lambda: maker.segment(tmp_path, [[late]], partition="2026-01-01/05"),
    )
    followed = new_batches_of([tmp_path], refuse, ALL, clock)
    assert next(followed).header.sequence == 2
