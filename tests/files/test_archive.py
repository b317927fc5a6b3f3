"""Walking an archive and proving it, byte by byte."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.files.archive import segments, verify
from cdp_ray_sinks.files.commit_index import (
    ENTRY,
    RANGE_CHECKSUM,
    Commit,
    IndexHeader,
    Seal,
    encode_commit,
    encode_seal,
    xxh3,
)
from cdp_ray_sinks.files.segment_path import parse_name, parse_place


def one_commit(maker: Any, **options: Any) -> list[list[Any]]:
    """Three batches in one commit: 6 messages, 12 events."""
    return [
        [
            maker.batch(
                [maker.message(2, filler=b"x" * (50 * n))] * (n + 1),
                sequence=n,
                event_count=2 * (n + 1),
                **options,
            )
            for n in range(3)
        ]
    ]


def damage_of(path: Path) -> list[tuple[str, int]]:
    """Where `verify` finds damage: names and offsets."""
    return [(Path(d.path).name, d.offset) for d in verify(path).damaged]


def test_segments_come_by_workspace_date_hour_and_writing(maker: Any, tmp_path: Path) -> None:
    """Numbers go by value: workspace 9 before 10, data-2 before data-10."""
    wanted = [
        ("9", "2026-01-02/00", "data.bin"),
        ("10", "2025-12-31/23", "data.bin"),
        ("10", "2026-01-01/07", "data.bin"),
        ("10", "2026-01-01/07", "data-2.bin"),
        ("10", "2026-01-01/07", "data-10.bin"),
        ("10", "2026-01-01/08", "data.bin"),
        ("11", "2026-01-01", "data.bin"),
    ]
    for workspace, partition, name in reversed(wanted):
        maker.segment(
            tmp_path,
            one_commit(maker),
            workspace_id=int(workspace),
            partition=partition,
            name=name,
        )
    found = [str(info.path.relative_to(tmp_path)) for info in segments(tmp_path)]
    assert found == ["/".join(parts) for parts in wanted]


def test_a_segment_is_described_without_reading_its_data(maker: Any, tmp_path: Path) -> None:
    """Workspace, begin of the partition, number and whether it is sealed."""
    path = maker.segment(tmp_path, one_commit(maker), partition="2026-01-01/05", name="data-1.bin")
    (info,) = segments(tmp_path)
    assert (info.path, info.index_path) == (path, path.with_name("data-1.bin.idx"))
    assert info.workspace_id == 42
    assert info.starts_at_ms == maker.start_ms + 5 * 3_600_000
    assert (info.name.place, info.segment_number, info.is_sealed) == (1, 3, True)


def test_an_open_segment_is_not_sealed(maker: Any, tmp_path: Path) -> None:
    """No seal record, no seal."""
    maker.segment(tmp_path, one_commit(maker), is_sealed=False)
    (info,) = segments(tmp_path)
    assert not info.is_sealed


def test_a_seal_with_something_behind_it_is_still_a_seal(maker: Any, tmp_path: Path) -> None:
    """A fenced writer may add behind it; nobody looks there."""
    path = maker.segment(tmp_path, one_commit(maker))
    index = path.with_name("data.bin.idx")
    index.write_bytes(index.read_bytes() + b"late" * 20)
    (info,) = segments(tmp_path)
    assert info.is_sealed
    assert verify(tmp_path).ok


def test_a_segment_without_index_is_listed_by_its_path(maker: Any, tmp_path: Path) -> None:
    """Other software's files have a place but no number."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.with_name("data.bin.idx").unlink()
    (info,) = segments(tmp_path)
    assert (info.index_path, info.segment_number, info.is_sealed) == (None, None, False)
    assert (info.workspace_id, info.starts_at_ms) == (42, maker.start_ms)


def test_hidden_directories_and_other_files_are_left_out(maker: Any, tmp_path: Path) -> None:
    """The lane's own directory and what other tools leave are no segments."""
    path = maker.segment(tmp_path, one_commit(maker))
    for other in ("42/.lane/data.bin", "42/2026-01-01/00/.data.bin", "42/notes.txt", "lock"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes(b"?")
    path.with_name("data.bin.idx.new").write_bytes(b"half")
    assert [info.path for info in segments(tmp_path)] == [path]


def test_one_workspace_can_be_asked_for(maker: Any, tmp_path: Path) -> None:
    """The others are not listed."""
    for workspace in (1, 2, 12):
        maker.segment(tmp_path, one_commit(maker), workspace_id=workspace)
    assert [info.workspace_id for info in segments(tmp_path, workspace=2)] == [2]


def test_any_directory_or_one_file_can_be_walked(maker: Any, tmp_path: Path) -> None:
    """A workspace, a date, a file: what is found is the same."""
    path = maker.segment(tmp_path, one_commit(maker))
    for start in (tmp_path, tmp_path / "42", path.parent.parent, path.parent, path):
        (info,) = segments(start)
        assert (info.path, info.workspace_id) == (path, 42)


def test_a_missing_archive_is_an_error(tmp_path: Path) -> None:
    """An empty answer would look like an empty archive."""
    for ask in (verify, lambda path: list(segments(path))):
        with pytest.raises(FileNotFoundError, match="absent"):
            ask(tmp_path / "absent")


def test_a_loop_of_links_ends(maker: Any, tmp_path: Path) -> None:
    """A link to a directory above does not lead round for ever."""
    maker.segment(tmp_path, one_commit(maker))
    (tmp_path / "42" / "2026-01-01" / "loop").symlink_to(tmp_path)
    assert 1 <= len(list(segments(tmp_path))) <= 8


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("data.bin", ("data", 0, ".bin")),
        ("data-3.bin", ("data", 3, ".bin")),
        ("data-12.bin.lz4", ("data", 12, ".bin.lz4")),
        ("events.log", ("events", 0, ".log")),
        ("data-0.bin", ("data-0", 0, ".bin")),
        ("a-b-2.bin", ("a-b", 2, ".bin")),
        ("data.bin.idx", None),
        (".data.bin", None),
        ("data", None),
    ],
)
def test_names_are_taken_apart(name: str, parts: tuple[str, int, str] | None) -> None:
    """Stream, place and suffix, or nothing for another file."""
    assert parse_name(name) == parts


@pytest.mark.parametrize(
    ("directory", "workspace_id", "hour"),
    [
        ("/a/42/2026-01-01/07", 42, 7),
        ("/a/42/2026-01-01", 42, 0),
        ("/a/0/2026-01-01", None, 0),
        ("/a/4294967296/2026-01-01", None, 0),
        ("/a/x/2026-01-01/23", None, 23),
        ("/a/42/2026-02-30/07", None, None),
        ("/a/42/24", None, None),
        ("/07", None, None),
        ("/", None, None),
    ],
)
def test_directories_tell_whose_and_when(
    maker: Any, directory: str, workspace_id: int | None, hour: int | None
) -> None:
    """Only what is a workspace, a date and an hour is taken for one."""
    place = parse_place(Path(directory) / "data.bin")
    starts_at_ms = None if hour is None else maker.start_ms + hour * 3_600_000
    assert place[:2] == (workspace_id, starts_at_ms)
    if starts_at_ms is not None:
        hours = 1 if Path(directory).name.isdigit() else 24
        assert place.ends_at_ms == starts_at_ms + hours * 3_600_000


def test_a_whole_archive_is_ok_and_counted(maker: Any, tmp_path: Path) -> None:
    """Segments, events, messages and bytes are those that were written."""
    sizes = [
        maker.segment(tmp_path, one_commit(maker), workspace_id=n, is_sealed=n == 1).stat().st_size
        for n in (1, 2)
    ]
    report = verify(tmp_path)
    assert report.ok
    assert (report.segments, report.events, report.messages) == (2, 24, 12)
    assert report.held_bytes == sum(sizes)
    assert (report.uncommitted_bytes, report.bytes_beyond_seals) == (0, 0)
    assert report.to_dict()["damaged"] == []


def test_progress_ends_at_all_bytes(maker: Any, tmp_path: Path) -> None:
    """It never goes back and never above the sum."""
    path = maker.segment(tmp_path, one_commit(maker))
    seen: list[tuple[int, int]] = []
    verify(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize("is_sealed", [True, False])
def test_any_flipped_byte_of_the_data_is_found(maker: Any, tmp_path: Path, is_sealed: bool) -> None:
    """Whichever byte it is, the batch that holds it is named by file and offset."""
    commits = one_commit(maker)
    path = maker.segment(tmp_path, commits, is_sealed=is_sealed)
    data = path.read_bytes()
    starts = [0]
    for batch in commits[0]:
        starts.append(starts[-1] + len(batch.records))
    rng = random.Random(5)
    for place in [0, 7, 24, 27, len(data) - 1, *rng.sample(range(len(data)), 120)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        (offset,) = [start for start, end in pairwise(starts) if start <= place < end]
        assert damage_of(path) == [("data.bin", offset)]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_any_flipped_byte_of_the_index_is_found(
    maker: Any, tmp_path: Path, is_sealed: bool
) -> None:
    """Every single byte of it, and the damage is in the index's own name."""
    commits = one_commit(maker) + one_commit(maker)
    path = maker.segment(tmp_path, commits, is_sealed=is_sealed)
    parts = maker.index(commits, is_sealed=is_sealed)
    index = path.with_name("data.bin.idx")
    data = index.read_bytes()
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    rng = random.Random(6)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        index.write_bytes(flipped)
        begin = max(start for start in starts if start <= place)
        assert damage_of(path) == [("data.bin.idx", begin)], place


def test_a_damage_says_what_and_where_inside_the_batch(maker: Any, tmp_path: Path) -> None:
    """A size that leads astray is named as the first record that does not frame."""
    path = maker.segment(tmp_path, one_commit(maker))
    data = bytearray(path.read_bytes())
    data[24] = 0xFF
    path.write_bytes(data)
    (damage,) = verify(path).damaged
    assert (damage.path, damage.offset) == (str(path), 0)
    assert "checksum does not hold" in damage.reason
    assert "the record at 0 does not frame" in damage.reason


def test_the_good_neighbours_of_a_damage_are_counted(maker: Any, tmp_path: Path) -> None:
    """Events in the damaged batch don't count, all others do."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.write_bytes(b"?" + path.read_bytes()[1:])
    report = verify(tmp_path)
    assert not report.ok
    assert (report.messages, report.events) == (5, 10)


def test_the_tail_of_an_open_segment_is_counted_but_no_damage(maker: Any, tmp_path: Path) -> None:
    """It was never acknowledged."""
    path = maker.segment(tmp_path, one_commit(maker), is_sealed=False)
    path.write_bytes(path.read_bytes() + b"torn" * 5)
    report = verify(tmp_path)
    assert (report.ok, report.uncommitted_bytes) == (True, 20)


def test_bytes_behind_a_seal_are_counted(maker: Any, tmp_path: Path) -> None:
    """Nobody reads them, and the report says that they are there."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.write_bytes(path.read_bytes() + b"late" * 5)
    report = verify(tmp_path)
    assert (report.ok, report.bytes_beyond_seals) == (True, 20)


def test_cut_data_is_found(maker: Any, tmp_path: Path) -> None:
    """Committed bytes that are gone are damage at the end of the file."""
    path = maker.segment(tmp_path, one_commit(maker))
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    assert damage_of(path) == [("data.bin", len(data) - 9)]


def test_a_missing_data_file_is_found(maker: Any, tmp_path: Path) -> None:
    """An index without its segment is named, in the directory and as a file."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.unlink()
    assert damage_of(tmp_path) == [("data.bin.idx", 0)]
    assert damage_of(path) == [("data.bin.idx", 0)]
    assert list(segments(tmp_path)) == []


def test_a_file_without_index_is_proven_by_walking_it(maker: Any, tmp_path: Path) -> None:
    """Counts come from the messages, and a torn tail is damage."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.with_name("data.bin.idx").unlink()
    report = verify(tmp_path)
    assert (report.ok, report.messages, report.events) == (True, 6, 12)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"torn")
    assert damage_of(path) == [("data.bin", size)]


def test_a_lost_commit_record_leaves_its_events_counted(maker: Any, tmp_path: Path) -> None:
    """Its range still frames between its neighbours."""
    commits = [*one_commit(maker), *one_commit(maker), *one_commit(maker)]
    path = maker.segment(tmp_path, commits)
    parts = maker.index(commits)
    parts[3] = bytes(len(parts[3]))
    path.with_name("data.bin.idx").write_bytes(b"".join(parts))
    report = verify(tmp_path)
    assert (report.damaged_count, report.events) == (1, 36)


def test_a_seal_that_counts_wrongly_is_found(maker: Any, tmp_path: Path) -> None:
    """An index whose records are each valid but do not belong together."""
    commits = one_commit(maker)
    path = maker.segment(tmp_path, commits)
    parts = maker.index(commits)

    lie = maker.batch([b"x" * 20], event_count=5)
    fake = type(lie)(
        lie.header._replace(record_bytes=path.stat().st_size), lie.records, lie.offsets
    )
    parts[-1] = maker.index([[fake]])[-1]
    path.with_name("data.bin.idx").write_bytes(b"".join(parts))
    (damage,) = verify(path).damaged
    assert damage.reason == "seal counts 1 messages and 5 events, the commits 6 and 12"


def test_an_index_of_another_workspace_is_found(maker: Any, tmp_path: Path) -> None:
    """A tenant's file in another tenant's directory is damage."""
    path = maker.segment(tmp_path, one_commit(maker))
    path.with_name("data.bin.idx").write_bytes(
        b"".join(maker.index(one_commit(maker), workspace_id=7))
    )
    (damage,) = verify(tmp_path).damaged
    assert "index is of workspace 7" in damage.reason


def test_no_file_in_the_place_of_one_is_found(maker: Any, tmp_path: Path) -> None:
    """A pipe or a directory named like a segment ends in a report, not in a wait."""
    place = tmp_path / "42" / "2026-01-01" / "00"
    place.mkdir(parents=True)
    os.mkfifo(place / "data.bin")
    (place / "data-1.bin.idx").write_bytes(b"?")
    assert [name for name, _ in damage_of(tmp_path)] == ["data.bin", "data-1.bin.idx"]


def test_serialised_segments_are_proven_by_range(tmp_path: Path) -> None:
    """Where the index says so, each commit's own checksum stands for its bytes."""
    directory = tmp_path / "42" / "2026-01-01"
    directory.mkdir(parents=True)
    path = directory / "events.log"
    lines = [b"first line\n", b"second line\n" * 3]
    path.write_bytes(b"".join(lines))
    entries = np.zeros(2, ENTRY)
    entries["message_count"], entries["event_count"] = [1, 2], [10, 20]
    index = IndexHeader(1, 1, 42, 0, RANGE_CHECKSUM).to_bytes()
    end = 0
    for line in lines:
        start, end = end, end + len(line)
        index += encode_commit(Commit(start, end, xxh3(line), 0, entries))
    index += encode_seal(Seal(end, 6, 60, 0))
    path.with_name("events.log.idx").write_bytes(index)
    report = verify(tmp_path)
    assert (report.ok, report.messages, report.events) == (True, 6, 60)
    path.write_bytes(path.read_bytes().replace(b"second", b"decond", 1))
    assert damage_of(tmp_path) == [("events.log", len(lines[0]))]
    path.write_bytes(lines[0])
    assert damage_of(tmp_path) == [("events.log", len(lines[0]))]
