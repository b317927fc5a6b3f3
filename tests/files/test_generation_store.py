"""The state directory: whatever moment it all ends at, the next process knows what was sent."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.files import generation_store
from cdp_ray_sinks.files.commit_index import entries_of
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.files.generation_file import (
    WHOLE_MESSAGE,
    Block,
    BlockState,
    Generation,
    Refusal,
)
from cdp_ray_sinks.files.generation_store import GenerationStore
from cdp_ray_sinks.files.landed import Count
from cdp_ray_sinks.testing import FakeClock

PRODUCER = bytes(range(16))
FILES = ["identity", "landed", "ledger", "lock"]


class EndError(Exception):
    """The process is over."""


class EndingDisk(LocalFileSystem):
    """Ends the process at the call of that number, before or after it is done."""

    def __init__(self, last_call: int = 1 << 60, *, is_done: bool = False) -> None:
        self.calls = 0
        self._last_call = last_call
        self._is_done = is_done

    def _call(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls < self._last_call:
            return call()
        if self.calls == self._last_call and self._is_done:
            call()
        raise EndError

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        written: int = self._call(lambda: super(EndingDisk, self).write_at(fd, buffers, offset))
        return written

    def append(self, fd: int, data: memoryview) -> int:
        written: int = self._call(lambda: super(EndingDisk, self).append(fd, data))
        return written

    def sync(self, fd: int) -> None:
        self._call(lambda: super(EndingDisk, self).sync(fd))

    def sync_directory(self, directory: Path) -> None:
        self._call(lambda: super(EndingDisk, self).sync_directory(directory))


class FailingDisk(LocalFileSystem):
    """Fails the calls for which it is told to."""

    failing: str = ""

    def append(self, fd: int, data: memoryview) -> int:
        if self.failing == "append":
            os.write(fd, data[:3])
            raise OSError(errno.ENOSPC, "no space left")
        return super().append(fd, data)

    def sync(self, fd: int) -> None:
        if self.failing == "sync":
            raise OSError(errno.EIO, "the disk is broken")
        super().sync(fd)


def block_of(generation: Generation, rows: int, first: int = 0, table: str = "events_v1") -> Block:
    """A block of rows of the generation's first batch, a message each."""
    number = generation.new_number()
    places = np.arange(first, first + rows, dtype=np.uint32)
    payload = random.Random(number).randbytes(50 * rows)
    return Block(
        number, table, f"token-{generation.number}-{number}", np.zeros(rows, np.uint32), places,
        places * 2, payload,
    )  # fmt: skip


def generation_of(number: int, sequences: Sequence[int], blocks: int = 3) -> Generation:
    """A generation of those batches, with blocks of ten rows."""
    headers = [
        BatchHeader(PRODUCER, 1, s, 1, 2, 1, "test", 0, 30, 30, 1000, 7000 + s) for s in sequences
    ]
    made = Generation(number, entries_of(headers, [0] * len(headers)))
    made.entries["reserved"] = 3  # the workspace
    made.blocks = [block_of(made, 10, 10 * place) for place in range(blocks)]
    return made


def as_plain(generation: Generation) -> list[tuple[Any, ...]]:
    """What of the blocks must come back."""
    return [
        (b.number, b.table, b.token, b.state, bytes(b.payload), b.messages.tolist())
        for b in generation.blocks
    ]


def opened(folder: Path, disk: LocalFileSystem | None = None) -> tuple[GenerationStore, Any]:
    store = GenerationStore(folder, FakeClock(), disk)
    return store, store.open()


def has(store: GenerationStore, sequence: int) -> bool:
    return store.ledger.has(PRODUCER, 1, sequence, 7000 + sequence)


def test_an_unfinished_generation_comes_back_with_the_same_bytes(tmp_path: Path) -> None:
    """Payloads, tokens and where each row comes from; all of it may have been sent."""
    store, found = opened(tmp_path)
    assert found == []
    made = generation_of(store.next_number(), [4, 5])
    made.refusals.append(Refusal(1, 2, WHOLE_MESSAGE, "does not decode"))
    store.add(made)
    store.close()
    again, (back,) = opened(tmp_path)
    assert as_plain(back) == as_plain(made)
    assert back.refusals == made.refusals
    assert back.batch_ids() == [BatchId(PRODUCER, 1, 4), BatchId(PRODUCER, 1, 5)]
    assert all(block.is_unsure for block in back.blocks)
    assert not has(again, 4)
    assert again.next_number() > back.number
    assert again.identity == store.identity != b""
    again.close()


def test_a_finished_generation_is_in_the_ledger_and_gone(tmp_path: Path) -> None:
    """Its batches count as had, also for the next process, and its file is removed."""
    store, _ = opened(tmp_path)
    made = generation_of(store.next_number(), [4, 5])
    store.add(made)
    for block in made.blocks:
        store.note_landed(made, block)
    assert made.open_blocks == []
    store.finish([made])
    assert has(store, 4)
    store.close()
    again, found = opened(tmp_path)
    assert found == []
    assert has(again, 5)
    assert not has(again, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    again.close()


def test_blocks_that_were_split_and_refused_come_back_so(tmp_path: Path) -> None:
    """Parts stand in the block's place; the rows of a refused one are named, entry by entry."""
    store, _ = opened(tmp_path)
    made = generation_of(store.next_number(), [4])
    store.add(made)
    store.note_landed(made, made.blocks[0])
    parts = [block_of(made, 5, 10), block_of(made, 5, 15)]
    store.note_split(made, made.blocks[1], parts)
    store.note_refused(made, parts[0], "too long")
    store.close()
    _, (back,) = opened(tmp_path)
    assert [b.number for b in back.blocks] == [0, 3, 4, 2]
    assert [b.state for b in back.blocks] == [
        BlockState.LANDED, BlockState.REFUSED, BlockState.OPEN, BlockState.OPEN,
    ]  # fmt: skip
    assert back.refusals == [Refusal(0, m, 2 * m, "too long") for m in range(10, 15)]
    assert back.new_number() == 5


Check = Callable[[GenerationStore, dict[int, Generation]], None]


def play(store: GenerationStore, holds: list[Check]) -> None:
    """A life of a store, step by step; what must hold from then on is noted after each step."""
    note = holds.append
    store.open()
    first = generation_of(store.next_number(), [1, 2])
    store.add(first)
    tokens = {block.token for block in first.blocks}
    note(lambda again, found: _is_there(again, found, first.number, 1, tokens))
    store.note_landed(first, first.blocks[0])
    parts = [block_of(first, 5, 10), block_of(first, 5, 15)]
    old = first.blocks[1].token
    store.note_split(first, first.blocks[1], parts)
    note(lambda again, found: _was_split(again, found, first.number, old, parts))
    store.note_refused(first, parts[0], "never")
    note(lambda again, found: _was_refused(again, found, first.number))
    for block in first.open_blocks:
        store.note_landed(first, block)
    second = generation_of(store.next_number(), [3])
    store.add(second)
    store.finish([first])
    note(lambda again, found: _is_finished(again, found, first.number, [1, 2]))
    store.finish([second], refusals_are_kept=False)
    third = generation_of(store.next_number(), [7])
    store.add(third)
    store.note_refused(third, third.blocks[0], "never")
    store.finish([third], refusals_are_kept=False)
    note(lambda again, found: _is_remembered(again, found, third.number))
    store._write_snapshot()
    note(lambda again, found: _is_finished(again, found, second.number, [3]))


def _is_there(again: Any, found: Any, number: int, sequence: int, tokens: set[str]) -> None:
    assert number in found or has(again, sequence)
    if number in found and found[number].blocks[0].state is BlockState.OPEN:
        assert {block.token for block in found[number].blocks} & tokens


def _was_split(again: Any, found: Any, number: int, old: str, parts: list[Block]) -> None:
    if number in found:
        tokens = [block.token for block in found[number].blocks]
        assert old not in tokens
        assert {part.token for part in parts} <= set(tokens)


def _was_refused(again: Any, found: Any, number: int) -> None:
    if number in found:
        assert len(found[number].refusals) == 5


def _is_finished(again: Any, found: Any, number: int, sequences: Sequence[int]) -> None:
    assert number not in found
    assert all(has(again, sequence) for sequence in sequences)


def _is_remembered(again: Any, found: Any, number: int) -> None:
    assert number not in found
    assert not has(again, 7)
    refused = again.refused[BatchId(PRODUCER, 1, 7)]
    assert refused[0] == (0, 0, "never")
    assert len(refused) == 10


def test_the_end_may_come_at_any_call(tmp_path: Path) -> None:
    """What was promised before each system call, and after it, holds for the next process."""
    disk = EndingDisk()
    whole = GenerationStore(tmp_path / "whole", FakeClock(), disk)
    everything: list[Check] = []
    play(whole, everything)
    assert len(everything) == 6
    whole.close()
    assert disk.calls > 40
    for last in range(1, disk.calls + 1):
        for is_done in (False, True):
            folder = tmp_path / f"{last}-{is_done}"
            store = GenerationStore(folder, FakeClock(), EndingDisk(last, is_done=is_done))
            holds: list[Check] = []
            with pytest.raises(EndError):
                play(store, holds)
            store.close()  # as the end of a process does with its files
            again, found = opened(folder)
            for check in holds:
                check(again, {generation.number: generation for generation in found})
            for generation in found:
                again.finish([generation])
            again.close()
            last_one, rest = opened(folder)
            assert rest == []
            counted = sum(count.batches for count in last_one.landed.known.places.values())
            assert counted == sum(has(last_one, sequence) for sequence in (1, 2, 3, 7))
            last_one.close()


def test_an_append_may_be_torn_at_any_byte(tmp_path: Path) -> None:
    """A record that is not whole does not count, and the next one begins where it began."""
    store, _ = opened(tmp_path / "a")
    made = generation_of(store.next_number(), [1], blocks=1)
    store.add(made)
    before = (tmp_path / "a" / "generation-1").stat().st_size
    parts = [block_of(made, 5), block_of(made, 5, 5)]
    store.note_split(made, made.blocks[0], parts)
    store.close()
    data = (tmp_path / "a" / "generation-1").read_bytes()
    for end in range(before, len(data)):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        (tmp_path / "b" / "generation-1").write_bytes(data[:end])
        again, (back,) = opened(tmp_path / "b")
        assert [b.number for b in back.blocks] == [0]
        again.note_landed(back, back.blocks[0])
        again.close()
        last, (back,) = opened(tmp_path / "b")
        assert back.open_blocks == []
        last.close()


def test_a_damaged_generation_is_no_reason_to_guess(tmp_path: Path) -> None:
    """Nobody can tell what was sent: refuse to start, and say which file it is."""
    store, _ = opened(tmp_path)
    store.add(generation_of(store.next_number(), [1]))
    store.close()
    path = tmp_path / "generation-1"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"generation-1.*checksum.*may land twice"):
        opened(tmp_path)
    path.unlink()
    again, found = opened(tmp_path)  # the lock was let go
    assert found == []
    again.close()


def test_two_processes_can_not_have_it(tmp_path: Path) -> None:
    """The second is told who has it."""
    store, _ = opened(tmp_path)
    with pytest.raises(TransientError, match=f"held by process {os.getpid()}"):
        opened(tmp_path)
    store.close()
    again, _ = opened(tmp_path)
    again.close()


@pytest.mark.parametrize("failing", ["append", "sync"])
def test_a_disk_that_fails_and_heals_loses_nothing(tmp_path: Path, failing: str) -> None:
    """What could not be noted is noted again, in a new file: nobody trusts the old one."""
    disk = FailingDisk()
    store, _ = opened(tmp_path, disk)
    made = generation_of(store.next_number(), [1, 2])
    store.add(made)
    store.note_landed(made, made.blocks[0])
    disk.failing = failing
    with pytest.raises(TransientError, match=r"generation-1: E(NOSPC|IO)"):
        store.note_refused(made, made.blocks[1], "never")
    disk.failing = ""
    assert made.blocks[1].state is BlockState.OPEN
    store.note_refused(made, made.blocks[1], "never")
    store.close()
    again, (back,) = opened(tmp_path)
    assert [b.state for b in back.blocks] == [
        BlockState.LANDED, BlockState.REFUSED, BlockState.OPEN,
    ]  # fmt: skip
    assert len(back.refusals) == 10
    again.finish([back])
    again.close()
    last, found = opened(tmp_path)
    assert found == []
    assert has(last, 2)
    last.close()


def test_a_ledger_that_could_not_be_synced_goes_on_in_a_new_file(tmp_path: Path) -> None:
    """All that was noted before is in it."""
    disk = FailingDisk()
    store, _ = opened(tmp_path, disk)
    for sequence in range(3):
        made = generation_of(store.next_number(), [sequence], blocks=0)
        if sequence == 1:
            disk.failing = "sync"
            with pytest.raises(TransientError, match="ledger: EIO"):
                store.finish([made])
            disk.failing = ""
        store.finish([made])
    store.close()
    again, _ = opened(tmp_path)
    assert all(has(again, sequence) for sequence in range(3))
    again.close()


def test_a_long_ledger_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the producers no longer ask for is left out."""
    monkeypatch.setattr(generation_store, "LEDGER_BYTES_MAX", 2000)
    store, _ = opened(tmp_path)
    for sequence in range(200):
        store.ledger.raise_low(PRODUCER, 1, sequence - 5)
        store.finish([generation_of(store.next_number(), [sequence], blocks=0)])
        assert (tmp_path / "ledger").stat().st_size < 3000
    store.close()
    again, _ = opened(tmp_path)
    assert all(has(again, sequence) for sequence in range(200))
    assert not has(again, 200)
    assert again.next_number() == 201
    assert again.landed.known.places == {(3, 0): Count(200, 6000, 6000)}
    assert len(again.landed.known.numbers) < 50
    again.close()


def test_what_was_refused_is_remembered_until_the_batch_comes_again(tmp_path: Path) -> None:
    """Then the batch is had, and the file of it gone."""
    store, _ = opened(tmp_path)
    made = generation_of(store.next_number(), [1, 2], blocks=0)
    made.refusals.append(Refusal(1, 3, 9, "never"))
    store.add(made)
    store.finish([made], refusals_are_kept=False)
    assert has(store, 1)
    assert not has(store, 2)
    store.close()
    again, _ = opened(tmp_path)
    assert again.refused == {BatchId(PRODUCER, 1, 2): [(3, 9, "never")]}
    again.finish([generation_of(again.next_number(), [2], blocks=0)])
    assert again.refused == {}
    assert not list(tmp_path.glob("refused-*"))
    again.close()


def test_a_finished_file_is_written_over(tmp_path: Path) -> None:
    """A shorter generation in a longer one's file is only itself, and nothing is left behind."""
    store, _ = opened(tmp_path)
    large = generation_of(store.next_number(), [1], blocks=20)
    store.add(large)
    inode = (tmp_path / "generation-1").stat().st_ino
    store.finish([large])
    assert [path.name for path in tmp_path.glob("*.new")] == ["spare-1.new"]
    small = generation_of(store.next_number(), [2], blocks=1)
    store.add(small)
    assert (tmp_path / "generation-2").stat().st_ino == inode
    store.note_landed(small, small.blocks[0])
    third = generation_of(store.next_number(), [3], blocks=20)
    store.add(third)
    store.finish([third])
    store._lock_fd, held = -1, store._lock_fd  # as if the process ended: nothing is cleaned up
    os.close(held)
    again, (back,) = opened(tmp_path)
    assert as_plain(back) == as_plain(small)
    assert not list(tmp_path.glob("*.new"))
    again.finish([back])
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
