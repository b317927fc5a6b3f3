"""The file that counts rows: each generation once, whatever the disk does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cdp_ray_sinks.files import landed_file, landed_rows
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.files.landed import Count, Place
from cdp_ray_sinks.files.landed_file import LandedFile
from cdp_ray_sinks.files.landed_rows import (
    Added,
    LandedRows,
    RowCount,
    parse_landed_rows,
)


class TornDisk(LocalFileSystem):
    """Writes part of what is appended and fails, while told to."""

    is_torn = False

    def append(self, fd: int, data: memoryview) -> int:
        if self.is_torn:
            super().append(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "no space left")
        return super().append(fd, data)


def added(number: int, workspace_id: int = 1, hour: int = 5) -> Added:
    rows = {"events_v1": RowCount(10, 1), "logs_v1": RowCount(2)}
    return Added(number, rows, {Place(workspace_id, hour): Count(1, 2, 12)})


def opened(folder: Path, disk: LocalFileSystem | None = None) -> LandedFile:
    made = LandedFile(folder, disk or LocalFileSystem())
    made.open(kept_from_hour=None, finished=set())
    return made


def test_what_is_counted_is_there_for_the_next_process(tmp_path: Path) -> None:
    """Rows by table, batches by workspace and hour, and what was there before."""
    file = opened(tmp_path)
    assert file.known.before is None
    file.note_before({"events_v1": 7})
    file.add([added(1), added(2, 9)])
    file.add([added(3)])
    file.close()
    again = opened(tmp_path)
    assert again.known == file.known
    assert again.known.before == {"events_v1": 7}
    assert again.known.rows == {"events_v1": RowCount(30, 3), "logs_v1": RowCount(6)}
    assert again.known.places == {(1, 5): Count(2, 4, 24), (9, 5): Count(1, 2, 12)}
    again.close()


def test_a_generation_counts_once(tmp_path: Path) -> None:
    """Also one that was finished before there was a count of anything."""
    file = LandedFile(tmp_path, LocalFileSystem())
    file.open(kept_from_hour=6, finished={4})
    for _ in range(2):
        file.add([added(4), added(5)])
    assert file.known.rows["events_v1"] == RowCount(10, 1)
    file.ledger_is_new()
    file.close()
    again = opened(tmp_path)
    assert again.known.rows["events_v1"] == RowCount(10, 1)
    assert again.known.numbers == set()
    assert again.known.kept_from_hour == 6
    again.close()


def test_a_torn_line_is_not_counted_and_not_lost(tmp_path: Path) -> None:
    """Neither by the process that wrote it, which writes all anew, nor by the next."""
    disk = TornDisk()
    file = opened(tmp_path, disk)
    file.add([added(1)])
    disk.is_torn = True
    with pytest.raises(OSError, match="no space left"):
        file.add([added(2)])
    assert parse_landed_rows(file.path.read_bytes())[0].numbers == {1}
    disk.is_torn = False
    file.add([added(2)])
    file.close()
    whole = file.path.read_bytes()
    for end in range(len(whole)):
        file.path.write_bytes(whole[:end])
        cut = opened(tmp_path)
        assert cut.known.numbers <= {1, 2}
        cut.add([added(1), added(2), added(3)])
        cut.close()
        assert opened(tmp_path).known.rows["events_v1"] == RowCount(30, 3)


def test_a_long_file_is_written_anew_and_forgets_the_oldest_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says from when on it knows all; rows are never forgotten."""
    monkeypatch.setattr(landed_file, "BYTES_MAX", 1000)
    monkeypatch.setattr(landed_rows, "PLACES_MAX", 20)
    file = opened(tmp_path)
    for number in range(200):
        file.add([added(number, hour=number)])
        if number % 30 == 0:
            file.ledger_is_new()
    file.close()
    assert file.path.stat().st_size < 20_000
    known = opened(tmp_path).known
    assert known.rows["events_v1"] == RowCount(2000, 200)
    assert known.kept_from_hour is not None
    assert sorted(place.hour for place in known.places) == list(range(known.kept_from_hour, 200))


def test_what_is_no_such_file_counts_nothing() -> None:
    """Damage ends it where it is."""
    assert parse_landed_rows(b"") == (LandedRows(), 0)
    assert parse_landed_rows(b"nothing of the kind\n") == (LandedRows(), 0)
