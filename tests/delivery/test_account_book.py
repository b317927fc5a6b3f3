"""The book of accounts: it forgets nothing that was told, whenever its process ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.delivery.account_book import RECENT_MAX, AccountBook
from cdp_ray_sinks.delivery.account_files import Accounts, prune, read_accounts
from cdp_ray_sinks.delivery.push import DEAD_LETTERED, DROPPED, DURABLE, SPOOLED, Outcomes
from cdp_ray_sinks.files.landed import Place
from cdp_ray_sinks.testing import RECEIVED_AT_MS, numbered_batch

PRODUCER = b"a-producer's-id!"
HOUR_MS = 3_600_000
HOUR = RECEIVED_AT_MS // HOUR_MS
DAY_MS = 24 * HOUR_MS
BOTH: Outcomes = (("archive", DURABLE), ("other", SPOOLED))


def header(workspace_id: int = 1, hour: int = 0, messages: int = 2) -> BatchHeader:
    at_ms = RECEIVED_AT_MS + hour * HOUR_MS
    made = numbered_batch(0, workspace_id, 40, messages, at_ms).header
    return made._replace(event_count=3 * messages)


class WritingBook(AccountBook):
    """Writes at once what it is told, as when there is nothing to wait for."""

    def take(self, first_sequence: int, headers: Sequence[BatchHeader]) -> None:
        super().take(first_sequence, headers)
        self.write_told()

    def settle(self, settled: Sequence[tuple[int, Outcomes]]) -> None:
        super().settle(settled)
        self.write_told()


def book(directory: Path, epoch: int = 5, **options: int) -> AccountBook:
    return WritingBook(directory, "mine", PRODUCER, epoch, **options)


def batches(accounts: Accounts, sink: str, outcome: str) -> dict[Place, int]:
    return {place: count.batches for place, count in accounts.of(sink, outcome).items()}


def test_what_was_taken_is_open_until_it_is_settled(tmp_path: Path) -> None:
    """Read while the book is being written, by place, with messages and events."""
    mine = book(tmp_path)
    mine.take(0, [header(1), header(1, hour=1), header(7)])
    mine.settle([(0, BOTH), (2, BOTH)])
    accounts = read_accounts(tmp_path)
    assert batches(accounts, "archive", DURABLE) == {Place(1, HOUR): 1, Place(7, HOUR): 1}
    (count,) = {(c.messages, c.events) for c in accounts.of("other", SPOOLED).values()}
    assert count == (2, 6)
    assert list(accounts.open) == [BatchId(PRODUCER, 5, 1)]
    assert sum(count.batches for count in accounts.taken["mine"].values()) == 3
    mine.close()


def test_what_is_taken_is_written_within_a_second_or_so(tmp_path: Path) -> None:
    """Even if it can't go on its way, and nothing else comes."""
    mine = AccountBook(tmp_path, "mine", PRODUCER, 5)
    mine.take(0, [header()] * 3)
    until = time.monotonic() + 20
    while len(read_accounts(tmp_path).open) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    mine.close()


def test_a_closed_book_is_totals_and_what_is_open(tmp_path: Path) -> None:
    """Nothing but totals when all is settled; answers that come late are counted too."""
    mine = book(tmp_path)
    mine.take(0, [header()] * 10)
    mine.settle([(n, BOTH) for n in range(8)])
    mine.close()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".log", ".totals"]
    assert len(read_accounts(tmp_path).open) == 2
    mine.settle([(8, BOTH), (9, BOTH)])
    mine.close()
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".totals"
    assert batches(read_accounts(tmp_path), "archive", DURABLE) == {Place(1, HOUR): 10}


def test_a_book_that_was_told_nothing_leaves_nothing(tmp_path: Path) -> None:
    """No folder, no file."""
    book(tmp_path / "accounts").close()
    assert list(tmp_path.iterdir()) == []
    assert read_accounts(tmp_path / "accounts") == Accounts()


def test_a_torn_tail_costs_only_itself(tmp_path: Path) -> None:
    """Cut at any byte, or with any byte of the last record changed, all before it is there."""
    mine = book(tmp_path / "whole")
    mine.take(0, [header()] * 3)
    mine.settle([(0, BOTH)])
    (path,) = (tmp_path / "whole").iterdir()
    before = path.stat().st_size
    mine.settle([(1, BOTH)])
    data = path.read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for end in range(before, len(data)):
        changed = bytearray(data)
        changed[end] ^= 0x40
        for kept in (data[:end], bytes(changed), data[:end] + bytes(len(data) - end)):
            (torn / path.name).write_bytes(kept)
            accounts = read_accounts(torn)
            assert batches(accounts, "archive", DURABLE) == {Place(1, HOUR): 1}
            assert [each.sequence for each in accounts.open] == [1, 2]
    mine.close()


def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """And the others are read."""
    mine = book(tmp_path)
    mine.take(0, [header()])
    (tmp_path / "something.0-0.totals").write_bytes(b"not accounts")
    accounts = read_accounts(tmp_path)
    assert len(accounts.open) == 1
    assert accounts.damaged == [f"{tmp_path}/something.0-0.totals: not readable"]
    mine.close()


def test_sigkill_forgets_nothing_that_was_told(tmp_path: Path) -> None:
    """A process says what it told the book of, and is killed in the middle of it."""
    program = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_account_book import BOTH, book, header
        mine = book(Path({str(tmp_path)!r}), log_bytes_max=2000)
        mine._wake.set()
        for number in range(1_000_000):
            mine.take(number, [header(1 + number % 3)])
            print("took", number, flush=True)
            if number >= 5:
                mine.settle([(number - 5, BOTH)])
                print("settled", number - 5, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2000)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    said = Counter(line.split()[0] for line in lines if line.endswith("\n"))
    accounts = read_accounts(tmp_path)
    settled = sum(count.batches for count in accounts.of("archive", DURABLE).values())
    assert said["settled"] <= settled <= said["settled"] + 1
    assert said["took"] <= settled + len(accounts.open) <= said["took"] + 1
    assert 1 <= len(list(tmp_path.glob("*.totals"))) <= 2
    assert len(list(tmp_path.glob("*.log"))) <= 2


def test_the_same_epoch_again_counts_nothing_twice(tmp_path: Path) -> None:
    """As a replay that is begun again: ids stay, what was settled stays settled."""
    first = book(tmp_path)
    first.take(0, [header()] * 4)
    first.settle([(0, BOTH), (1, BOTH)])
    first.close()
    again = book(tmp_path)
    again.take(0, [header()] * 6)
    assert len(read_accounts(tmp_path).open) == 4
    again.settle([(n, BOTH) for n in range(6)])
    again.close()
    accounts = read_accounts(tmp_path)
    assert accounts.open == {}
    assert batches(accounts, "archive", DURABLE) == {Place(1, HOUR): 6}


def test_what_is_noted_of_another_book_is_counted_once(tmp_path: Path) -> None:
    """By its id, also by the next process."""
    outcomes: Outcomes = (("archive", DEAD_LETTERED),)
    mine = book(tmp_path)
    made = [header()._replace(sequence=n) for n in range(20)]
    for each in made:
        mine.note(each, outcomes)
    mine.close()
    again = book(tmp_path)
    for each in made:
        again.note(each, outcomes)
    again.note(header()._replace(sequence=20), outcomes)
    assert batches(read_accounts(tmp_path), "archive", DEAD_LETTERED) == {Place(1, HOUR): 21}
    for number in range(21, RECENT_MAX + 100):
        again.note(header()._replace(sequence=number), outcomes)
    assert len(again._part.recent) == RECENT_MAX
    again.close()


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    """A folder that can't be made, then can: no call fails, nothing is left out."""
    place = tmp_path / "accounts"
    place.write_text("in the way")
    mine = book(place)
    mine.take(0, [header()] * 3)
    mine.settle([(0, BOTH)])
    assert mine.problem is not None
    assert "accounts can't be written" in mine.problem
    place.unlink()
    until = time.monotonic() + 20
    while mine.problem is not None:
        assert time.monotonic() < until
        time.sleep(0.05)
    mine.settle([(1, BOTH)])
    accounts = read_accounts(place)
    assert batches(accounts, "archive", DURABLE) == {Place(1, HOUR): 2}
    assert len(accounts.open) == 1
    mine.close()


def test_a_log_that_can_not_go_on_is_replaced(tmp_path: Path) -> None:
    """The descriptor fails in the middle: the next log has all of what was told."""
    mine = book(tmp_path)
    mine.take(0, [header()] * 3)
    fd = mine._fd
    read_only = os.open(mine._path or tmp_path, os.O_RDONLY)
    os.dup2(read_only, fd)
    os.close(read_only)
    mine.settle([(0, BOTH)])
    assert mine.problem is not None
    mine.settle([(1, BOTH)])
    mine.close()
    accounts = read_accounts(tmp_path)
    assert batches(accounts, "archive", DURABLE) == {Place(1, HOUR): 2}
    assert [each.sequence for each in accounts.open] == [2]


def test_old_files_go_and_that_is_noted(tmp_path: Path) -> None:
    """Not those that somebody writes; what is older than the oldest kept can't be audited."""
    now_ms = RECEIVED_AT_MS
    old, live = book(tmp_path, 1), book(tmp_path, 2)
    for each in (old, live):
        each.take(0, [header()])
    old.settle([(0, BOTH)])
    old.close()
    for path in tmp_path.iterdir():
        os.utime(path, times=(0, now_ms / 1000 - 91 * 86400))
    prune(tmp_path, 90, now_ms)
    accounts = read_accounts(tmp_path)
    assert accounts.epochs == {(PRODUCER, 2)}
    assert accounts.kept_from_hour == (now_ms - 90 * DAY_MS) // HOUR_MS + 1
    live.close()
    prune(tmp_path / "nothing", 90, now_ms)


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["take", "settle", "close", "reopen", "wake"]), max_size=60),
)
def test_whatever_happens_the_sums_are_right(seed: int, steps: list[str]) -> None:
    """Random batches, outcomes and lives of the book against a plain model."""
    import tempfile

    rng = random.Random(seed)
    outcomes = [
        (("a", one), ("b", other))
        for one in (DURABLE, DROPPED)
        for other in (DURABLE, SPOOLED, DEAD_LETTERED)
    ]
    expected: Counter[tuple[str, str, int, int]] = Counter()
    opened: dict[int, BatchHeader] = {}
    with tempfile.TemporaryDirectory() as name:
        directory, next_sequence = Path(name), 0
        mine = book(directory, log_bytes_max=rng.choice([300, 10_000]))
        for step in [*steps, "close"]:
            if step == "take":
                made = [header(rng.randrange(1, 4), rng.randrange(3)) for _ in range(5)]
                mine.take(next_sequence, made)
                opened.update(enumerate(made, next_sequence))
                next_sequence += len(made)
            elif step == "settle":
                chosen = rng.sample(sorted(opened), min(len(opened), 4))
                settled = [(sequence, rng.choice(outcomes)) for sequence in chosen]
                mine.settle(settled)
                for sequence, words in settled:
                    each = opened.pop(sequence)
                    for sink, outcome in words:
                        place = Place(each.workspace_id, each.received_at_ms // HOUR_MS)
                        expected[(sink, outcome, *place)] += each.event_count
            elif step == "wake":
                mine._wake.set()
            else:
                mine.close()
                if step == "reopen":
                    mine = book(directory, log_bytes_max=300)
        accounts = read_accounts(directory)
        found = {
            (sink, outcome, *place): count.events
            for sink, by_outcome in accounts.settled.items()
            for outcome, counts in by_outcome.items()
            for place, count in counts.items()
        }
        assert found == dict(expected)
        assert sorted(each.sequence for each in accounts.open) == sorted(opened)
        assert accounts.damaged == []


def test_totals_of_many_parts_stay_few_files(tmp_path: Path) -> None:
    """Each part's totals go into the file of those before them."""
    mine = book(tmp_path, log_bytes_max=500)
    for number in range(300):
        mine.take(number, [header()])
        mine.settle([(number, BOTH)])
        if number % 50 == 49:
            until = time.monotonic() + 10
            while mine._end > 500 and time.monotonic() < until:
                time.sleep(0.01)
    mine.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert batches(read_accounts(tmp_path), "archive", DURABLE) == {Place(1, HOUR): 300}
