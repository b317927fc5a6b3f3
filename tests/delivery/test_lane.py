"""What a lane promises about order, duplicates, retries and answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.lane import ANSWER_WAIT_S, Lane
from cdp_ray_sinks.delivery.lane_items import RefusedEntry
from cdp_ray_sinks.delivery.push import DEAD_LETTERED, DURABLE, PENDING, REFUSED
from cdp_ray_sinks.errors import (
    FencedError,
    PartialFlushError,
    PartialWriteError,
    RefusedMessagesError,
    SequenceGapError,
    SinkError,
    TerminalError,
    TransientError,
)

PRODUCER = b"p" * 16


def make_batch(sequence: int, workspace_id: int = 1, checksum: int | None = None) -> Batch:
    records = np.full(10, sequence % 256, np.uint8)
    header = BatchHeader(
        PRODUCER, 1, sequence, 1, 2, workspace_id, "test", 0, 1, 1, 10,
        sequence if checksum is None else checksum,
    )  # fmt: skip
    return Batch(header, records, np.array([0, 10], np.uint64))


class ListSink:
    """Keeps what it is given; `fail_write` and `fail_flush` raise as they please."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.durable: list[tuple[int, int]] = []
        self.flushes = 0
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.wants_ms = 0
        self.fail_write: Callable[[Batch], None] = lambda batch: None
        self.fail_flush: Callable[[int], None] = lambda flushes: None

    def open(self) -> None:
        pass

    def write(self, batch: Batch) -> None:
        self.fail_write(batch)
        self.written.append((batch.header.workspace_id, batch.header.sequence))

    def flush(self) -> None:
        self.gate.wait(10)
        self.flushes += 1
        try:
            self.fail_flush(self.flushes)
        except PartialFlushError as error:
            failed = {workspace for workspace, _ in error.failures}
            self.durable += [w for w in self.written if w[0] not in failed]
            self.written = [w for w in self.written if w[0] in failed]
            raise
        self.durable += self.written
        self.written = []

    def due_in_ms(self, now_ms: int) -> int:
        return self.wants_ms

    def tick(self, now_ms: int) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


class ListDeadLetters:
    """Keeps what is buried."""

    def __init__(self) -> None:
        self.buried: list[tuple[int, tuple[int, ...] | None, str]] = []
        self.entries: list[tuple[int, list[RefusedEntry]]] = []

    def put(self, batch: Batch, failed: tuple[int, ...] | None, error: SinkError) -> None:
        self.buried.append((batch.header.sequence, failed, str(error)))

    def put_entries(self, batch: Batch, refusals: Sequence[RefusedEntry]) -> None:
        self.entries.append((batch.header.sequence, list(refusals)))

    def close(self) -> None:
        pass


class Bench:
    """A started lane over a ListSink, and a push counter."""

    def __init__(self) -> None:
        self.sink = ListSink()
        self.dead_letters = ListDeadLetters()
        self.lane = Lane(
            self.sink, SystemClock(), self.dead_letters, lambda: 0.5, by_workspace=True,
            backoff=Backoff(1, 5),
        )  # fmt: skip
        self.lane.start()
        self.lane.hello("r", 1)
        self.number = 0

    def push(self, *batches: Batch, low: int = 0) -> list[str]:
        self.number += 1
        return self.lane.push("r", 1, self.number, [(PRODUCER, 1, low)], batches)


@pytest.fixture
def bench():  # type: ignore[no-untyped-def]
    made = Bench()
    yield made
    made.sink.gate.set()
    made.lane.close(5_000)


def test_push_answers_durable_after_the_flush(bench: Bench) -> None:
    """An answer means that the sink's flush returned."""
    assert bench.push(make_batch(0), make_batch(1)) == [DURABLE, DURABLE]
    assert bench.sink.durable == [(1, 0), (1, 1)]


def test_what_queues_up_during_a_flush_is_one_commit(bench: Bench) -> None:
    """Group commit: five pushes that wait share the next flush."""
    bench.sink.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        push = bench.lane.push
        answers = [threads.submit(push, "r", 1, 1, [], [make_batch(1)])]
        while not bench.sink.written:
            pass
        answers += [
            threads.submit(push, "r", 1, number, [], [make_batch(number)]) for number in range(2, 7)
        ]
        while bench.lane.queued_bytes() < 60:
            pass
        bench.sink.gate.set()
        assert [a.result(60) for a in answers] == [[DURABLE]] * 6
    assert bench.sink.flushes == 2
    assert bench.sink.durable == [(1, n) for n in range(1, 7)]


def test_a_resent_batch_is_acknowledged_and_not_written_again(bench: Bench) -> None:
    """The ledger answers for what is durable."""
    bench.push(make_batch(3))
    assert bench.push(make_batch(3)) == [DURABLE]
    assert bench.sink.durable == [(1, 3)]
    assert bench.lane.snapshot().duplicates == 1


def test_the_same_batch_twice_in_one_push_is_written_once(bench: Bench) -> None:
    """A queued id joins the first one's answer."""
    assert bench.push(make_batch(3), make_batch(3)) == [DURABLE, DURABLE]
    assert bench.sink.durable == [(1, 3)]


@pytest.mark.parametrize("again", ["same push", "later push"])
def test_the_same_id_with_other_content_is_refused(bench: Bench, again: str) -> None:
    """Another checksum is an error, never an acknowledgement."""
    first, other = make_batch(3), make_batch(3, checksum=99)
    if again == "same push":
        assert bench.push(first, other) == [DURABLE, REFUSED]
    else:
        bench.push(first)
        assert bench.push(other) == [REFUSED]
    assert bench.sink.durable == [(1, 3)]


def test_a_higher_durable_sequence_says_nothing_about_a_lower_one(bench: Bench) -> None:
    """A lane sees a sparse subset: only the id itself counts as had."""
    bench.push(make_batch(10))
    assert bench.push(make_batch(4)) == [DURABLE]
    assert bench.sink.durable == [(1, 10), (1, 4)]


def test_below_the_producers_low_everything_counts_as_had(bench: Bench) -> None:
    """`low` is raised by the producer's own word and bounds the ledger."""
    bench.push(make_batch(5), low=5)
    assert bench.push(make_batch(2)) == [DURABLE]
    assert bench.sink.durable == [(1, 5)]


def test_pushes_that_overtake_each_other_are_taken_in_order(bench: Bench) -> None:
    """Push 2 waits for push 1."""
    with ThreadPoolExecutor(2) as threads:
        second = threads.submit(bench.lane.push, "r", 1, 2, [], [make_batch(2)])
        first = threads.submit(bench.lane.push, "r", 1, 1, [], [make_batch(1)])
        assert first.result(60) == second.result(5) == [DURABLE]
    assert bench.sink.durable == [(1, 1), (1, 2)]


def test_a_gap_is_refused() -> None:
    """A push whose predecessor never comes is not taken."""
    bench = Bench()
    bench.lane._turns._gap_wait_s = 0.05
    with pytest.raises(SequenceGapError, match="call 3 came, 1 is next"):
        bench.lane.push("r", 1, 3, [], [make_batch(3)])
    assert bench.sink.durable == []
    assert bench.lane.close(1_000)


def test_pushes_of_an_older_session_are_refused(bench: Bench) -> None:
    """After a new hello only the new session's pushes count."""
    bench.push(make_batch(0))
    bench.lane.hello("r", 2)
    with pytest.raises(SequenceGapError, match="session 1 is over"):
        bench.push(make_batch(1))
    assert bench.lane.push("r", 2, 1, [], [make_batch(1)]) == [DURABLE]


def test_a_push_without_hello_is_refused(bench: Bench) -> None:
    """A restarted lane knows no session until the router says hello."""
    with pytest.raises(SequenceGapError, match="never said hello"):
        bench.lane.push("other", 1, 1, [], [make_batch(1)])


def test_a_transient_flush_error_is_retried_until_it_heals(bench: Bench) -> None:
    """Nothing is answered before the flush went through, and nothing is written twice."""

    def fail(flushes: int) -> None:
        if flushes <= 3:
            raise TransientError("disk full")

    bench.sink.fail_flush = fail
    assert bench.push(make_batch(0), make_batch(1)) == [DURABLE, DURABLE]
    assert bench.sink.durable == [(1, 0), (1, 1)]
    assert bench.lane.snapshot().retries == 3


def test_an_unforeseen_error_in_a_flush_is_retried_too(bench: Bench) -> None:
    """A bug in a sink loses nothing and acknowledges nothing."""

    def fail(flushes: int) -> None:
        if flushes == 1:
            raise ValueError("surprise")

    bench.sink.fail_flush = fail
    assert bench.push(make_batch(0)) == [DURABLE]
    assert bench.sink.durable == [(1, 0)]


@pytest.mark.parametrize("surprise", [KeyError("column"), OSError("away"), TypeError("none")])
def test_an_unforeseen_error_in_a_write_is_retried_too(bench: Bench, surprise: Exception) -> None:
    """Nothing of the batch was taken, so it comes again; meanwhile the reason is told."""
    seen = threading.Event()

    def fail(batch: Batch) -> None:
        if not seen.is_set():
            raise surprise

    bench.sink.fail_write = fail
    pushed = threading.Thread(target=bench.push, args=(make_batch(0),), daemon=True)
    pushed.start()
    while bench.lane.last_error() != f"{type(surprise).__name__}: {surprise}":
        time.sleep(0.01)
    seen.set()
    pushed.join()
    assert bench.sink.durable == [(1, 0)]


def test_a_failing_workspace_does_not_hold_up_another(bench: Bench) -> None:
    """Workspace 2 is acknowledged while workspace 1 is being retried, in order."""
    healed = threading.Event()

    def fail(flushes: int) -> None:
        if not healed.is_set():
            raise PartialFlushError(((1, "no permission"),))

    bench.sink.fail_flush = fail
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(bench.push, make_batch(0, 1))
        while not bench.sink.flushes:
            pass
        assert bench.push(make_batch(1, 2)) == [DURABLE]
        assert not stuck.done()
        assert bench.lane.last_error() == "no permission"
        healed.set()
        assert stuck.result(60) == [DURABLE]
    assert bench.sink.durable == [(2, 1), (1, 0)]
    assert bench.lane.last_error() is None


def test_a_push_that_is_stuck_in_part_is_answered_in_part(bench: Bench) -> None:
    """The answer does not wait for the stuck workspace; asking again does, and joins it."""
    healed = threading.Event()

    def fail(flushes: int) -> None:
        if not healed.is_set():
            raise PartialFlushError(((1, "no room"),))

    bench.sink.fail_flush = fail
    assert bench.push(make_batch(0, 1), make_batch(1, 2)) == [PENDING, DURABLE]
    healed.set()
    assert bench.push(make_batch(0, 1)) == [DURABLE]
    assert bench.sink.durable == [(2, 1), (1, 0)]


def test_a_sink_that_wants_more_before_it_flushes_gets_it(bench: Bench) -> None:
    """Pushes are told "pending" at once; the batches are one flush when the sink is ready."""
    bench.sink.wants_ms = 60_000
    assert bench.push(make_batch(0), make_batch(1, 2)) == [PENDING, PENDING]
    assert bench.push(make_batch(2)) == [PENDING]
    assert bench.push(make_batch(0)) == [PENDING]
    assert bench.sink.durable == []
    bench.sink.wants_ms = 0
    assert bench.push(make_batch(3)) == [DURABLE]
    assert bench.push(make_batch(0), make_batch(1, 2), make_batch(2)) == [DURABLE] * 3
    assert (bench.sink.flushes, bench.sink.durable) == (1, [(1, 0), (2, 1), (1, 2), (1, 3)])


def test_a_sink_that_waits_flushes_without_further_traffic(bench: Bench) -> None:
    """The time it names is kept by the lane, with nobody pushing."""
    asked = []

    def wants(now_ms: int) -> int:
        asked.append(now_ms)
        return max(0, asked[0] + 30 - now_ms)

    bench.sink.due_in_ms = wants  # type: ignore[method-assign]
    assert bench.push(make_batch(0)) == [PENDING]
    for _ in range(1000):
        if bench.sink.durable:
            break
        time.sleep(0.01)
    assert bench.sink.durable == [(1, 0)]


def test_close_does_not_wait_for_a_sink_that_wants_more(bench: Bench) -> None:
    """What was held back is flushed and the lane is closed."""
    bench.sink.wants_ms = 60_000
    assert bench.push(make_batch(0)) == [PENDING]
    assert bench.lane.close(5_000)
    assert bench.sink.durable == [(1, 0)]


def test_a_push_that_is_only_slow_is_waited_for(bench: Bench) -> None:
    """Longer than what is retried: asking again would make it slower still."""
    free = threading.Event()
    bench.sink.fail_flush = lambda flushes: free.wait(5)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(bench.push, make_batch(0))
        with pytest.raises(FutureTimeoutError):
            slow.result(1.5 * ANSWER_WAIT_S)
        free.set()
        assert slow.result(60) == [DURABLE]


def test_a_transient_write_error_keeps_the_order_of_its_workspace(bench: Bench) -> None:
    """What comes behind a batch that waits does not overtake it."""
    attempts = []

    def fail(batch: Batch) -> None:
        attempts.append(batch.header.sequence)
        if batch.header.sequence == 0 and len(attempts) < 3:
            raise TransientError("not yet")

    bench.sink.fail_write = fail
    assert bench.push(make_batch(0), make_batch(1)) == [DURABLE, DURABLE]
    assert bench.sink.durable == [(1, 0), (1, 1)]


def test_a_terminal_error_buries_the_batch_and_the_rest_goes_on(bench: Bench) -> None:
    """Dead letters are kept with their reason and never block."""

    def fail(batch: Batch) -> None:
        if batch.header.sequence == 1:
            raise TerminalError("never")

    bench.sink.fail_write = fail
    assert bench.push(make_batch(0), make_batch(1), make_batch(2)) == [
        DURABLE,
        DEAD_LETTERED,
        DURABLE,
    ]
    assert bench.dead_letters.buried == [(1, None, "never")]
    assert bench.sink.durable == [(1, 0), (1, 2)]


def test_a_partial_write_buries_only_the_refused_messages(bench: Bench) -> None:
    """The batch is durable, its bad messages are dead letters."""

    def fail(batch: Batch) -> None:
        bench.sink.written.append((1, 0))
        raise PartialWriteError(batch.header.batch_id, (0,), ("bad row",))

    bench.sink.fail_write = fail
    assert bench.push(make_batch(0)) == [DURABLE]
    assert bench.dead_letters.buried[0][:2] == (0, (0,))
    assert bench.lane.snapshot().dead_letters == 1


def test_a_fenced_lane_answers_nobody(bench: Bench) -> None:
    """A newer writer exists: what waits gets the error, and so does what comes."""

    def fail(flushes: int) -> None:
        raise FencedError("epoch 2 exists")

    bench.sink.fail_flush = fail
    with pytest.raises(FencedError):
        bench.push(make_batch(0))
    with pytest.raises(FencedError):
        bench.push(make_batch(1))


def test_close_settles_what_is_queued_and_closes_the_sink_once(bench: Bench) -> None:
    """A drained lane leaves nothing behind."""
    bench.push(make_batch(0))
    assert bench.lane.close(5_000)
    assert bench.lane.close(5_000)
    assert bench.sink.closed == 1
    with pytest.raises(TransientError, match="closing"):
        bench.push(make_batch(1))


def test_close_gives_up_at_its_deadline_without_acknowledging(bench: Bench) -> None:
    """A sink that never heals does not hold up the shutdown for ever."""

    def fail(flushes: int) -> None:
        raise TransientError("still full")

    bench.sink.fail_flush = fail
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(bench.push, make_batch(0))
        while not bench.sink.flushes:
            pass
        assert not bench.lane.close(50)
        with pytest.raises(TransientError, match="closed before"):
            stuck.result(5)
    assert bench.sink.durable == []


def test_an_empty_push_is_answered_at_once(bench: Bench) -> None:
    """It keeps its number and settles nothing."""
    assert bench.push() == []
    assert bench.push(make_batch(0)) == [DURABLE]


def test_a_dead_letter_that_is_asked_for_again_is_not_kept_twice(bench: Bench) -> None:
    """Its outcome is remembered, as that of a durable batch is by the ledger."""

    def fails(batch: Batch) -> None:
        raise TerminalError("never")

    bench.sink.fail_write = fails
    assert bench.push(make_batch(0)) == [DEAD_LETTERED]
    assert bench.push(make_batch(0)) == [DEAD_LETTERED]
    assert len(bench.dead_letters.buried) == 1
    assert bench.push(make_batch(0, checksum=9)) == [REFUSED]


def test_a_sink_that_cannot_be_closed_is_told(bench: Bench) -> None:
    """What it kept back is owed: the drain must not pass over it."""

    def close() -> None:
        raise TransientError("can't publish")

    bench.sink.close = close  # type: ignore[method-assign]
    assert not bench.lane.close(5_000)
    assert bench.lane.last_error() == "can't publish"


class TurningSink(ListSink):
    """Makes batches durable one by one, without a flush, and refuses some in a flush."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = 0
        self.refused: list[tuple[tuple[bytes, int, int], int, int | None, str]] = []
        self.kept = 0

    def committed(self) -> list[BatchId]:
        count, self.ready = self.ready, 0
        done, self.written = self.written[:count], self.written[count:]
        self.durable += done
        return [BatchId(PRODUCER, 1, sequence) for _, sequence in done]

    def flush(self) -> None:
        super().flush()
        if self.refused:
            raise RefusedMessagesError(tuple(self.refused))

    def refusals_kept(self) -> None:
        self.kept += len(self.refused)
        self.refused = []


def turning_bench() -> Bench:
    made = Bench.__new__(Bench)
    made.sink = TurningSink()
    made.dead_letters = ListDeadLetters()
    made.lane = Lane(
        made.sink, SystemClock(), made.dead_letters, lambda: 0.5, by_workspace=False,
        backoff=Backoff(200, 200),
    )  # fmt: skip
    made.lane.start()
    made.lane.hello("r", 1)
    made.number = 0
    return made


def test_what_a_sink_commits_in_turn_is_answered_without_a_flush() -> None:
    """The first is durable while the second is still on its way."""
    bench = turning_bench()
    bench.sink.wants_ms = 10
    assert bench.push(make_batch(0), make_batch(1)) == [PENDING, PENDING]
    bench.sink.ready = 1
    until = time.monotonic() + 5
    while (outcomes := bench.push(make_batch(0), make_batch(1))) == [PENDING, PENDING]:
        assert time.monotonic() < until
    assert outcomes == [DURABLE, PENDING]
    assert bench.sink.flushes == 0
    bench.sink.wants_ms = 0
    assert bench.push(make_batch(1)) == [DURABLE]
    assert bench.sink.durable == [(1, 0), (1, 1)]
    assert bench.lane.close(1_000)


def test_what_a_flush_refuses_is_buried_and_then_confirmed() -> None:
    """The rest of the batch counts as written, the sink is told, nobody waits."""
    bench = turning_bench()
    bench.sink.refused = [
        ((PRODUCER, 1, 4), 0, None, "no e-mail"),
        ((PRODUCER, 1, 5), 2, 7, "too long"),
        ((PRODUCER, 1, 99), 0, None, "not of this life"),
    ]
    assert bench.push(make_batch(4), make_batch(5)) == [DURABLE, DURABLE]
    assert bench.dead_letters.entries == [
        (4, [RefusedEntry(0, None, "no e-mail")]),
        (5, [RefusedEntry(2, 7, "too long")]),
    ]
    assert bench.sink.kept == 3
    assert bench.sink.flushes == 2
    assert bench.lane.snapshot().dead_letters == 2
    assert bench.lane.close(1_000)


def test_new_batches_do_not_shorten_the_wait_of_a_lone_destination() -> None:
    """They are taken and told to wait; the destination is tried when it is time."""
    bench = turning_bench()

    def fail(flushes: int) -> None:
        if flushes == 1:
            raise TransientError("busy", 400)

    bench.sink.fail_flush = fail
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(bench.push, make_batch(0))
        while not bench.sink.flushes:
            time.sleep(0.001)
        began = time.monotonic()
        assert bench.lane.push("r", 1, 2, [], [make_batch(1)]) == [PENDING]
        assert bench.sink.written == [(1, 0), (1, 1)]
        assert bench.sink.flushes == 1
        assert first.result() in ([DURABLE], [PENDING])
        while not bench.sink.durable:
            time.sleep(0.001)
        assert time.monotonic() - began >= 0.3
    assert bench.sink.flushes == 2
    assert bench.lane.close(1_000)


def test_who_asks_is_answered_as_soon_as_something_is_known() -> None:
    """Not before, and not only when all of it is: no later than after the usual wait."""
    bench = turning_bench()
    bench.sink.wants_ms = 5
    three = [make_batch(0), make_batch(1), make_batch(2)]
    assert bench.push(*three) == [PENDING] * 3
    with ThreadPoolExecutor(1) as thread:
        began = time.monotonic()
        question = thread.submit(bench.push, *three)
        time.sleep(0.1)
        assert not question.done()
        bench.sink.ready = 2
        assert question.result() == [DURABLE, DURABLE, PENDING]
        assert time.monotonic() - began < ANSWER_WAIT_S
        began = time.monotonic()
        assert bench.push(three[2]) == [PENDING]
        assert time.monotonic() - began >= ANSWER_WAIT_S
    bench.sink.wants_ms = 0
    assert bench.lane.close(5_000)
    assert bench.sink.durable == [(1, 0), (1, 1), (1, 2)]
