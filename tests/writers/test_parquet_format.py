"""Files whose rows are written while the next are decoded are the files that one thread makes."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.files.table_format import TableFormat
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings
from cdp_ray_sinks.writers.parquet_format import ParquetFormat

EVENTS = 12_000
SETTINGS = ParquetSettings(row_group_rows=2_000)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return synthetic_batches(EVENTS, "tell", 1_000)


def plain(batches: list[Batch]) -> bytes:
    out = io.BytesIO()
    file = ParquetFile(out, "events", 7, SETTINGS)
    file.add(batches)
    file.finish({"journal_id": "here"})
    return out.getvalue()


def test_it_makes_the_same_bytes(batches: list[Batch]) -> None:
    """In one call or many; the rows are counted before they are written."""
    table_format: TableFormat = ParquetFormat(SETTINGS)
    for step in (12, 2, 4):
        out = io.BytesIO()
        file = table_format.new_file(out, "events", 7)
        for place in range(0, len(batches), step):
            file.add(batches[place : place + step])
            assert file.rows == 1_000 * min(len(batches), place + step)
        file.finish({"journal_id": "here"})
        assert out.getvalue() == plain(batches)


def test_files_in_turn_do_not_mix(batches: list[Batch], tmp_path: Path) -> None:
    """Three files at once share the memory, each keeps its own rows."""
    table_format = ParquetFormat(SETTINGS)
    outs = [io.BytesIO() for _ in range(3)]
    files = [table_format.new_file(out, "events", 7) for out in outs]
    for place, batch in enumerate(batches):
        files[place % 3].add([batch])
    for file in files:
        file.finish({})
    for own, out in enumerate(outs):
        found = pq.read_table(io.BytesIO(out.getvalue()))
        single = io.BytesIO()
        expected = ParquetFile(single, "events", 7, SETTINGS)
        for batch in batches[own::3]:
            expected.add([batch])
        expected.finish({})
        assert found.equals(pq.read_table(io.BytesIO(single.getvalue())))


class Out(io.RawIOBase):
    """Takes so many bytes, then fails; while it is held, writing waits."""

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.written = 0
        self._room = room

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written

    def write(self, data: Any) -> int:
        assert self.free.wait(60)
        if self.written + len(data) > self._room:
            raise OSError(28, "No space left on device")
        self.written += len(data)
        return len(data)


@pytest.mark.parametrize("room", [4, 50_000, 200_000])
def test_what_goes_wrong_in_writing_is_told(batches: list[Batch], room: int) -> None:
    """By a later call or by the end of that file, with its number; another file goes on."""
    table_format = ParquetFormat(SETTINGS)
    bad, good = Out(room), io.BytesIO()
    failing = table_format.new_file(bad, "events", 7)
    whole = table_format.new_file(good, "events", 7)

    def fill() -> None:
        for place in range(0, len(batches), 2):
            whole.add(batches[place : place + 2])
            failing.add(batches[place : place + 2])
        failing.finish({})

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.errno == 28
    failing.abandon()
    failing.abandon()
    done = whole.rows // 1_000
    whole.add(batches[done:])
    whole.finish({"journal_id": "here"})
    assert good.getvalue() == plain(batches)


def test_abandoning_waits_for_the_writing(batches: list[Batch]) -> None:
    """After it nothing more is written."""
    table_format = ParquetFormat(SETTINGS)
    out = Out()
    file = table_format.new_file(out, "events", 7)
    file.add(batches[:2])
    before = out.written
    out.free.clear()
    file.add(batches[2:4])
    ender = threading.Thread(target=file.abandon)
    ender.start()
    ender.join(0.2)
    assert ender.is_alive()
    out.free.set()
    ender.join(60)
    assert not ender.is_alive()
    assert out.written >= before
    after = out.written
    table_format.new_file(io.BytesIO(), "events", 7).add(batches[:2])
    assert out.written == after


def test_decoding_goes_on_while_rows_are_written(batches: list[Batch]) -> None:
    """One group may wait to be written and another be decoded; a third waits for its memory."""
    table_format = ParquetFormat(SETTINGS)
    out = Out()
    file = table_format.new_file(out, "events", 7)
    out.free.clear()
    file.add(batches[:2])
    file.add(batches[2:4])
    assert file.rows == 4_000
    third = threading.Thread(target=file.add, args=(batches[4:6],))
    third.start()
    third.join(0.2)
    assert third.is_alive()
    out.free.set()
    third.join(60)
    file.finish({})
    assert file.rows == 6_000
