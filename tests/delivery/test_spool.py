"""A spool gives back what it took, in order, across restarts, and says what it let go of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.delivery import spool as spool_module
from cdp_ray_sinks.delivery.spool import Spool, SpoolOptions, WhenFull
from cdp_ray_sinks.delivery.spool_segment import SpooledBatch
from cdp_ray_sinks.errors import DroppedError, TransientError
from cdp_ray_sinks.files.chain import Chain
from cdp_ray_sinks.testing import RECEIVED_AT_MS, FakeClock, numbered_batch

RECORD_BYTES = 10_000
Opener = Callable[..., Spool]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens the spool of one folder, again and again."""

    def make(
        clock: FakeClock | None = None, folder: str = "spool", **options: int | WhenFull
    ) -> Spool:
        spool = Spool(
            tmp_path / folder, "sink", SpoolOptions(**options),  # type: ignore[arg-type]
            clock or FakeClock(RECEIVED_AT_MS),
        )  # fmt: skip
        spool.open()
        return spool

    return make


def batch_of(number: int, workspace_id: int = 1) -> Batch:
    return numbered_batch(number, workspace_id, RECORD_BYTES)


def fill(spool: Spool, *batches: Batch) -> None:
    for batch in batches:
        spool.write(batch)
    spool.flush()


def take_all(spool: Spool) -> list[SpooledBatch]:
    found = []
    while taken := spool.take(3, 1 << 30):
        found += taken
    return found


def ids(items: list[SpooledBatch]) -> list[tuple[int, int]]:
    return [(i.batch.header.workspace_id, i.batch.header.sequence) for i in items]


def test_a_spool_that_is_closed_with_all_settled_leaves_no_data(
    opened: Opener, tmp_path: Path
) -> None:
    """It says that it is empty, and the next life begins with nothing."""
    spool = opened()
    fill(spool, *(batch_of(n, 1 + n % 2) for n in range(6)))
    for item in take_all(spool):
        spool.settled(item)
    spool.close()
    assert spool.state().is_empty
    assert spool.state().held_bytes == 0
    assert not list((tmp_path / "spool").rglob("*.bin"))
    again = opened()
    assert again.state().is_empty
    assert take_all(again) == []
    again.close()


def test_what_was_written_is_taken_in_order_under_its_ids(opened: Opener) -> None:
    """Bytes, ids and checksums are those that came; nothing is handed out twice."""
    spool = opened()
    batches = [batch_of(n) for n in range(10)]
    fill(spool, *batches[:6])
    first = take_all(spool)
    fill(spool, *batches[6:])
    items = first + take_all(spool)
    assert [i.batch.header.batch_id for i in items] == [b.header.batch_id for b in batches]
    for item, batch in zip(items, batches, strict=True):
        assert bytes(item.batch.records) == bytes(batch.records)
        assert item.batch.header.checksum == batch.header.checksum
    assert take_all(spool) == []


def test_a_commit_that_fills_one_segment_and_begins_the_next_is_taken_in_order(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an emptier that looks just when the next is made, and then when both are written."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 3 * RECORD_BYTES + 1000)
    spool, found = opened(), list[SpooledBatch]()

    def before(step: str, look: Callable[[], list[SpooledBatch]]) -> None:
        plain = getattr(Chain, step)

        def stepped(chain: Chain, *given: Any) -> Any:
            found.extend(look())
            return plain(chain, *given)

        monkeypatch.setattr(Chain, step, stepped)

    fill(spool, batch_of(0), batch_of(1))
    before("write_pending", lambda: spool.take(1, 1 << 30))
    before("confirm", lambda: spool.take(10, 1 << 30))
    fill(spool, batch_of(2), batch_of(3), batch_of(4))
    found += take_all(spool)
    assert ids(found) == [(1, n) for n in range(5)]


def test_what_is_not_flushed_is_not_taken(opened: Opener) -> None:
    """Only what is durable goes on."""
    spool = opened()
    spool.write(batch_of(0))
    assert spool.take(10, 1 << 30) == []
    assert not spool.state().is_empty


def test_workspaces_take_turns(opened: Opener) -> None:
    """One with much behind it does not keep another waiting."""
    spool = opened()
    fill(spool, *(batch_of(n, 1) for n in range(5)), *(batch_of(n, 2) for n in range(2)))
    assert ids(spool.take(4, 1 << 30)) == [(1, 0), (2, 0), (1, 1), (2, 1)]


def test_take_keeps_to_its_bytes(opened: Opener) -> None:
    """One at least, and no more once the bytes are reached."""
    spool = opened()
    fill(spool, *(batch_of(n) for n in range(5)))
    assert len(spool.take(10, 1)) == 1
    assert len(spool.take(10, 2 * RECORD_BYTES)) == 2


def test_it_is_empty_once_all_is_settled_and_its_files_go(opened: Opener, tmp_path: Path) -> None:
    """Not when all is handed out: who took it may yet die."""
    clock = FakeClock(RECEIVED_AT_MS)
    spool = opened(clock)
    fill(spool, *(batch_of(n) for n in range(3)))
    items = take_all(spool)
    assert (spool.state().is_empty, spool.state().batches) == (False, 3)
    for item in items:
        spool.settled(item)
    assert (spool.state().is_empty, spool.state().delivered_batches) == (True, 3)
    spool.close()
    assert (spool.state().is_empty, spool.state().held_bytes) == (True, 0)
    again = opened(clock)
    assert take_all(again) == []
    assert list(tmp_path.rglob("data*")) == []
    assert again.state().held_bytes == 0


def test_a_restart_begins_behind_what_was_settled(opened: Opener, tmp_path: Path) -> None:
    """What was handed out and not settled comes again, the settled before it does not."""
    clock = FakeClock(RECEIVED_AT_MS)
    spool = opened(clock)
    fill(spool, *(batch_of(n) for n in range(6)))
    items = take_all(spool)
    for place in (0, 1, 3):
        spool.settled(items[place])
    spool.tick(clock.now_ms())
    # As a killed process leaves it: nothing closed.
    shutil.copytree(tmp_path / "spool", tmp_path / "left")
    again = opened(clock, "left")
    assert again.state().batches == 4
    assert ids(take_all(again)) == [(1, 2), (1, 3), (1, 4), (1, 5)]


def test_damage_costs_only_its_own_batch(opened: Opener, tmp_path: Path) -> None:
    """The rest is handed out, the loss is named, and the spool gets empty all the same."""
    spool = opened()
    for number in range(4):
        fill(spool, batch_of(number))
    spool.close()
    (path,) = tmp_path.rglob("data.bin")
    content = bytearray(path.read_bytes())
    content[RECORD_BYTES + 100] ^= 1
    path.write_bytes(bytes(content))
    again = opened()
    items = take_all(again)
    assert ids(items) == [(1, 0), (1, 2), (1, 3)]
    for item in items:
        again.settled(item)
    assert again.state().is_empty
    assert any("data.bin" in text for text in again.state().damaged)


def test_a_full_spool_that_blocks_keeps_what_it_has(opened: Opener) -> None:
    """It takes more as soon as something has left."""
    spool = opened(bytes_max=3 * RECORD_BYTES)
    fill(spool, batch_of(0), batch_of(1), batch_of(2))
    with pytest.raises(TransientError, match="'sink' is full"):
        spool.write(batch_of(3))
    assert ids(take_all(spool)) == [(1, 0), (1, 1), (1, 2)]


def test_a_full_spool_that_drops_the_newest_counts_it(opened: Opener) -> None:
    """What is in it stays."""
    spool = opened(bytes_max=2 * RECORD_BYTES, when_full="drop_newest")
    fill(spool, batch_of(0), batch_of(1))
    with pytest.raises(DroppedError):
        spool.write(batch_of(2))
    assert spool.state().dropped_batches == 1
    assert ids(take_all(spool)) == [(1, 0), (1, 1)]


def test_a_full_spool_that_drops_the_oldest_counts_it(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whole segments; handed out ones may still be settled by those who have them."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 2 * RECORD_BYTES)
    spool = opened(bytes_max=4 * RECORD_BYTES, when_full="drop_oldest")
    for number in range(4):
        fill(spool, batch_of(number))
    (held,) = spool.take(1, 1)
    fill(spool, batch_of(4))
    state = spool.state()
    assert (state.dropped_batches, state.batches) == (2, 3)
    spool.settled(held)
    assert ids(take_all(spool)) == [(1, 2), (1, 3), (1, 4)]


def test_what_is_too_old_is_dropped_and_counted(opened: Opener) -> None:
    """By the age of its segment."""
    clock = FakeClock(RECEIVED_AT_MS)
    spool = opened(clock, age_h_max=1)
    fill(spool, batch_of(0))
    spool.close()
    clock.sleep_ms(3_600_001)
    again = opened(clock, age_h_max=1)
    assert not again.state().is_empty
    again.tick(clock.now_ms())
    assert (again.state().is_empty, again.state().dropped_batches) == (True, 1)


def test_many_segments_are_emptied_in_their_order(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where later ones have names that earlier ones had."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 2 * RECORD_BYTES)
    clock = FakeClock(RECEIVED_AT_MS)
    spool = opened(clock)
    seen: list[SpooledBatch] = []
    for number in range(12):
        fill(spool, batch_of(number))
        spool.tick(clock.now_ms())
        if number % 5 == 4:
            for item in take_all(spool):
                spool.settled(item)
                seen.append(item)
        if number == 6:
            spool.close()
            spool = opened(clock)
    seen += take_all(spool)
    assert [sequence for _, sequence in ids(seen)] == list(range(12))
