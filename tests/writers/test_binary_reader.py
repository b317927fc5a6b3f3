"""Reading disk_binary files, whole and damaged, with an index and without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.writers.binary import BinaryReader


def three_commits(maker: Any) -> list[list[Any]]:
    """Six batches in three commits, of 1, 2, 3, ... messages."""
    batches = [
        maker.batch(
            [maker.message(2, filler=b"%d" % (10 * number + m)) for m in range(number + 1)],
            sequence=number,
            event_count=2 * (number + 1),
            received_at_ms=maker.start_ms + 1000 * number,
        )
        for number in range(6)
    ]
    return [batches[:1], batches[1:3], batches[3:]]


def test_every_batch_comes_back_as_it_was_written(maker: Any, tmp_path: Path) -> None:
    """Ids, counts, times, checksums, records and offsets are those of the written batches."""
    commits = three_commits(maker)
    path = maker.segment(tmp_path, commits)
    with BinaryReader.open(path) as reader:
        found = list(reader.batches())
    written = [batch for commit in commits for batch in commit]
    assert [b.header for b in found] == [b.header._replace(source_id="") for b in written]
    assert [b.records.tobytes() for b in found] == [b.records.tobytes() for b in written]
    assert [b.offsets.tolist() for b in found] == [b.offsets.tolist() for b in written]
    assert reader.damaged == []


def test_batches_are_views_of_the_file_that_nobody_can_write(maker: Any, tmp_path: Path) -> None:
    """Nothing is copied, and a batch outlives its reader."""
    path = maker.segment(tmp_path, three_commits(maker))
    with BinaryReader.open(path) as reader:
        batch = next(reader.batches())
    del reader
    assert not batch.records.flags.owndata
    assert not batch.records.flags.writeable
    assert batch.records.tobytes() == path.read_bytes()[: len(batch.records)]


def test_messages_come_with_metadata_and_offset(maker: Any, tmp_path: Path) -> None:
    """Each message has its received time, its address, its bytes and its place."""
    messages = [maker.message(filler=text) for text in (b"one", b"two!")]
    path = maker.segment(tmp_path, [[maker.batch(messages, step_ms=5)]])
    with BinaryReader.open(path) as reader:
        first, second = reader.read_all()
    assert [bytes(first.message), bytes(second.message)] == messages
    assert first.metadata.batch_timestamp == maker.start_ms
    assert second.metadata.batch_timestamp == maker.start_ms + 5
    assert (first.offset, second.offset) == (0, 28 + len(messages[0]))
    assert first.metadata.source_ip_string() == "::"


def test_read_message_ends_with_none(maker: Any, tmp_path: Path) -> None:
    """Behind the last message there is None, again and again."""
    path = maker.segment(tmp_path, [[maker.batch([b"x" * 20])]])
    with BinaryReader.open(path) as reader:
        assert reader.read_message() is not None
        assert reader.read_message() is None
        assert reader.read_message() is None


def test_messages_goes_on_behind_read_message(maker: Any, tmp_path: Path) -> None:
    """The iterator gives what has not been read yet."""
    path = maker.segment(tmp_path, three_commits(maker))
    with BinaryReader.open(path) as reader:
        reader.read_message()
        assert len(list(reader.messages())) == 20


def test_what_lies_behind_the_last_commit_is_not_read(maker: Any, tmp_path: Path) -> None:
    """Bytes that no commit covers were never acknowledged, be they whole records or not."""
    path = maker.segment(tmp_path, three_commits(maker), is_sealed=False)
    tail = maker.record(maker.message(), maker.start_ms)
    path.write_bytes(path.read_bytes() + tail + tail[:10])
    with BinaryReader.open(path) as reader:
        assert len(reader.read_all()) == 21
        assert reader.damaged == []


def test_a_torn_index_tail_is_no_damage(maker: Any, tmp_path: Path) -> None:
    """A commit record that a crash cut short just does not count."""
    commits = three_commits(maker)
    path = maker.segment(tmp_path, commits, is_sealed=False)
    index = path.with_name("data.bin.idx")
    index.write_bytes(index.read_bytes()[:-20])
    with BinaryReader.open(path) as reader:
        assert sum(b.header.message_count for b in reader.batches()) == 6
        assert reader.damaged == []


def test_a_damaged_batch_is_named_and_its_neighbours_are_read(maker: Any, tmp_path: Path) -> None:
    """One flipped bit costs the batch that it is in and nothing else."""
    commits = three_commits(maker)
    path = maker.segment(tmp_path, commits)
    data = bytearray(path.read_bytes())
    start = sum(len(b.records) for b in [*commits[0], *commits[1]])
    data[start + 60] ^= 4
    path.write_bytes(data)
    seen: list[CorruptSegmentError] = []
    with BinaryReader.open(path, on_damage=seen.append) as reader:
        sequences = [b.header.sequence for b in reader.batches()]
        assert len(reader.read_all()) == 21 - 4
    assert sequences == [0, 1, 2, 4, 5]
    assert [(d.path, d.offset) for d in reader.damaged] == [(str(path), start)]
    assert seen == reader.damaged


def test_a_lost_commit_record_costs_only_the_ids(maker: Any, tmp_path: Path) -> None:
    """With a damaged record in the index its range is read by walking the records."""
    commits = three_commits(maker)
    path = maker.segment(tmp_path, commits)
    parts = maker.index(commits)
    parts[3] = parts[3][:60] + bytes([parts[3][60] ^ 1]) + parts[3][61:]
    path.with_name("data.bin.idx").write_bytes(b"".join(parts))
    with BinaryReader.open(path) as reader:
        found = list(reader.batches())
        assert len(reader.read_all()) == 21
    assert [b.header.producer == maker.producer for b in found] == [True, False, *[True] * 3]
    assert sum(b.header.event_count for b in found) == 42
    assert [d.path for d in reader.damaged] == [str(path) + ".idx"]
    assert reader.damaged[0].offset == sum(map(len, parts[:3]))


@pytest.mark.parametrize("offset", [0, 8, 20, 58])
def test_a_damaged_index_header_costs_nothing(maker: Any, tmp_path: Path, offset: int) -> None:
    """The commits prove themselves, and the path tells the workspace."""
    path = maker.segment(tmp_path, three_commits(maker))
    index = path.with_name("data.bin.idx")
    data = bytearray(index.read_bytes())
    data[offset] ^= 0x40
    index.write_bytes(data)
    with BinaryReader.open(path) as reader:
        found = list(reader.batches())
    assert [b.header.sequence for b in found] == list(range(6))
    assert {b.header.workspace_id for b in found} == {42}
    assert [d.path for d in reader.damaged] == [str(index)]


def test_a_file_without_index_is_walked(maker: Any, tmp_path: Path) -> None:
    """Other software's files come as batches without id, with counts from the messages."""
    path = maker.segment(tmp_path, three_commits(maker))
    path.with_name("data.bin.idx").unlink()
    with BinaryReader.open(path) as reader:
        (batch,) = reader.batches()
        assert len(reader.read_all()) == 21
    assert batch.header.producer == bytes(16)
    assert (batch.header.message_count, batch.header.event_count) == (21, 42)
    assert (batch.header.schema_type, batch.header.event_types) == (1, 2)
    assert (batch.header.workspace_id, batch.header.received_at_ms) == (42, maker.start_ms)
    assert (batch.header.time_min_ms, batch.header.time_max_ms) == (
        maker.start_ms,
        maker.start_ms + 1,
    )
    assert batch.records.tobytes() == path.read_bytes()


def test_walked_batches_stay_within_their_bytes(maker: Any, tmp_path: Path) -> None:
    """`records_bytes_max` bounds them; a record that is larger comes alone."""
    messages = [maker.message(filler=b"x" * size) for size in (10, 10, 3000, 10, 10)]
    path = maker.segment(tmp_path, [[maker.batch(messages)]])
    path.with_name("data.bin.idx").unlink()
    with BinaryReader.open(path) as reader:
        found = list(reader.batches(records_bytes_max=600))
    assert [b.header.message_count for b in found] == [2, 1, 2]
    assert b"".join(b.records.tobytes() for b in found) == path.read_bytes()


def test_walked_batches_hold_one_schema_and_one_hour(maker: Any, tmp_path: Path) -> None:
    """What the batch promises holds for them too."""
    hour_ms = 3_600_000
    plan = [(1, 0), (1, 1), (2, 2), (2, hour_ms), (1, hour_ms), (1, hour_ms + 1)]
    records = [
        maker.record(maker.message(schema_type=schema), maker.start_ms + after)
        for schema, after in plan
    ]
    path = tmp_path / "data.bin"
    path.write_bytes(b"".join(records))
    with BinaryReader.open(path) as reader:
        found = list(reader.batches())
    assert [
        (b.header.schema_type, b.header.received_at_ms - maker.start_ms, b.header.message_count)
        for b in found
    ] == [(1, 0, 2), (2, 2, 1), (2, hour_ms, 1), (1, hour_ms, 2)]


def test_keys_in_other_softwares_files_go_no_further(maker: Any, tmp_path: Path) -> None:
    """Key bytes that are still in a file are zero in the batch; the file keeps them."""
    key = b"secret-key-bytes"
    path = tmp_path / "data.bin"
    path.write_bytes(maker.record(maker.message(3, key=key), maker.start_ms))
    with BinaryReader.open(path) as reader:
        (batch,) = reader.batches()
    assert key not in batch.records.tobytes()
    assert batch.records.tobytes() == path.read_bytes().replace(key, bytes(16))
    assert batch.header.event_count == 3
    assert key in path.read_bytes()


@pytest.mark.parametrize("cut", [1, 27, 28, 29, 100])
def test_a_torn_tail_without_index_is_reported_after_the_rest(
    maker: Any, tmp_path: Path, cut: int
) -> None:
    """All whole records are read, then the torn one is named by its offset."""
    record = maker.record(maker.message(), maker.start_ms)
    path = tmp_path / "data.bin"
    path.write_bytes(record * 3 + record[:cut])
    with BinaryReader.open(path) as reader:
        assert len(reader.read_all()) == 3
    assert [(d.offset, d.reason) for d in reader.damaged] == [(3 * len(record), "torn record")]


def test_a_tail_of_zeros_is_not_a_row_of_messages(maker: Any, tmp_path: Path) -> None:
    """A crash may leave zeros behind the last record: they frame, but they are nothing."""
    record = maker.record(maker.message(), maker.start_ms)
    path = tmp_path / "data.bin"
    path.write_bytes(record * 2 + bytes(4096))
    with BinaryReader.open(path) as reader:
        assert len(reader.read_all()) == 2
    assert [d.offset for d in reader.damaged] == [2 * len(record)]


def test_an_absurd_size_allocates_nothing(maker: Any, tmp_path: Path) -> None:
    """A record that claims four gigabytes ends the walk there."""
    record = maker.record(maker.message(), maker.start_ms)
    path = tmp_path / "data.bin"
    path.write_bytes(record + record[:24] + b"\xff\xff\xff\xff" + record[28:])
    with BinaryReader.open(path) as reader:
        assert len(reader.read_all()) == 1
    assert [d.offset for d in reader.damaged] == [len(record)]


def test_an_entry_cannot_claim_more_messages_than_its_bytes(maker: Any, tmp_path: Path) -> None:
    """A count of four billion in a valid index is a damage, not an allocation."""
    batch = maker.batch([maker.message()])
    liar = type(batch)(batch.header._replace(message_count=2**32 - 1), batch.records, batch.offsets)
    path = maker.segment(tmp_path, [[liar]])
    with BinaryReader.open(path) as reader:
        assert list(reader.batches()) == []
    assert "1 of 4294967295 records frame" in reader.damaged[0].reason


def test_missing_committed_bytes_are_reported(maker: Any, tmp_path: Path) -> None:
    """A data file shorter than its commits gives what is there and says what is not."""
    path = maker.segment(tmp_path, three_commits(maker))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with BinaryReader.open(path) as reader:
        assert [b.header.sequence for b in reader.batches()] == [0, 1, 2, 3, 4]
    assert [(d.offset, d.reason) for d in reader.damaged] == [
        (len(data) - 1, "1 committed bytes are missing, the file ends")
    ]


def test_reading_twice_reports_a_damage_once(maker: Any, tmp_path: Path) -> None:
    """`damaged` lists places, not passes."""
    path = maker.segment(tmp_path, three_commits(maker))
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with BinaryReader.open(path) as reader:
        list(reader.batches())
        list(reader.batches())
    assert len(reader.damaged) == 1


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    """No bytes, no messages, no damage."""
    path = tmp_path / "data.bin"
    path.touch()
    with BinaryReader.open(path) as reader:
        assert reader.read_all() == []
        assert list(reader.batches()) == []
        assert reader.damaged == []


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    """A missing file, a directory and a pipe are told apart, and none of them hangs."""
    with pytest.raises(FileNotFoundError):
        BinaryReader.open(tmp_path / "absent.bin")
    with pytest.raises(CorruptSegmentError, match="not a regular file"):
        BinaryReader.open(tmp_path)
    pipe = tmp_path / "pipe.bin"
    os.mkfifo(pipe)
    with pytest.raises(CorruptSegmentError, match="not a regular file"):
        BinaryReader.open(pipe)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_file_cut_while_it_is_read_ends_in_a_report(
    maker: Any, tmp_path: Path, with_index: bool
) -> None:
    """Mapped bytes that are gone are damage; touching them would have killed the process."""
    batches = [maker.batch([maker.message(filler=b"x" * 9000)] * 3, sequence=n) for n in range(9)]
    path = maker.segment(tmp_path, [batches])
    if not with_index:
        path.with_name("data.bin.idx").unlink()
    with BinaryReader.open(path) as reader:
        os.truncate(path, 4096 * 8)
        found = list(reader.batches(records_bytes_max=30_000))
        assert 1 <= len(found) < 9
        assert reader.damaged
        assert all("can't be read" in damage.reason for damage in reader.damaged)
