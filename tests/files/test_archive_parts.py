"""Parts of an archive: all batches, once each, and the same parts whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.files import archive_parts as module
from cdp_ray_sinks.files.archive_parts import archive_parts
from cdp_ray_sinks.files.selection import Selection

ALL = Selection()


def twelve(maker: Any, first: int, count: int = 12) -> list[Any]:
    """Batches received two minutes after one another, numbered from `first` on."""
    at_ms = maker.start_ms
    return [
        maker.batch([maker.message()] * 3, sequence=first + n, received_at_ms=at_ms + n * 120_000)
        for n in range(count)
    ]


@pytest.fixture
def archive(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve batches in six commits, a plain segment and a compressed one; parts of two commits."""
    for name, first in (("data.bin", 0), ("data-1.bin.lz4", 100)):
        batches = twelve(maker, first)
        maker.segment(tmp_path, [batches[n : n + 2] for n in range(0, 12, 2)], name=name)
    held = sum(len(batch.records) for batch in batches[:4])
    monkeypatch.setattr(module, "PART_BYTES", held)
    return tmp_path


def placed(path: Path, selection: Selection) -> list[tuple[str, int, int, int]]:
    """Segment, start of the part, place in it and sequence of each batch."""
    return [
        (part.segment_id, part.start, place, batch.header.sequence)
        for part in archive_parts(path, selection, pytest.fail)
        for place, batch in part.batches(selection, pytest.fail)
    ]


def test_parts_hold_each_batch_once(archive: Path) -> None:
    """In the archive's order, three parts for each segment."""
    parts = list(archive_parts(archive, ALL, pytest.fail))
    assert [part.events for part in parts] == [12] * 6
    assert [part.start for part in parts[:3]] == [0, parts[0].end, parts[1].end]
    assert [sequence for *_, sequence in placed(archive, ALL)] == [*range(12), *range(100, 112)]
    assert len({where[:3] for where in placed(archive, ALL)}) == 24


def test_a_batch_has_its_place_whatever_is_selected(archive: Path, maker: Any) -> None:
    """A time range finds fewer batches, under the same part and place."""
    start_ms = maker.start_ms + 4 * 120_000
    few = Selection(start_ms, start_ms + 5 * 120_000)
    found = placed(archive, few)
    assert [sequence for *_, sequence in found] == [*range(4, 10), *range(104, 110)]
    assert set(found) < set(placed(archive, ALL))
    assert placed(archive, Selection(workspaces=frozenset([43]))) == []


def test_what_is_added_leaves_earlier_parts_as_they_are(archive: Path, maker: Any) -> None:
    """An open segment that grows has the same batches in the same places, and more."""
    before = set(placed(archive, ALL))
    batches = twelve(maker, 0, 16)
    maker.segment(archive, [batches[n : n + 2] for n in range(0, 16, 2)], name="data.bin")
    after = set(placed(archive, ALL))
    assert before < after
    assert len(after) == 28


def test_a_file_without_an_index_is_one_part(archive: Path) -> None:
    """Nothing tells where it could be cut; all of it is read all the same."""
    (index,) = archive.rglob("data.bin.idx")
    index.unlink()
    parts = list(archive_parts(archive, ALL, pytest.fail))
    whole = [part for part in parts if part.end is None]
    assert [part.start for part in whole] == [0]
    read = [batch for _, batch in whole[0].batches(ALL, pytest.fail)]
    assert sum(batch.header.message_count for batch in read) == 36


def test_damage_is_reported(archive: Path) -> None:
    """A batch whose bytes changed is left out and named, the others come."""
    (data,) = archive.rglob("data.bin")
    content = bytearray(data.read_bytes())
    content[60] ^= 1
    data.write_bytes(bytes(content))
    damaged: list[Any] = []
    found = [
        batch.header.sequence
        for part in archive_parts(data, ALL, damaged.append)
        for _, batch in part.batches(ALL, damaged.append)
    ]
    assert found == [*range(1, 12)]
    assert len(damaged) == 1
