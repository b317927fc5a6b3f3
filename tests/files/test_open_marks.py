"""The marks that spare a start the walk over the whole tree."""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.files.open_marks import Mark, OpenMarks


def test_marks_are_read_back_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """By number, not by name; hourly and daily paths alike."""
    marks = OpenMarks(tmp_path)
    assert marks.read() == []
    hourly, daily = Mark(10, "2026-01-01/07/data-1.bin"), Mark(9, "2026-01-01/data.bin")
    marks.add(hourly)
    marks.add(daily)
    marks.add(daily)
    assert marks.read() == [daily, hourly]
    assert (tmp_path / ".lane" / "10~2026-01-01~07~data-1.bin.open").exists()
    marks.remove([daily, Mark(3, "never/was")])
    assert marks.read() == [hourly]


def test_what_is_no_mark_is_ignored(tmp_path: Path) -> None:
    """Stray names, and names that would lead out of the workspace."""
    marks = OpenMarks(tmp_path)
    marks.add(Mark(1, "2026-01-01/data.bin"))
    for name in ("x~data.bin", "5", "5~", "5~..~..~data.bin", "5~a~~b", "-1~a"):
        (marks.directory / f"{name}.open").write_bytes(b"")
    (marks.directory / "6~2026-01-01~data.bin").write_bytes(b"")
    assert marks.read() == [Mark(1, "2026-01-01/data.bin")]


def test_without_marks_every_indexed_segment_is_found(tmp_path: Path) -> None:
    """A workspace restored without its `.lane` is walked once."""
    for name in ("2026-01-02/03/data.bin", "2026-01-01/data.bin", "2026-01-01/foreign.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        if "foreign" not in name:
            (tmp_path / (name + ".idx")).write_bytes(b"")
    found = [mark.path for mark in OpenMarks(tmp_path).unmarked_segments()]
    assert found == ["2026-01-01/data.bin", "2026-01-02/03/data.bin"]
