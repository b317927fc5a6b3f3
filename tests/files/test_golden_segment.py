"""Segments written by version 1 of the commit index: every later version must read them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cdp_ray_sinks.files.commit_index import parse_index
from cdp_ray_sinks.files.recovery import inspect_segment
from cdp_ray_sinks.writers.binary import BinaryReader

GOLDEN = Path(__file__).parents[1] / "golden" / "segment"
PRODUCER = bytes(range(16))


def test_the_sealed_segment_says_what_it_said() -> None:
    """Header, two commits with their entries, the seal, to the last field."""
    contents = parse_index((GOLDEN / "data.bin.idx").read_bytes(), "data.bin.idx")
    header = contents.header
    assert (header.segment_number, header.writer_epoch, header.workspace_id) == (1, 1, 42)
    assert header.created_at_ms == 1_767_225_600_000
    assert contents.ledger == []
    assert contents.damage is None
    assert [(c.start_offset, c.end_offset) for c in contents.commits] == [(0, 72), (72, 108)]
    entries = [entry for commit in contents.commits for entry in commit.entries]
    assert [int(entry["sequence"]) for entry in entries] == [0, 1, 2]
    assert [int(entry["low"]) for entry in entries] == [0, 0, 1]
    assert {entry["producer"].tobytes() for entry in entries} == {PRODUCER}
    seal = contents.seal
    assert seal is not None
    assert (seal.end_offset, seal.message_count, seal.event_count) == (108, 3, 3)


def test_the_open_segment_is_recovered(tmp_path: Path) -> None:
    """Its snapshot knows the first segment's batches, its commit holds."""
    for path in GOLDEN.iterdir():
        shutil.copy(path, tmp_path)
    found = inspect_segment(tmp_path / "data-1.bin")
    assert not found.is_settled
    assert found.damage == []
    assert [(e.producer, e.epoch, e.low, sorted(e.durable)) for e in found.ledger] == [
        (PRODUCER, 7, 1, [1, 2]),
        (PRODUCER, 7, 1, [3]),
    ]


def test_the_messages_can_be_read() -> None:
    """With the reader that users have."""
    with BinaryReader.open(GOLDEN / "data.bin") as reader:
        messages = [bytes(message.message) for message in reader.read_all()]
        assert messages == [b"batch 0 ", b"batch 1 ", b"batch 2 "]
        assert reader.damaged == []


def test_todays_bytes_are_the_same(bench: Any) -> None:
    """Nothing changed the format unawares."""
    chain = bench.chain()
    for sequence in range(2):
        chain.append(bench.batch(sequence))
    chain.commit()
    chain.ledger.raise_low(PRODUCER, 7, 1)
    chain.append(bench.batch(2))
    chain.commit()
    chain.close()
    for name in ("data.bin", "data.bin.idx"):
        written = (bench.path("2026-01-01/00") / name).read_bytes()
        assert written == (GOLDEN / name).read_bytes()
