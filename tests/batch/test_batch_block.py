"""Batches in a table come out as they went in, and none of their bytes is copied."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.batch_block import BLOCK_SCHEMA, BatchBlock, block_of


def made(number: int) -> Batch:
    ends = np.array([0, 30, 30 + 10 * number], np.uint64)
    records = np.arange(int(ends[-1]), dtype=np.uint8) + np.uint8(number)
    header = BatchHeader(
        bytes([number] * 16), 2**63 + number, number, 1, 6, 7, "s", 1_767_225_600_000, 2, 5,
        len(records), 2**64 - number, -5, 9,
    )  # fmt: skip
    return Batch(header, records, ends)


def the_same(found: Batch, wanted: Batch) -> bool:
    places = {"records_start": 0, "offsets_start": 0}
    return (
        found.header._replace(**places) == wanted.header
        and found.records.tobytes() == wanted.records.tobytes()
        and found.offsets.tolist() == wanted.offsets.tolist()
        and found.offsets.dtype == np.uint64
        and bool(found.offsets.flags.aligned)
    )


def test_batches_come_out_as_they_went_in() -> None:
    """Whole, sliced, joined, in one piece, and after the way that a pickled table goes."""
    batches = [made(number) for number in range(1, 6)]
    table = block_of(batches)
    assert table.schema == BLOCK_SCHEMA
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(table, 5, buffer_callback=buffers.append)
    forms = {
        "whole": (table, batches),
        "sliced": (table.slice(1, 3), batches[1:4]),
        "one piece": (table.combine_chunks(), batches),
        "a slice of it": (table.combine_chunks().slice(2), batches[2:]),
        "joined": (pa.concat_tables([table, block_of(batches[:1])]), [*batches, batches[0]]),
        "pickled": (pickle.loads(data, buffers=buffers), batches),
        "none": (block_of([]), []),
    }
    for form, (held, wanted) in forms.items():
        block = BatchBlock(held)
        headers = block.headers()
        assert len(headers) == len(wanted), form
        found = [block.batch(header) for header in headers]
        assert all(map(the_same, found, wanted)), form
        assert block.held_bytes == sum(each.to_pack().held_bytes for each in wanted)
        assert [header.offsets_start for header in headers] == [3 * n for n in range(len(wanted))]


def test_no_bytes_are_copied() -> None:
    """What goes into the table is the batch's memory, what comes out is the table's."""
    batch = made(3)
    table = block_of([batch])
    block = BatchBlock(table)
    found = block.batch(block.headers()[0])
    assert found.records.ctypes.data == batch.records.ctypes.data
    assert found.offsets.ctypes.data == batch.offsets.ctypes.data
    assert not found.records.flags.writeable


def test_what_is_no_batch_is_refused() -> None:
    """A table of something else, a header of another block, pattern ids."""
    with pytest.raises(ValueError, match="no block of batches: its columns are n"):
        BatchBlock(pa.table({"n": [1]}))
    block = BatchBlock(block_of([made(1)]))
    (header,) = block.headers()
    for other in (header._replace(records_start=1), header._replace(record_bytes=3)):
        with pytest.raises(ValueError, match="no such batch"):
            block.batch(other)
    batch = made(1)
    with_ids = Batch(batch.header, batch.records, batch.offsets, np.zeros(5, np.uint64))
    with pytest.raises(ValueError, match="pattern ids"):
        block_of([with_ids])
