"""What a producer promises: nothing is let go of before it is settled, whatever the router does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId, Pack, unpack
from cdp_ray_sinks.delivery.account_files import read_accounts
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.delivery.push import DROPPED, DURABLE, Group, Outcomes
from cdp_ray_sinks.delivery.router_link import (
    COMPLETE,
    OWED,
    REQUIRED_SETTLED,
    LinkError,
    OnAnswer,
    OnSettled,
    RouteAnswer,
    SettledAnswer,
)
from cdp_ray_sinks.errors import BatchConflictError, DrainTimeoutError


def make_batch(number: int, record_bytes: int = 100, workspace_id: int = 1) -> Batch:
    records = np.full(record_bytes, number % 256, np.uint8)
    header = BatchHeader(bytes(16), 0, 0, 1, 2, workspace_id, "s", 0, 1, 3, record_bytes, number)
    return Batch(header, records, np.array([0, record_bytes], np.uint64))


class FakeLink:
    """A router in memory. With `hold` answers wait for `release`; `lose` loses calls."""

    def __init__(self) -> None:
        self.hold = False
        self.lose = False
        self.begins_to_fail = 0
        self.sessions: list[int] = []
        self.groups: list[Group] = []
        self.waiting: list[tuple[Group, OnAnswer]] = []
        self.puts = 0
        self.lows: list[int] = []
        self.answer: Callable[[BatchHeader], tuple[Outcomes, int]] = lambda h: (
            (("a", DURABLE),),
            COMPLETE,
        )
        self.asked: list[list[BatchId]] = []
        self.slow = 0
        self.next = 1

    def put(self, pack: Pack) -> Pack:
        self.puts += 1
        return Pack(pack.records.copy(), pack.offsets.copy())

    def begin(self, producer: bytes, session: int) -> int:
        if self.begins_to_fail:
            self.begins_to_fail -= 1
            raise LinkError("away")
        self.sessions.append(session)
        self.next = 1
        return session

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        assert session == self.sessions[-1]
        assert number == self.next
        self.next += 1
        self.groups.append(group)
        self.lows += [low for _, _, low in group.lows]
        if self.lose:
            on_answer(LinkError("lost"))
        elif self.hold:
            self.waiting.append((group, on_answer))
        else:
            self._reply(group, on_answer)

    def settled(self, known: Sequence[tuple[BatchId, int]], on_answer: OnSettled) -> None:
        batch_ids = [batch_id for batch_id, _ in known]
        self.asked.append(batch_ids)
        asked = range(len(batch_ids))[self.slow :]
        self.slow = 0
        outcomes = [(("a", DURABLE), ("b", DROPPED))] * len(asked)
        on_answer(SettledAnswer(list(asked), outcomes, [COMPLETE] * len(asked)))

    def _reply(self, group: Group, on_answer: OnAnswer) -> None:
        answers = [self.answer(h) for h in group.headers]
        on_answer(RouteAnswer([a for a, _ in answers], [c for _, c in answers]))

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for group, on_answer in waiting:
            self._reply(group, on_answer)

    def sent(self) -> list[int]:
        return [h.sequence for g in self.groups for h in g.headers]


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def producer(link: FakeLink) -> Iterator[Producer]:
    made = Producer(
        "p", link, lambda: 0.25, limits=ProducerLimits(10_000, 100, 8, 1, 5_000, 200, 2)
    )
    until(lambda: link.sessions)
    yield made
    link.hold = link.lose = False
    link.release()
    made.close(5)


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


def test_a_ticket_names_each_sinks_outcome(producer: Producer) -> None:
    """The promise is kept with what the sinks said."""
    assert producer.submit(make_batch(0)).result(60) == {"a": DURABLE}


def test_sequences_rise_by_one_under_one_epoch(producer: Producer, link: FakeLink) -> None:
    """Ids are the producer's, whatever the batch said."""
    for number in range(5):
        producer.submit(make_batch(number)).result(60)
    headers = [h for g in link.groups for h in g.headers]
    assert [h.sequence for h in headers] == [0, 1, 2, 3, 4]
    assert len({(h.producer, h.epoch) for h in headers}) == 1


def test_two_producers_of_one_name_have_different_epochs(link: FakeLink) -> None:
    """Ids are unique for ever."""
    first = Producer("p", FakeLink(), lambda: 0.1)
    second = Producer("p", FakeLink(), lambda: 0.9)
    assert first._epoch != second._epoch
    first.close(1)
    second.close(1)


def test_small_batches_ride_in_the_call_and_large_ones_in_the_store(
    producer: Producer, link: FakeLink
) -> None:
    """`inline_bytes_max` decides."""
    producer.submit(make_batch(0, 100)).result(60)
    assert link.puts == 0
    producer.submit(make_batch(1, 1_000)).result(60)
    assert link.puts == 1


def test_the_callers_buffers_are_free_after_submit(producer: Producer, link: FakeLink) -> None:
    """A source reuses its memory at once."""
    link.hold = True
    batch = make_batch(7)
    producer.submit(batch)
    batch.records[:] = 0
    group = link.groups[0]
    assert unpack(group.payloads[0], group.headers[0]).records.tolist() == [7] * 100


def test_what_queues_up_while_calls_are_under_way_is_the_next_group(
    producer: Producer, link: FakeLink
) -> None:
    """No timer: two calls in flight, then everything that waited, up to the bound."""
    link.hold = True
    tickets = [producer.submit(make_batch(n)) for n in range(12)]
    until(lambda: len(link.groups) == 2)
    link.hold = False
    link.release()
    for ticket in tickets:
        ticket.result(60)
    assert link.sent() == list(range(12))
    assert max(len(g.headers) for g in link.groups) == 8


def test_under_load_calls_are_few_and_full(link: FakeLink) -> None:
    """While a call is under way the next one waits for `group_batches_min` batches."""
    producer = Producer("p", link, lambda: 0.5, limits=ProducerLimits(group_batches_min=4))
    until(lambda: link.sessions)
    link.hold = True
    for number in range(8):
        producer.submit(make_batch(number))
    until(lambda: len(link.groups) == 2)
    time.sleep(0.05)
    counts = [len(g.headers) for g in link.groups]
    assert counts[0] == 1
    assert counts[1] >= 4
    assert len(counts) == 2
    link.hold = False
    link.release()
    producer.flush(60)
    assert link.sent() == list(range(8))
    producer.close(5)


def test_packed_batches_share_one_object(producer: Producer, link: FakeLink) -> None:
    """One put for several workspaces, one payload in the call, each header with its range."""
    tickets = producer.submit_packed([make_batch(n, 150, workspace_id=n + 1) for n in range(3)])
    for ticket in tickets:
        ticket.result(60)
    assert link.puts == 1
    group = link.groups[0]
    assert len(group.payloads) == 1
    found = [unpack(group.payloads[0], h).records[0] for h in group.headers]
    assert found == [0, 1, 2]


def test_a_full_window_blocks_submit_until_something_settles(
    producer: Producer, link: FakeLink
) -> None:
    """Back pressure reaches the source."""
    link.hold = True
    for number in range(10):
        producer.submit(make_batch(number, 984))
    blocked = threading.Thread(target=lambda: producer.submit(make_batch(10, 984)), daemon=True)
    blocked.start()
    blocked.join(0.2)
    assert blocked.is_alive()
    until(lambda: link.waiting)
    link.hold = False
    link.release()
    blocked.join(60)
    assert not blocked.is_alive()
    producer.flush(60)


def test_a_batch_larger_than_the_window_goes_when_it_is_empty(producer: Producer) -> None:
    """A bound never turns into a deadlock."""
    assert producer.submit(make_batch(0, 50_000)).result(60) == {"a": DURABLE}


def test_no_workspace_holds_more_than_a_quarter_while_others_are_there(
    producer: Producer, link: FakeLink
) -> None:
    """A stuck workspace leaves room in the window."""
    link.hold = True
    producer.submit(make_batch(0, 1_000, workspace_id=2))
    producer.submit(make_batch(1, 2_000, workspace_id=1))
    blocked = threading.Thread(
        target=lambda: producer.submit(make_batch(2, 1_000, workspace_id=1)), daemon=True
    )
    blocked.start()
    blocked.join(0.2)
    assert blocked.is_alive()
    producer.submit(make_batch(3, 1_000, workspace_id=3))
    link.hold = False
    link.release()
    blocked.join(60)
    assert not blocked.is_alive()


def test_batches_packed_together_are_no_way_around_the_quarter(
    producer: Producer, link: FakeLink
) -> None:
    """Those of one workspace count together; an object of several goes, or all would wait."""
    link.hold = True
    producer.submit(make_batch(0, 1_000, workspace_id=2))
    producer.submit(make_batch(1, 1_000, workspace_id=1))
    several = [make_batch(2, 1_000, workspace_id=1), make_batch(3, 1_000, workspace_id=3)]
    assert len(producer.submit_packed(several)) == 2
    pack = [make_batch(4 + n, 300, workspace_id=1) for n in range(3)]
    blocked = threading.Thread(target=producer.submit_packed, args=(pack,), daemon=True)
    blocked.start()
    blocked.join(0.2)
    assert blocked.is_alive()
    link.hold = False
    link.release()
    blocked.join(60)
    assert not blocked.is_alive()


def test_a_lost_call_is_sent_again_from_the_first_unsettled_batch(
    producer: Producer, link: FakeLink
) -> None:
    """New session, same ids, same order; each ticket is kept once."""
    producer.submit(make_batch(0)).result(60)
    link.lose = True
    tickets = [producer.submit(make_batch(n)) for n in range(1, 6)]
    until(lambda: len(link.sessions) >= 3)
    link.lose = False
    for ticket in tickets:
        assert ticket.result(60) == {"a": DURABLE}
    assert link.sent()[-5:] == [1, 2, 3, 4, 5]
    assert producer.tallies()["a"].batches == 6
    assert producer.resends >= 5


def test_a_router_that_is_away_is_waited_for(producer: Producer, link: FakeLink) -> None:
    """`begin` is tried until it works."""
    producer.submit(make_batch(0)).result(60)
    link.begins_to_fail = 3
    link.lose = True
    ticket = producer.submit(make_batch(1))
    until(lambda: link.begins_to_fail < 3)
    link.lose = False
    assert ticket.result(60) == {"a": DURABLE}


def test_an_answer_of_an_older_session_changes_nothing(producer: Producer, link: FakeLink) -> None:
    """A ghost of a lost router settles nothing twice."""
    link.hold = True
    first = producer.submit(make_batch(0))
    second = producer.submit(make_batch(1))
    until(lambda: len(link.waiting) == 2)
    (ghost_group, ghost), (_, other) = link.waiting
    link.waiting = []
    link.hold = False
    other(LinkError("gone"))
    ghost(LinkError("gone"))
    first.result(60)
    second.result(60)
    ghost(RouteAnswer([(("a", DROPPED),)] * len(ghost_group.headers), [COMPLETE]))
    assert first.result(60) == {"a": DURABLE}
    assert producer.tallies()["a"].batches == 2


def test_low_is_the_first_unsettled_sequence(producer: Producer, link: FakeLink) -> None:
    """It rises only over what every sink has settled."""
    producer.submit(make_batch(0)).result(60)
    link.hold = True
    producer.submit(make_batch(1))
    producer.submit(make_batch(2))
    until(lambda: len(link.groups) == 3)
    assert link.lows == [0, 1, 1]


def test_an_optional_sink_that_lingers_does_not_hold_up_the_ticket(
    producer: Producer, link: FakeLink
) -> None:
    """The ticket is done for required sinks; the reference is kept until all have settled."""
    link.answer = lambda h: ((("a", DURABLE),), REQUIRED_SETTLED)
    ticket = producer.submit(make_batch(0))
    assert ticket.result(60) == {"a": DURABLE}
    until(lambda: producer.in_flight() == (0, 0))
    assert [len(ids) for ids in link.asked] == [1]
    assert ticket.result(60) == {"a": DURABLE, "b": DROPPED}
    assert producer.tallies()["b"].dropped == 3


def test_a_batch_that_a_sink_still_owes_is_asked_about_and_not_acknowledged(
    producer: Producer, link: FakeLink
) -> None:
    """The call's answer frees the call; the ticket waits for the sink."""
    link.answer = lambda h: ((), OWED if h.sequence == 0 else COMPLETE)
    answers: list[OnSettled] = []
    link.settled = lambda known, on_answer: answers.append(on_answer)  # type: ignore[method-assign]
    stuck = producer.submit(make_batch(0))
    for number in range(1, 10):
        producer.submit(make_batch(number)).result(60)
    assert not stuck.done()
    until(lambda: answers)
    answers[0](SettledAnswer([0], [(("a", DURABLE),)], [COMPLETE]))
    assert stuck.result(60) == {"a": DURABLE}


def test_what_is_no_further_is_asked_about_again(producer: Producer, link: FakeLink) -> None:
    """An answer names only those that are; the others stay the producer's."""
    link.answer = lambda h: ((), OWED)
    link.slow = 1
    tickets = [producer.submit(make_batch(number)) for number in range(3)]
    for ticket in tickets:
        assert ticket.result(60) == {"a": DURABLE, "b": DROPPED}
    until(lambda: producer.in_flight() == (0, 0))
    assert sorted({batch_id.sequence for ids in link.asked for batch_id in ids}) == [0, 1, 2]
    assert sum(len(ids) for ids in link.asked) == 4


def test_a_refused_batch_raises_at_its_ticket(producer: Producer, link: FakeLink) -> None:
    """Same id with other content is an error that somebody sees."""
    link.answer = lambda h: ((("a", "refused"),), COMPLETE)
    with pytest.raises(BatchConflictError, match="refused by a"):
        producer.submit(make_batch(0)).result(60)
    assert producer.tallies()["a"].refused == 1


def test_flush_says_how_much_is_unsettled_at_its_deadline(
    producer: Producer, link: FakeLink
) -> None:
    """A deadline is a deadline."""
    link.hold = True
    producer.submit(make_batch(0))
    producer.submit(make_batch(1))
    with pytest.raises(DrainTimeoutError) as error:
        producer.flush(0.05)
    assert error.value.unsettled == 2


def test_a_closed_producer_takes_nothing(link: FakeLink) -> None:
    """And says so."""
    producer = Producer("p", link, lambda: 0.5)
    producer.submit(make_batch(0)).result(60)
    producer.close(5)
    with pytest.raises(RuntimeError, match="closed"):
        producer.submit(make_batch(1))


def test_a_failed_put_leaves_the_window_as_it_was(producer: Producer, link: FakeLink) -> None:
    """An error of the store is the caller's, and nothing leaks."""

    def fail(pack: Pack) -> Pack:
        raise MemoryError("store full")

    link.put = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        producer.submit(make_batch(0, 1_000))
    assert producer.in_flight() == (0, 0)


OTHER = b"another-node-id!"


def test_a_batch_of_another_node_keeps_its_id_and_its_low(
    producer: Producer, link: FakeLink
) -> None:
    """Sequences with holes, out of the way of our own; what is under way keeps the low down."""
    link.hold = True
    tickets = [producer.submit_as(make_batch(n), BatchId(OTHER, 7, 10 * n), 10 * n) for n in (1, 2)]
    own = producer.submit(make_batch(9))
    until(lambda: len(link.waiting) == 2)
    link.hold = False
    link.release()
    for ticket in [*tickets, own]:
        assert ticket.result(60) == {"a": DURABLE}
    headers = {h.batch_id: h for group in link.groups for h in group.headers}
    assert {BatchId(OTHER, 7, 10), BatchId(OTHER, 7, 20)} < headers.keys()
    lows = [low for group in link.groups for low in group.lows if low[0] == OTHER]
    assert {low for *_, low in lows} == {10}
    producer.submit_as(make_batch(3), BatchId(OTHER, 7, 30), 25).result(60)
    assert link.groups[-1].lows[0] == (OTHER, 7, 25)


def test_the_same_batch_of_another_node_has_one_ticket_while_it_is_under_way(
    producer: Producer, link: FakeLink
) -> None:
    """Sent again by its node; with other content it is refused."""
    link.hold = True
    first = producer.submit_as(make_batch(1), BatchId(OTHER, 7, 1), 0)
    assert producer.submit_as(make_batch(1), BatchId(OTHER, 7, 1), 0) is first
    with pytest.raises(BatchConflictError, match="other content"):
        producer.submit_as(make_batch(2), BatchId(OTHER, 7, 1), 0)
    until(lambda: link.waiting)
    link.hold = False
    link.release()
    assert first.result(60) == {"a": DURABLE}
    again = producer.submit_as(make_batch(1), BatchId(OTHER, 7, 1), 0)
    assert again is not first
    assert again.result(60) == {"a": DURABLE}


def test_an_object_of_named_batches_weighs_what_is_said(producer: Producer, link: FakeLink) -> None:
    """It keeps their ids, nothing is put, and what is under way has the ticket that it had."""
    link.hold = True
    headers = [make_batch(n).header._replace(producer=OTHER, epoch=7, sequence=n) for n in range(3)]
    first = producer.submit_reference(headers[:2], "an object", 500)
    assert producer.in_flight() == (2, 500)
    again = producer.submit_reference(headers, "an object", 500)
    assert again[:2] == first
    assert producer.submit_reference(headers[:1], "an object", 500) == first[:1]
    assert producer.in_flight() == (3, 1_000)
    until(lambda: link.waiting)
    link.hold = False
    link.release()
    for ticket in again:
        assert ticket.result(60) == {"a": DURABLE}
    until(lambda: producer.in_flight() == (0, 0))
    sent = [header.batch_id for group in link.groups for header in group.headers]
    assert sent == [header.batch_id for header in headers]
    assert {payload for group in link.groups for payload in group.payloads} == {"an object"}
    assert not link.puts


def test_what_another_process_has_accounted_for_is_not_counted_again(tmp_path: Path) -> None:
    """The book of a stream goes on with the next process; a late sequence is counted too."""
    for _ in range(2):
        producer = Producer("p", FakeLink(), lambda: 0.5, accounts_dir=tmp_path)
        for number in (3, 90, 5, 70):
            producer.submit_as(make_batch(number), BatchId(OTHER, 7, number), 0).result(60)
        producer.close(10)
    accounts = read_accounts(tmp_path)
    assert (OTHER, 7) in accounts.epochs
    counted = [count for counts in accounts.taken.values() for count in counts.values()]
    assert sum(count.batches for count in counted) == 4
    assert not accounts.open
