"""Whose turn it is: workspaces that share a lane, one of which floods it or is stuck."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.routing.flights import RoutedBatch
from cdp_ray_sinks.routing.lane_queue import LaneQueue

Names = list[tuple[int, int]]


def batch(workspace_id: int, sequence: int, record_bytes: int = 10) -> RoutedBatch:
    header = BatchHeader(
        b"p" * 16, 1, sequence, 1, 2, workspace_id, "s", 0, 1, 1, record_bytes, sequence
    )
    return RoutedBatch(header, object(), ("sink",), frozenset({"sink"}), 0.0)


def queue_of(*waiting: RoutedBatch, held_bytes_max: int = 10**9) -> LaneQueue:
    queue = LaneQueue(by_workspace=True, held_bytes_max=held_bytes_max)
    for each in waiting:
        queue.append(each)
    return queue


def names(batches: list[RoutedBatch]) -> Names:
    return [(each.header.workspace_id, each.header.sequence) for each in batches]


def test_workspaces_take_turns() -> None:
    """One that floods waits behind one batch of every other."""
    flood = [batch(1, sequence) for sequence in range(100)]
    queue = queue_of(*flood, *(batch(w, 0) for w in range(2, 7)))
    assert names(queue.take(8, 10**6)) == [
        (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (1, 1), (1, 2),
    ]  # fmt: skip
    assert len(queue) == 97
    assert queue.waiting_bytes == 970


def test_a_lane_without_workspaces_keeps_the_order_of_arrival() -> None:
    """Where all go to one destination nobody overtakes anybody."""
    queue = LaneQueue(by_workspace=False, held_bytes_max=10**9)
    for sequence in range(6):
        queue.append(batch(1 + sequence % 3, sequence))
    assert [sequence for _, sequence in names(queue.take(10, 10**6))] == list(range(6))


def test_one_call_carries_so_many_objects_and_bytes() -> None:
    """One batch goes whatever it weighs."""
    queue = queue_of(*(batch(1, sequence) for sequence in range(10)))
    assert len(queue.take(4, 10**6)) == 4
    assert len(queue.take(10, 35)) == 3
    assert len(queue.take(10, 1)) == 1


def test_a_lane_holds_no_more_than_its_share() -> None:
    """What is settled makes room; a batch larger than the share goes when nothing is held."""
    queue = queue_of(*(batch(1, n) for n in range(10)), batch(1, 10, 500), held_bytes_max=50)
    first = queue.take(100, 10**6)
    assert len(first) == 5
    assert queue.take(100, 10**6) == []
    queue.settled(first[0])
    assert names(queue.take(100, 10**6)) == [(1, 5)]
    for each in [*first[1:], batch(1, 5)]:
        queue.settled(each)
    assert names(queue.take(100, 10**6)) == [(1, 6), (1, 7), (1, 8), (1, 9)]
    for sequence in range(6, 10):
        queue.settled(batch(1, sequence))
    assert names(queue.take(100, 10**6)) == [(1, 10)]


def test_a_stuck_workspace_leaves_half_of_the_lane_to_the_others() -> None:
    """Its batches are never settled; those of the others go on."""
    queue = queue_of(*(batch(1, n) for n in range(20)), batch(2, 0), held_bytes_max=100)
    taken = queue.take(100, 10**6)
    assert names(taken).count((2, 0)) == 1
    assert len(taken) == 6
    for sequence in range(1, 30):
        queue.settled(batch(2, sequence - 1))
        queue.append(batch(2, sequence))
        assert names(queue.take(100, 10**6)) == [(2, sequence)]
    assert queue.held_bytes == 60


def test_what_is_put_back_comes_first_again() -> None:
    """A push that was lost, or for which the sink had no room."""
    queue = queue_of(*(batch(1 + n % 2, n) for n in range(8)))
    taken = queue.take(4, 10**6)
    queue.put_back(taken)
    assert (len(queue), queue.held_bytes, queue.waiting_bytes) == (8, 0, 80)
    assert names(queue.take(100, 10**6)) == [(1 + n % 2, n) for n in range(8)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 4), st.integers(1, 30)),
            st.tuples(st.just("take"), st.integers(1, 6), st.integers(1, 80)),
            st.tuples(st.just("settle"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("put_back"), st.just(0), st.just(0)),
        ),
        max_size=60,
    )
)
def test_nothing_is_lost_doubled_or_overtaken(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens in which order; and the bounds hold all along."""
    queue = queue_of(held_bytes_max=100)
    given_out: dict[int, list[int]] = defaultdict(list)
    held: list[RoutedBatch] = []
    settled: Names = []
    sequence = 0
    for step, first, second in steps:
        if step == "append":
            queue.append(batch(first, sequence, second))
            sequence += 1
        elif step == "take":
            for each in queue.take(first, second):
                held.append(each)
                given_out[each.header.workspace_id].append(each.header.sequence)
        elif step == "settle" and first < len(held):
            done = held.pop(first)
            queue.settled(done)
            settled += names([done])
        elif step == "put_back":
            queue.put_back(held)
            held = []
            given_out.clear()  # they come again, behind those that were settled meanwhile
        assert queue.held_bytes == sum(each.header.record_bytes for each in held)
        assert queue.held_bytes <= 100 or len(held) == 1
        assert all(sequences == sorted(sequences) for sequences in given_out.values())
    waiting = names(list(queue))
    assert len(waiting) == len(queue)
    everything = [number for _, number in waiting + names(held) + settled]
    assert sorted(everything) == list(range(sequence))
