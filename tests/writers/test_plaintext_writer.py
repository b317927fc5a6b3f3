"""Segments of text lines: which file, which bytes, in which buffers, and what a kill leaves."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.files.encoded import AHEAD_BYTES_MIN, CHUNKS_HELD
from cdp_ray_sinks.files.rotation_policy import RotationPolicy
from cdp_ray_sinks.writers.lz4_frames import Lz4Settings
from cdp_ray_sinks.writers.plaintext import PlainTextLz4Writer, PlainTextWriter

PROGRAM = Path(__file__).parents[1] / "files" / "acking_writer.py"
BUFFER_BYTES = 64 * 1024


def of_schema(batch: Batch, schema_type: int) -> Batch:
    return Batch(batch.header._replace(schema_type=schema_type), batch.records, batch.offsets)


def text_of(writer: PlainTextWriter, batches: list[Batch]) -> bytes:
    """The bytes of a commit; each chunk is copied before the next but one is asked for."""
    return b"".join(bytes(chunk) for chunk in writer.encode(batches))


def test_each_schema_has_its_stream(maker: Any) -> None:
    """Messages of no known schema go to raw."""
    batch = maker.batch([maker.message()])
    streams = [PlainTextWriter().stream_of(of_schema(batch, n).header) for n in (1, 2, 3, 4, 5, 0)]
    assert streams == ["events", "logs", "metrics", "traces", "snapshots", "raw"]
    assert PlainTextWriter().stream_of(of_schema(batch, 77).header) == "raw"


def test_a_commit_is_the_lines_of_its_batches_in_order(maker: Any, line_parser: Any) -> None:
    """Damaged messages among them, whatever the size of the buffers."""
    batches = [
        maker.batch([maker.message(number, filler=b"p%d" % number), b"bad%d" % number])
        for number in range(1, 200)
    ]
    texts = {
        size: text_of(PlainTextWriter(BufferPool(2, size)), batches)
        for size in (8_000, 100_000, 10_000_000)
    }
    assert len(set(texts.values())) == 1
    lines = [line_parser.parse(line) for line in line_parser.lines(texts[8_000])]
    expected = []
    for number in range(1, 200):
        expected += [("TRACK", b"p%d" % number)] * number + [("RAW", b"bad%d" % number)]
    assert [(line["kind"], line["payload"]) for line in lines] == expected


def test_compressed_a_commit_is_one_frame_of_the_same_lines(maker: Any) -> None:
    """Little text has small blocks."""
    pool = BufferPool(CHUNKS_HELD, BUFFER_BYTES)
    small = [maker.batch([maker.message(50)])]
    large = [maker.batch([maker.message(5000, filler=b"x" * 500)])]
    for batches, block_bytes in ((small, 64 * 1024), (large, 4 * 1024 * 1024)):
        for level in (0, 9):
            writer = PlainTextLz4Writer(pool, Lz4Settings(level))
            frame = text_of(writer, batches)
            assert lz4.frame.decompress(frame) == text_of(PlainTextWriter(pool), batches)
            info = lz4.frame.get_frame_info(frame)
            assert (info["block_size"], info["content_checksum"]) == (block_bytes, False)
    assert pool.available == CHUNKS_HELD


def test_buffers_are_the_pools_and_come_back(maker: Any) -> None:
    """Also when a commit is broken off; a hundred commits miss none."""
    pool = BufferPool(CHUNKS_HELD, BUFFER_BYTES)
    writer = PlainTextWriter(pool)
    batches = [maker.batch([maker.message(1000)])]
    for _ in range(100):
        assert sum(len(chunk) for chunk in writer.encode(batches)) > BUFFER_BYTES
    broken_off = writer.encode(batches)
    next(broken_off)
    assert pool.available == 0
    broken_off.close()
    assert pool.available == CHUNKS_HELD
    assert text_of(writer, batches) == text_of(PlainTextWriter(), batches)
    assert pool.hit_rate == 1.0


def test_batches_without_lines_are_a_commit_all_the_same(tmp_path: Path, maker: Any) -> None:
    """A message may hold no event; its batch is durable then, and no file is torn."""
    for writer in (PlainTextWriter(), PlainTextLz4Writer()):
        chain = Chain(tmp_path / writer.suffix, 42, writer, ChainOptions())
        chain.open()
        for sequence, count in enumerate([0, 2, 0]):
            chain.append(maker.batch([maker.message(count)], sequence=sequence))
            chain.commit()
        chain.close()
        path = next((tmp_path / writer.suffix).rglob(f"events{writer.suffix}"))
        with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
            assert file.read().count(b"\n") == 2
        again = Chain(tmp_path / writer.suffix, 42, PlainTextWriter(), ChainOptions())
        again.open()
        header = maker.batch([maker.message(0)], sequence=2).header
        assert again.ledger.has(*header.batch_id, header.checksum)
        again.close()


def test_large_commits_are_formatted_while_they_are_written(tmp_path: Path, maker: Any) -> None:
    """In a second thread, in a few buffers; the file is the same."""
    batch = maker.batch([maker.message(10_000, filler=b"y" * 300)] * 3)
    assert batch.header.record_bytes > AHEAD_BYTES_MIN
    pool = BufferPool(CHUNKS_HELD, BUFFER_BYTES)
    chain = Chain(tmp_path, 42, PlainTextWriter(pool), ChainOptions())
    chain.open()
    chain.append(batch)
    chain.commit()
    chain.close()
    text = next(tmp_path.rglob("events.log")).read_bytes()
    assert text == text_of(PlainTextWriter(), [batch])
    assert (pool.hit_rate, pool.available) == (1.0, CHUNKS_HELD)


def numbers_in(path: Path) -> list[int]:
    """The numbers that the messages of acking_writer.py begin with."""
    if path.stat().st_size == 0:  # killed before its first commit: no frame yet
        return []
    with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
        text: bytes = file.read()
    assert not text or text.endswith(b"\n")
    found = re.findall(rb" \[RAW\] source_ip=:: msg_len=\d+ payload=(\d+):(?:\\x00)*\n", text)
    assert len(found) == text.count(b"\n")
    return [int(number) for number in found]


@pytest.mark.parametrize("mode", ["text", "text_lz4"])
def test_whatever_was_acknowledged_before_a_kill_is_there_once(tmp_path: Path, mode: str) -> None:
    """Lines as records: none lost, none twice, none torn; every LZ4 tool reads the file."""
    draw = random.Random(mode)
    acked: set[int] = set()
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), f"s{turn}", str(turn * 10**6), mode],
            stdout=subprocess.PIPE, text=True, cwd=PROGRAM.parents[2],
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        )  # fmt: skip
        assert process.stdout is not None
        output = "".join(process.stdout.readline() for _ in range(draw.randrange(2, 40)))
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        output += process.communicate()[0]
        lines = output[: output.rfind("\n") + 1].splitlines()
        acked |= {int(n) for line in lines if "acked" in line for n in line.split()[1:]}
        writer = PlainTextWriter() if mode == "text" else PlainTextLz4Writer()
        options = ChainOptions(RotationPolicy(segment_bytes_max=40_000))
        chain = Chain(tmp_path, 42, writer, options)
        chain.open()
        known = {number for entry in chain.ledger.snapshot() for number in entry.durable}
        files = sorted(tmp_path.rglob(f"events*{writer.suffix}"))
        stored = Counter(number for path in files for number in numbers_in(path))
        assert acked <= known == set(stored)
        assert set(stored.values()) <= {1}
        # The kill may have come within an index record; nothing of that was acknowledged.
        assert {damage.reason for damage in chain.recovery_report} <= {"torn index record"}
        chain.close()
    assert len(acked) > 20
    if mode == "text_lz4" and shutil.which("lz4"):
        for path in tmp_path.rglob("events*.log.lz4"):
            subprocess.run(["lz4", "-tq", str(path)], check=True)
