"""What a start makes of segments that a crash, a power cut or decay left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.files.commit_index import HEADER_BYTES, parse_index
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.files.recovery import inspect_segment, settle_segment

FS = LocalFileSystem()


def commits_of(hand: Any) -> list[list[Any]]:
    """Three commits of 1, 2 and 3 batches with sequences 0..5."""
    batches = [hand.batch([b"batch %d" % s], sequence=s) for s in range(6)]
    return [batches[:1], batches[1:3], batches[3:]]


def sequences(commits: list[Any]) -> list[int]:
    return [int(entry["sequence"]) for commit in commits for entry in commit.entries]


def recover(path: Path) -> Any:
    """Inspect and settle; the segment must then be sealed and inspect clean."""
    found = inspect_segment(path)
    assert settle_segment(FS, found, 1)
    again = inspect_segment(path)
    assert again.is_settled
    assert not again.damage
    contents = parse_index(again.index_path.read_bytes(), "")
    assert contents.damage is None
    assert contents.seal is not None
    assert contents.seal.end_offset == path.stat().st_size == found.end_offset
    assert contents.seal.message_count == len(sequences(again.good_commits))
    return found


def test_a_segment_left_open_is_sealed_where_it_ends(hand: Any, tmp_path: Path) -> None:
    """All commits hold: nothing is cut, nothing is reported."""
    path = hand.segment(tmp_path, commits_of(hand), is_sealed=False)
    before = path.read_bytes()
    found = recover(path)
    assert found.damage == []
    assert path.read_bytes() == before
    assert {s for entry in found.ledger for s in entry.durable} == set(range(6))


def test_bytes_behind_the_last_commit_are_cut(hand: Any, tmp_path: Path) -> None:
    """They were never acknowledged."""
    path = hand.segment(tmp_path, commits_of(hand), is_sealed=False)
    before = path.read_bytes()
    path.write_bytes(before + b"half of a batch")
    recover(path)
    assert path.read_bytes() == before


def test_a_data_file_cut_anywhere_in_its_last_commit_goes_back_to_the_one_before(
    hand: Any, tmp_path: Path
) -> None:
    """The index got to the disk, the data did not: every length the tail may have."""
    commits = commits_of(hand)
    path = hand.segment(tmp_path, commits, is_sealed=False)
    data, index = path.read_bytes(), Path(f"{path}.idx").read_bytes()
    kept = sum(len(b.records) for commit in commits[:2] for b in commit)
    for length in range(kept, len(data)):
        path.write_bytes(data[:length])
        Path(f"{path}.idx").write_bytes(index)
        found = recover(path)
        assert sequences(found.good_commits) == [0, 1, 2]
        assert found.damage[0].path == str(path)
        assert found.damage[0].offset >= kept
        assert path.read_bytes() == data[:kept]


def test_an_index_cut_anywhere_in_its_last_record_goes_back_to_the_commit_before(
    hand: Any, tmp_path: Path
) -> None:
    """The data got to the disk, the index did not."""
    commits = commits_of(hand)
    path = hand.segment(tmp_path, commits, is_sealed=False)
    data = path.read_bytes()
    parts = hand.index(commits, is_sealed=False)
    index = b"".join(parts)
    kept = sum(len(b.records) for commit in commits[:2] for b in commit)
    for length in range(len(index) - len(parts[-1]), len(index)):
        path.write_bytes(data)
        Path(f"{path}.idx").write_bytes(index[:length])
        found = recover(path)
        assert sequences(found.good_commits) == [0, 1, 2]
        assert path.read_bytes() == data[:kept]


def test_a_tail_of_zeros_is_cut(hand: Any, tmp_path: Path) -> None:
    """A file system may lengthen a file before the bytes arrive."""
    commits = commits_of(hand)
    path = hand.segment(tmp_path, commits, is_sealed=False)
    data, parts = path.read_bytes(), hand.index(commits, is_sealed=False)
    kept = sum(len(b.records) for commit in commits[:2] for b in commit)
    path.write_bytes(data[:kept] + bytes(len(data) - kept))
    Path(f"{path}.idx").write_bytes(b"".join(parts[:-1]) + bytes(len(parts[-1])))
    assert sequences(recover(path).good_commits) == [0, 1, 2]


def test_decay_in_the_middle_costs_only_the_commit_it_hit(hand: Any, tmp_path: Path) -> None:
    """Good commits behind a bad one were acknowledged: they are kept, the bad one reported."""
    path = hand.segment(tmp_path, commits_of(hand), is_sealed=False)
    data = bytearray(path.read_bytes())
    first = len(commits_of(hand)[0][0].records)
    data[first + 3] ^= 1
    path.write_bytes(data)
    found = inspect_segment(path)
    assert settle_segment(FS, found, 1)
    assert sequences(found.good_commits) == [0, 3, 4, 5]
    assert found.end_offset == len(data)
    assert [(d.path, d.offset) for d in found.damage] == [(str(path), first)]
    assert {s for entry in found.ledger for s in entry.durable} == {0, 3, 4, 5}


def test_decay_in_the_middle_of_an_index_cuts_nothing(hand: Any, tmp_path: Path) -> None:
    """Records behind the damaged one prove it was no torn write: both files stay."""
    commits = commits_of(hand)
    path = hand.segment(tmp_path, commits, is_sealed=False)
    parts = hand.index(commits, is_sealed=False)
    index = bytearray(b"".join(parts))
    place = sum(map(len, parts[:3]))
    index[place + 20] ^= 4
    index_path = Path(f"{path}.idx")
    index_path.write_bytes(index)
    data = path.read_bytes()
    found = inspect_segment(path)
    assert settle_segment(FS, found, 1)
    assert (path.read_bytes(), index_path.read_bytes()) == (data, bytes(index))
    assert [(d.path, d.offset) for d in found.damage] == [(str(index_path), place)]
    assert {s for entry in found.ledger for s in entry.durable} == {0, 3, 4, 5}


def test_a_sealed_segment_is_believed_and_what_lies_behind_ignored(
    hand: Any, tmp_path: Path
) -> None:
    """Its bytes are not read again; late writes of a fenced writer are not ours."""
    path = hand.segment(tmp_path, commits_of(hand))
    with path.open("ab") as file:
        file.write(b"late")
    with Path(f"{path}.idx").open("ab") as file:
        file.write(b"late too")
    found = inspect_segment(path)
    assert found.is_settled
    assert found.damage == []
    assert sequences(found.good_commits) == list(range(6))


@pytest.mark.parametrize("index", [b"", b"\0" * 64, b"CDPIDX1\0 torn"])
def test_files_made_but_never_written_are_removed(tmp_path: Path, index: bytes) -> None:
    """A kill between making the files and the first commit leaves nothing."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"")
    Path(f"{path}.idx").write_bytes(index)
    assert settle_segment(FS, inspect_segment(path), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_mark_without_files_is_nothing(tmp_path: Path) -> None:
    """A kill between the mark and the files."""
    found = inspect_segment(tmp_path / "data.bin")
    assert settle_segment(FS, found, 1)
    assert found.damage == []


def test_data_whose_index_is_gone_is_left_and_reported(hand: Any, tmp_path: Path) -> None:
    """It may be all that is left of someone's events."""
    path = hand.segment(tmp_path, commits_of(hand))
    data = path.read_bytes()
    Path(f"{path}.idx").unlink()
    found = inspect_segment(path)
    assert settle_segment(FS, found, 1)
    assert path.read_bytes() == data
    assert [d.path for d in found.damage] == [f"{path}.idx"]


def test_an_index_whose_data_is_gone_still_tells_the_ledger(hand: Any, tmp_path: Path) -> None:
    """Who deletes old data does not want it written again."""
    path = hand.segment(tmp_path, commits_of(hand), is_sealed=False)
    path.unlink()
    found = inspect_segment(path)
    assert settle_segment(FS, found, 1)
    assert {s for entry in found.ledger for s in entry.durable} == set(range(6))
    assert found.damage[0].reason.startswith("the segment is gone")


def test_settling_late_cuts_at_what_was_seen(hand: Any, tmp_path: Path) -> None:
    """A commit that came after the look was never acknowledged."""
    commits = commits_of(hand)
    path = hand.segment(tmp_path, commits[:2], is_sealed=False)
    found = inspect_segment(path)
    hand.segment(tmp_path, commits, is_sealed=False)
    assert settle_segment(FS, found, 1)
    contents = parse_index(found.index_path.read_bytes(), "")
    assert sequences(contents.commits) == [0, 1, 2]
    assert contents.seal is not None
    assert contents.seal.end_offset == path.stat().st_size


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_crashes_a_start_or_makes_up_a_batch(data: st.DataObject) -> None:
    """Bytes flipped, cut and added anywhere: what is still called good has its own bytes."""
    hand, path, original, index = _shared_segment()
    changed = {"data": bytearray(original), "index": bytearray(index)}
    for _ in range(data.draw(st.integers(1, 3))):
        body = changed[data.draw(st.sampled_from(["data", "index"]))]
        place = data.draw(st.integers(0, max(0, len(body) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip" and body:
            body[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del body[place:]
        else:
            body[place:place] = data.draw(st.binary(max_size=20))
    path.write_bytes(changed["data"])
    Path(f"{path}.idx").write_bytes(changed["index"])
    found = inspect_segment(path)
    for commit in found.good_commits if not found.is_settled else []:
        for entry in commit.entries:
            expected = hand.batch([b"batch %d" % entry["sequence"]], sequence=0).records
            assert expected.tobytes() in bytes(changed["data"])
    assert settle_segment(FS, found, 1)
    inspect_segment(path)


_shared: list[Any] = []


@pytest.fixture(autouse=True)
def shared_segment(hand: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One segment that the property test damages again and again."""
    if not _shared:
        path = hand.segment(tmp_path_factory.mktemp("s"), commits_of(hand), is_sealed=False)
        _shared.extend([hand, path, path.read_bytes(), Path(f"{path}.idx").read_bytes()])


def _shared_segment() -> Any:
    return _shared


def test_the_header_is_as_long_as_it_says(hand: Any) -> None:
    """What the offsets in this file rest on."""
    assert len(hand.index([])[0]) == HEADER_BYTES
