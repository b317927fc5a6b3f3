"""One writer per workspace, on one host and on a shared file system."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import FencedError, TransientError
from cdp_ray_sinks.files.fence import Fence, epochs_in


def fence_of(directory: Path, clock: Any = None, **options: Any) -> Fence:
    return Fence(directory, clock or SystemClock(), **options)


def test_a_second_writer_on_the_host_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    """The error says which directory and which process; after `give_up` the way is free."""
    first, second = fence_of(tmp_path), fence_of(tmp_path)
    assert first.take() == 1
    with pytest.raises(
        TransientError, match=rf"{tmp_path}/\.lane is held by process {os.getpid()}"
    ):
        second.take()
    first.check()
    first.give_up()
    first.give_up()
    assert second.take() == 2
    second.give_up()


def test_each_writer_has_an_epoch_of_its_own_and_two_are_kept(tmp_path: Path) -> None:
    """Epochs rise by one; older files than the last two go."""
    for epoch in range(1, 6):
        fence = fence_of(tmp_path)
        assert fence.take() == epoch
        fence.give_up()
    assert sorted(epochs_in(tmp_path / ".lane")) == [4, 5]


@pytest.mark.parametrize("successor_count", [1, 2, 3, 7])
def test_a_writer_learns_of_any_number_of_successors(tmp_path: Path, successor_count: int) -> None:
    """Also when the file of the first successor has been removed by the third."""
    first = fence_of(tmp_path, shared=True)
    first.take()
    first.check()
    for _ in range(successor_count):
        last = fence_of(tmp_path, shared=True)
        last.take()
    with pytest.raises(FencedError, match="epoch 1 has a successor"):
        first.check()
    last.check()


def test_the_lease_counts_only_on_a_shared_file_system(bench: Any) -> None:
    """Holding the host's lock proves the last writer gone; else its lease must run out."""
    local = fence_of(bench.base / "a", bench.clock, lease_s=30)
    local.take()
    assert local.lease_is_over()
    local.give_up()
    shared = fence_of(bench.base / "b", bench.clock, shared=True, lease_s=30)
    shared.take()
    bench.clock.turn(29_999)
    assert not shared.lease_is_over()
    bench.clock.turn(1)
    assert shared.lease_is_over()


def test_names_that_are_no_epochs_are_ignored(tmp_path: Path) -> None:
    """A stray file does not stop a writer."""
    (tmp_path / ".lane").mkdir()
    for name in ("epoch-", "epoch-x", "epoch-7"):
        (tmp_path / ".lane" / name).write_bytes(b"")
    fence = fence_of(tmp_path)
    assert fence.take() == 8
    fence.give_up()


def test_a_directory_that_can_not_be_made_is_an_error_that_may_heal(tmp_path: Path) -> None:
    """The error names the directory."""
    (tmp_path / "7").write_bytes(b"a file")
    with pytest.raises(TransientError, match=r"can't take .*7/\.lane"):
        fence_of(tmp_path / "7").take()


def test_only_who_found_nothing_at_all_is_the_first(tmp_path: Path) -> None:
    """Then there is nothing to recover; a directory that was there may hold anything."""
    first = fence_of(tmp_path / "1")
    first.take()
    assert first.is_first
    first.give_up()
    second = fence_of(tmp_path / "1")
    second.take()
    assert not second.is_first
    (tmp_path / "2").mkdir()
    restored = fence_of(tmp_path / "2")
    restored.take()
    assert not restored.is_first
    assert second.epoch == 2
    second.give_up()
    restored.give_up()


def test_writers_that_race_for_a_new_workspace_have_epochs_of_their_own(tmp_path: Path) -> None:
    """On a shared file system, where nothing locks: one is the first, and only the last stays."""
    fences = [fence_of(tmp_path / "1", shared=True) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        epochs = list(threads.map(Fence.take, fences))
    assert [fence.is_first for fence in fences].count(True) <= 1
    for fence in fences:
        with nullcontext() if fence.epoch == max(epochs) else pytest.raises(FencedError):
            fence.check()


def test_who_looked_long_ago_takes_no_number_that_was_had(tmp_path: Path) -> None:
    """Between its look and its file others came and went, and their first files are removed."""
    late = fence_of(tmp_path, shared=True)
    for _ in range(4):
        last = fence_of(tmp_path, shared=True)
        last.take()
    late._make_epoch(is_new=True)
    assert (late.epoch, late.is_first) == (5, False)
    late.check()
    with pytest.raises(FencedError):
        last.check()
