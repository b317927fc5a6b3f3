"""What a chain promises while nothing fails: paths, order, rotation, ledger, takeover."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import BatchConflictError, FencedError, TerminalError, TransientError
from cdp_ray_sinks.files.chain import Chain, ChainOptions

HOUR_MS = 3_600_000


def write(bench: Any, chain: Chain, sequences: list[int], **header: Any) -> None:
    """One commit of these batches."""
    for sequence in sequences:
        chain.append(bench.batch(sequence, **header))
    chain.commit()


def test_batches_land_byte_for_byte_in_the_partition_of_their_received_time(bench: Any) -> None:
    """Workspace, UTC date and hour; records one after the other, in order of appending."""
    chain = bench.chain()
    batches = [bench.batch(s, received_at_ms=bench.hand.start_ms + 7 * HOUR_MS) for s in range(3)]
    for batch in batches:
        chain.append(batch)
    chain.commit()
    path = bench.base / "42" / "2026-01-01" / "07" / "data.bin"
    assert path.read_bytes() == b"".join(b.records.tobytes() for b in batches)
    assert bench.known(chain) == {0, 1, 2}
    assert not chain.is_dirty


def test_nothing_is_durable_before_the_commit(bench: Any) -> None:
    """The ledger and the files learn of a batch only when it is committed."""
    chain = bench.chain()
    chain.append(bench.batch(0))
    assert chain.is_dirty
    assert bench.known(chain) == set()
    assert bench.data_files == []
    chain.commit()
    chain.commit()
    assert bench.stored() == [0]


def test_the_records_are_written_without_a_copy(bench: Any) -> None:
    """One commit is one gathered write, one index record and one sync of each file."""
    chain = bench.chain()
    write(bench, chain, [0])
    bench.fs.calls.clear()
    write(bench, chain, [1, 2, 3])
    assert bench.fs.calls == [
        ("write", "data.bin"),
        ("append", "data.bin.idx"),
        ("sync", "data.bin"),
        ("sync", "data.bin.idx"),
    ]


def test_one_commit_reaches_several_partitions(bench: Any) -> None:
    """Each hour has its own segment; all are durable at once."""
    chain = bench.chain()
    for sequence, hour in enumerate([0, 1, 0, 26]):
        at_ms = bench.hand.start_ms + hour * HOUR_MS
        chain.append(bench.batch(sequence, received_at_ms=at_ms))
    chain.commit()
    assert bench.data_files == ["2026-01-01/00/data.bin", "2026-01-01/01/data.bin",
                                "2026-01-02/02/data.bin"]  # fmt: skip
    assert [bench.stored_in(name) for name in bench.data_files] == [[0, 2], [1], [3]]


def test_a_serialising_writer_has_its_streams_and_its_range_checksum(
    serialising_bench: Any,
) -> None:
    """Two streams, recovered by the checksum of the range after a kill."""
    bench = serialising_bench
    chain = bench.chain()
    for sequence in range(4):
        chain.append(bench.batch(sequence, schema_type=1 + sequence % 2))
    chain.commit()
    bench.kill(chain)
    with bench.path("2026-01-01/00/events.twice").open("ab") as file:
        file.write(b"torn")
    again = bench.chain()
    assert bench.known(again) == {0, 1, 2, 3}
    assert list(again.recovery_report) == []
    expected = b"".join(bench.batch(s).records.repeat(2).tobytes() for s in (0, 2))
    assert bench.path("2026-01-01/00/events.twice").read_bytes() == expected
    assert bench.data_files == ["2026-01-01/00/events.twice", "2026-01-01/00/logs.twice"]


def test_the_writer_may_reuse_its_buffers_after_each_commit(bench: Any) -> None:
    """`release` comes once per commit, after the last use of what `encode` gave."""
    chain = bench.chain()
    for hour in range(3):
        chain.append(bench.batch(hour, received_at_ms=bench.hand.start_ms + hour * HOUR_MS))
    chain.commit()
    assert (chain._writer.encoded_count, chain._writer.released_count) == (3, 1)


def test_a_segment_ends_before_it_is_too_large(bench: Any) -> None:
    """Segments stay under the limit, also within one commit; the order stays."""
    chain = bench.chain(segment_bytes_max=100)
    write(bench, chain, list(range(7)))
    write(bench, chain, [7])
    chain.close()
    assert bench.stored() == list(range(8))
    for name in bench.data_files:
        assert bench.path(name).stat().st_size <= 100
        assert bench.contents(name).seal is not None
    assert bench.data_files[:2] == ["2026-01-01/00/data.bin", "2026-01-01/00/data-1.bin"]


def test_a_batch_above_the_limit_has_a_segment_of_its_own(bench: Any) -> None:
    """It can't be split."""
    chain = bench.chain(segment_bytes_max=100)
    chain.append(bench.batch(0))
    chain.append(bench.batch(1, text="x" * 500))
    chain.append(bench.batch(2))
    chain.commit()
    assert [bench.stored_in(name) for name in bench.data_files] == [[0], [1], [2]]


def test_a_segment_is_sealed_after_its_hour_and_late_data_opens_the_next(bench: Any) -> None:
    """Sealed `lateness_s` after the hour; what comes later lands in the same partition."""
    chain = bench.chain()
    bench.clock.turn(HOUR_MS - 1)
    write(bench, chain, [0])
    bench.clock.turn(60_000)
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    assert bench.contents("2026-01-01/00/data.bin").seal is None
    bench.clock.turn(1)
    chain.tick(bench.clock.now_ms())
    chain.segments.join()
    assert bench.contents("2026-01-01/00/data.bin").seal is not None
    write(bench, chain, [1])
    assert bench.data_files == ["2026-01-01/00/data.bin", "2026-01-01/00/data-1.bin"]


def test_an_idle_segment_is_sealed(bench: Any) -> None:
    """Long before its day is over."""
    chain = bench.chain(interval="daily", idle_s=300)
    write(bench, chain, [0])
    bench.clock.turn(300_000)
    chain.tick(bench.clock.now_ms())
    chain.close()
    seal = bench.contents("2026-01-01/data.bin").seal
    assert (seal.message_count, seal.event_count, seal.sealed_at_ms) == (1, 1, bench.clock.now_ms())


def test_the_least_recently_written_partition_gives_way(bench: Any) -> None:
    """No more partitions are open than allowed."""
    chain = bench.chain(open_partitions_max=2)
    for sequence, hour in enumerate([0, 1, 0, 2]):
        write(bench, chain, [sequence], received_at_ms=bench.hand.start_ms + hour * HOUR_MS)
    chain.segments.join()
    sealed = {n: bench.contents(n).seal is not None for n in bench.data_files}
    assert list(sealed.values()) == [False, True, False]


def test_a_parked_segment_is_opened_again_by_its_next_write(bench: Any) -> None:
    """Its descriptors go, the segment goes on."""
    chain = bench.chain()
    write(bench, chain, [0])
    (segment,) = chain.segments
    chain.segments.park(segment)
    assert not segment.has_files_open
    write(bench, chain, [1])
    assert bench.data_files == ["2026-01-01/00/data.bin"]
    assert bench.stored() == [0, 1]


def test_a_restart_knows_what_is_durable_and_begins_a_new_segment(bench: Any) -> None:
    """After a clean end and after a kill; no segment is ever appended to by another writer."""
    chain = bench.chain()
    write(bench, chain, [0, 1])
    chain.close()
    chain.close()
    second = bench.chain()
    assert second.epoch == 2
    assert bench.known(second) == {0, 1}
    write(bench, second, [2])
    bench.kill(second)
    third = bench.chain()
    assert bench.known(third) == {0, 1, 2}
    assert third.segment_counters.recovered == 1
    write(bench, third, [3])
    assert [bench.stored_in(name) for name in bench.data_files] == [[0, 1], [2], [3]]
    assert list(third.recovery_report) == []


def test_the_ledger_outlives_the_deletion_of_old_segments(bench: Any) -> None:
    """Each index begins with all that the earlier ones knew."""
    chain = bench.chain(segment_bytes_max=100)
    for sequence in range(10):
        write(bench, chain, [sequence])
    chain.close()
    for name in bench.data_files[:-1]:
        bench.path(name).unlink()
        bench.path(name + ".idx").unlink()
    assert bench.known(bench.chain()) == set(range(10))


def test_marks_stay_few_and_cover_what_is_open_and_newest(bench: Any) -> None:
    """A start looks at the marked segments only, and they hold the whole ledger."""
    chain = bench.chain(segment_bytes_max=100)
    for sequence in range(10):
        write(bench, chain, [sequence])
        chain.segments.join()
    assert len(bench.marks()) <= 2
    newest = bench.data_files[-1].replace("/", "~") + ".open"
    assert bench.marks()[-1].endswith(newest)
    chain.close()
    assert newest in "".join(bench.marks())


def test_a_workspace_without_its_lane_state_is_walked_once(bench: Any) -> None:
    """Someone restored the files but not `.lane`."""
    chain = bench.chain(segment_bytes_max=100)
    for sequence in range(5):
        write(bench, chain, [sequence])
    bench.kill(chain)
    for path in [*bench.path(".lane").iterdir()]:
        path.unlink()
    again = bench.chain()
    assert bench.known(again) == set(range(5))
    write(bench, again, [5])
    assert bench.stored() == list(range(6))


def test_lows_travel_with_the_commits(bench: Any) -> None:
    """What the producer has settled stays settled over a restart, without being listed."""
    chain = bench.chain()
    producer = bytes(range(16))
    write(bench, chain, [0, 1])
    chain.ledger.raise_low(producer, 7, 2)
    write(bench, chain, [5])
    bench.kill(chain)
    again = bench.chain()
    assert bench.known(again) == {5}
    assert again.ledger.has(producer, 7, 1, 0)
    assert not again.ledger.has(producer, 7, 3, 0)
    with pytest.raises(BatchConflictError):
        again.ledger.has(producer, 7, 5, 1)


def test_names_that_are_taken_are_passed_over(bench: Any) -> None:
    """Files of other software, or a stray index, are left as they are."""
    partition = bench.path("2026-01-01/00")
    partition.mkdir(parents=True)
    (partition / "data.bin").write_bytes(b"someone else's")
    (partition / "data-1.bin.idx").write_bytes(b"stray")
    write(bench, bench.chain(), [0])
    assert (partition / "data.bin").read_bytes() == b"someone else's"
    assert (partition / "data-1.bin.idx").read_bytes() == b"stray"
    assert (partition / "data-2.bin").exists()


def test_batches_that_contradict_themselves_are_refused(bench: Any) -> None:
    """Wrong workspace, wrong byte count, a time that no date names: the chain goes on."""
    chain = bench.chain()
    good = bench.batch(0)
    wrong = [{"workspace_id": 43}, {"record_bytes": 3}, {"received_at_ms": -5}]
    for changes in wrong:
        with pytest.raises(TerminalError):
            chain.append(type(good)(good.header._replace(**changes), good.records, good.offsets))
    assert not chain.is_dirty
    write(bench, chain, [1])
    assert bench.stored() == [1]


def test_workspace_zero_has_no_chain(bench: Any) -> None:
    """It stands for "none" on the wire."""
    with pytest.raises(TerminalError, match="workspace 0"):
        Chain(bench.base, 0, bench.writer(), ChainOptions()).open()
    assert not (bench.base / "0").exists()


def test_a_second_chain_on_the_host_is_refused(bench: Any) -> None:
    """Until the first has closed."""
    chain = bench.chain()
    with pytest.raises(TransientError, match=f"held by process {os.getpid()}"):
        bench.chain()
    chain.close()
    bench.chain()


def test_a_fenced_writer_acknowledges_nothing_and_leaves_all_as_it_is(bench: Any) -> None:
    """It had written and synced; the newer writer does not know of it; so it was not said."""
    first = bench.chain(shared_file_system=True)
    write(bench, first, [0])
    first.append(bench.batch(1))
    first.prepare()
    written = first.write_pending({})
    for segment in written:
        segment.sync(bench.fs)
    second = bench.chain(shared_file_system=True)
    assert bench.known(second) == {0, 1}  # it saw the commit, so it need not be written again
    with pytest.raises(FencedError):
        first.confirm({})
    before = bench.path("2026-01-01/00/data.bin.idx").read_bytes()
    first.close()
    first.tick(bench.clock.now_ms())
    assert bench.path("2026-01-01/00/data.bin.idx").read_bytes() == before


def test_a_successor_on_a_shared_file_system_waits_for_the_lease(bench: Any) -> None:
    """It writes its own segments at once, and settles the other's when the lease is over."""
    first = bench.chain(shared_file_system=True)
    write(bench, first, [0])
    second = bench.chain(shared_file_system=True, lease_s=30)
    first.append(bench.batch(1))
    first._fence.check = lambda: None  # it was stopped between the look and the write
    first.prepare()
    first.write_pending({})
    first.append(bench.batch(9, received_at_ms=bench.hand.start_ms + HOUR_MS))
    first._writes.clear()
    first.prepare()
    first.write_pending({})
    write(bench, second, [1])
    bench.clock.turn(29_999)
    second.tick(bench.clock.now_ms())
    assert bench.contents("2026-01-01/00/data.bin").seal is None
    bench.clock.turn(1)
    second.tick(bench.clock.now_ms())
    assert sorted(bench.stored()) == [0, 1]
    assert bench.contents("2026-01-01/00/data.bin").seal is not None
    assert bench.contents("2026-01-01/01/data.bin").seal.end_offset == 0
    second.close()
    assert bench.known(bench.chain(shared_file_system=True)) == {0, 1}


@pytest.mark.parametrize("fsync", ["interval", "off"])
def test_without_a_sync_per_commit_what_is_written_survives_a_kill(bench: Any, fsync: str) -> None:
    """The page cache is not lost with the process."""
    chain = bench.chain(fsync=fsync)
    write(bench, chain, [0])
    bench.fs.calls.clear()
    write(bench, chain, [1])
    assert [call for call in bench.fs.calls if call[0] == "sync"] == []
    bench.kill(chain)
    assert bench.known(bench.chain(fsync=fsync)) == {0, 1}


def test_the_interval_policy_syncs_in_the_background(bench: Any) -> None:
    """Once per interval, and only what is not yet on the disk."""
    chain = bench.chain(fsync="interval", fsync_interval_ms=1000)
    write(bench, chain, [0])
    bench.fs.calls.clear()
    for turn_ms in (1000, 500, 500):
        bench.clock.turn(turn_ms)
        chain.tick(bench.clock.now_ms())
    chain.segments.join()
    assert bench.fs.calls == [("sync", "data.bin"), ("sync", "data.bin.idx")]


def test_a_seal_vouches_for_synced_bytes_only(bench: Any) -> None:
    """What was acknowledged unsynced is synced before the seal is written, not after."""
    chain = bench.chain(fsync="interval")
    write(bench, chain, [0])
    bench.fs.calls.clear()
    chain.close()
    assert bench.fs.calls == [
        ("sync", "data.bin"),
        ("sync", "data.bin.idx"),
        ("append", "data.bin.idx"),
        ("sync", "data.bin.idx"),
    ]


def test_off_never_syncs_a_file(bench: Any) -> None:
    """Not even at the seal."""
    chain = bench.chain(fsync="off")
    write(bench, chain, [0])
    chain.tick(bench.clock.now_ms())
    chain.close()
    assert [call for call in bench.fs.calls if call[0].startswith("sync")] == []
    assert bench.contents("2026-01-01/00/data.bin").seal is not None


def test_counters_tell_what_became_durable(bench: Any) -> None:
    """Batches, messages, events, bytes, commits and segments."""
    chain = bench.chain()
    write(bench, chain, [0, 1])
    write(bench, chain, [2])
    counters = chain.counters
    assert (counters.batches, counters.messages, counters.events, counters.commits) == (3, 3, 3, 2)
    assert counters.written_bytes == Path(bench.path(bench.data_files[0])).stat().st_size
    chain.close()
    assert (chain.segment_counters.made, chain.segment_counters.sealed) == (1, 1)
