"""`verify` of a warehouse: whole files, journals that hold, no batch twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
from cdp_ray_sinks.testing import FakeClock, numbered_events
from cdp_ray_sinks.writers.parquet import ParquetFile
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse


def filled(path: Path, numbers: range, **options: Any) -> ParquetSink:
    """A sink that has accepted batches of those numbers."""
    sink = ParquetConfig(path=path, **options).build(SinkContext("tables", FakeClock()))
    sink.open()
    for number in numbers:
        sink.write(numbered_events(number, 1 + number % 2, messages=5))
    sink.flush()
    return sink


def problems(path: Path) -> list[str]:
    """What is wrong, without the paths."""
    report = verify_warehouse(path)
    assert report.ok == (not report.damaged)
    return [damage.reason.replace(str(path) + "/", "") for damage in report.damaged]


@pytest.mark.parametrize("journal", ["commit", "off"])
def test_a_warehouse_as_it_was_written_is_whole(tmp_path: Path, journal: str) -> None:
    """Published or waiting, each row counts once."""
    sink = filled(tmp_path, range(6), journal=journal)
    report = verify_warehouse(tmp_path)
    assert (report.ok, report.events, report.messages) == (True, 30, 30)
    sink.close()
    filled(tmp_path, range(6, 8), journal=journal)
    report = verify_warehouse(tmp_path)
    assert (report.ok, report.events, report.segments) == (True, 40, 4)
    assert verify_warehouse(tmp_path / "1").events == (15 if journal == "commit" else 20)
    (path, *_) = (tmp_path / "2").rglob("*.parquet")
    assert verify_warehouse(path).segments == 1


def test_damage_to_a_file_is_told(tmp_path: Path) -> None:
    """Cut short, changed inside, empty: none of them passes, the others are read."""
    filled(tmp_path, range(8)).close()
    whole = (tmp_path / "1/2026-01-01/00/events.parquet").read_bytes()
    folder = tmp_path / "1/2026-01-01/01"
    folder.mkdir()
    (folder / "events.parquet").write_bytes(whole[:-20])
    (folder / "events-1.parquet").write_bytes(b"")
    (folder / "events-2.parquet").write_bytes(whole[:40] + bytes(200) + whole[240:])
    found = problems(tmp_path)
    assert len(found) == 3
    assert all("not a whole Parquet file" in each for each in found)


def test_a_file_that_lies_of_itself_is_told(tmp_path: Path) -> None:
    """Of another workspace than its folder, of the same journal segment, batches again."""
    filled(tmp_path, range(2)).close()
    folder = tmp_path / "2/2026-01-01/00"
    shutil.copy(tmp_path / "1/2026-01-01/00/events.parquet", folder / "events-1.parquet")
    file = ParquetFile(folder / "events-2.parquet", "events", 2)
    file.add([numbered_events(7, 2)])
    file.finish({"ledger": "nonsense"})
    assert problems(tmp_path) == [
        "is of workspace 1",
        "is of the same journal segment as 1/2026-01-01/00/events.parquet",
        "batch 74657374.1.0 is in 1/2026-01-01/00/events.parquet too",
        "the batch ids in its footer: not a ledger",
    ]


def test_a_file_of_other_software_only_has_to_be_readable(tmp_path: Path) -> None:
    """It says nothing that could be checked."""
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "other.parquet")
    assert (problems(tmp_path), verify_warehouse(tmp_path).segments) == ([], 1)


def test_a_journal_that_does_not_hold_is_told(tmp_path: Path) -> None:
    """A batch that is published and journalled under another segment; a changed byte."""
    warehouse, other = tmp_path / "warehouse", tmp_path / "other"
    filled(warehouse, range(2)).close()
    filled(other, range(2, 4)).close()
    sink = filled(other, range(2))
    (path,) = (other / ".journal/1").rglob("events-1.bin")
    folder = warehouse / ".journal/1/2026-01-01/00"
    for name in ("events-1.bin", "events-1.bin.idx"):
        shutil.copy(path.with_name(name), folder / name)
    sink.close()
    assert problems(warehouse) == ["batch 74657374.1.0 is in 1/2026-01-01/00/events.parquet too"]
    changed = bytearray((folder / "events-1.bin").read_bytes())
    changed[100] ^= 1
    (folder / "events-1.bin").write_bytes(changed)
    assert any("checksum does not hold" in each for each in problems(warehouse))
