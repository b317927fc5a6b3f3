"""Our own compressed segments: by index, damaged, recovered, and as the standard tool sees them."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.archive import segments, verify
from cdp_ray_sinks.files.commit_index import parse_index
from cdp_ray_sinks.files.encoded import AHEAD_BYTES_MIN
from cdp_ray_sinks.files.index_reading import Range
from cdp_ray_sinks.files.lz4_segment import CommitContent, Lz4Segment
from cdp_ray_sinks.files.mapping import map_file
from cdp_ray_sinks.files.recovery import inspect_segment
from cdp_ray_sinks.files.rotation import AtomicRotationSink, RotationConfig
from cdp_ray_sinks.writers.binary import BinaryLz4Writer, BinaryReader, SeekableBinaryReader

NAME = "data.bin.lz4"
PROGRAM = Path(__file__).with_name("acking_writer.py")
GOLDEN = Path(__file__).parents[1] / "golden" / "lz4_segment"


@pytest.fixture
def lz4_bench(bench: Any) -> Any:
    """The bench with a writer that compresses."""
    bench.writer = BinaryLz4Writer
    return bench


def noise_batch(maker: Any, sequence: int, record_bytes: int) -> Batch:
    """A batch of one record that does not compress."""
    message = np.random.default_rng(sequence).bytes(record_bytes)
    found: Batch = maker.batch([message], sequence=sequence)
    return found


def sequences_in(path: Path) -> list[int]:
    """The batches of a file, each proven by its checksum."""
    with BinaryReader.open(path) as reader:
        found = [batch.header.sequence for batch in reader.batches()]
        assert reader.damaged == []
        return found


def stored(base: Path) -> list[int]:
    """The batches of an archive."""
    return [number for info in segments(base) for number in sequences_in(info.path)]


def tool_content(path: Path) -> bytes:
    """What the standard tool makes of a file; skips without it."""
    tool = shutil.which("lz4")
    if tool is None:
        pytest.skip("the lz4 tool is not installed")
    subprocess.run([tool, "-t", path], check=True, capture_output=True)
    return subprocess.run([tool, "-dc", path], check=True, capture_output=True).stdout


def test_a_compressed_chain_reads_back(lz4_bench: Any) -> None:
    """Small and large commits, over a restart; verify is content, the index says it is LZ4."""
    texts = ["", "x" * 100, "y" * (AHEAD_BYTES_MIN + 5), "z" * 9_000_000]
    for sequence, text in enumerate(texts):
        chain = lz4_bench.chain()
        chain.append(lz4_bench.batch(2 * sequence, text=text))
        chain.append(lz4_bench.batch(2 * sequence + 1))
        chain.commit()
        assert lz4_bench.known(chain) == set(range(2 * sequence + 2))
        chain.close()
    assert stored(lz4_bench.base) == list(range(2 * len(texts)))
    report = verify(lz4_bench.base)
    assert (report.ok, report.events) == (True, 2 * len(texts))
    info = next(segments(lz4_bench.base))
    assert info.path.name == NAME
    contents = parse_index((info.index_path or info.path).read_bytes(), NAME)
    assert contents.header.flags == 7
    for sequence, text in enumerate(texts):
        path = [info.path for info in segments(lz4_bench.base)][sequence]
        with BinaryReader.open(path) as reader:
            assert reader.is_compressed
            assert bytes(reader.read_all()[0].message) == f"batch {2 * sequence} {text}".encode()


def test_rotating_files_in_a_process_can_be_compressed(maker: Any, tmp_path: Path) -> None:
    """The writer is one like any other."""
    config = RotationConfig(tmp_path, file_prefix="own")
    with AtomicRotationSink(config, BinaryLz4Writer()) as sink:
        for sequence in range(5):
            sink.submit(7, maker.batch([maker.message()] * 9, sequence=sequence).records, 9)
    (info,) = segments(tmp_path)
    assert info.path.name == "own.bin.lz4"
    assert verify(tmp_path).messages == 45


def test_only_the_blocks_of_what_is_asked_for_are_read(maker: Any, tmp_path: Path) -> None:
    """With every other block of the file overwritten, a batch still comes."""
    batches = [noise_batch(maker, n, 100_000) for n in range(30)]
    path = maker.segment(tmp_path, [batches], name=NAME)
    whole = path.read_bytes()
    for sequence in (0, 11, 29):
        start = sequence * 100_028
        first, last = start // 65536, (start + 100_027) // 65536
        data = bytearray(whole)
        position, number = 15, 0
        while size := int.from_bytes(data[position : position + 4], "little") & 0x7FFFFFFF:
            if not first <= number <= last:
                data[position + 4 : position + 4 + size] = b"\xff" * size
            position, number = position + 4 + size, number + 1
        path.write_bytes(data)
        with SeekableBinaryReader.open(path) as reader:
            reader.seek(start)
            message = reader.read_message()
            assert message is not None
            assert message.offset == start
            assert bytes(message.message) == batches[sequence].records[28:].tobytes()
            assert reader.damaged == []


def test_a_flipped_byte_costs_only_the_batches_in_its_block(maker: Any, tmp_path: Path) -> None:
    """Neighbours in the same commit are read; the damage names the block's place in the file."""
    batches = [noise_batch(maker, n, 40_000) for n in range(10)]
    path = maker.segment(tmp_path, [batches[:2], batches[2:]], name=NAME)
    data = bytearray(path.read_bytes())
    index = parse_index(path.with_name(NAME + ".idx").read_bytes(), NAME)
    second = index.commits[1].start_offset
    block = second + 15 + 65540
    hit = block + 4 + 20_000  # 85,536 bytes into the commit's content
    data[hit] ^= 1
    path.write_bytes(data)
    with BinaryReader.open(path) as reader:
        assert [b.header.sequence for b in reader.batches()] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        assert [(d.path, d.offset) for d in reader.damaged] == [(str(path), block)]
        assert "its checksum does not hold" in reader.damaged[0].reason
    report = verify(tmp_path)
    assert [(d.path, d.offset) for d in report.damaged] == [(str(path), block)]
    assert report.messages == 9


def test_every_flipped_byte_is_found(maker: Any, tmp_path: Path) -> None:
    """By verify, in the commit where it is; the other commit's batches stay."""
    commits = [[maker.batch([maker.message()] * 2, sequence=n)] for n in range(2)]
    path = maker.segment(tmp_path, commits, name=NAME)
    whole = path.read_bytes()
    border = parse_index(path.with_name(NAME + ".idx").read_bytes(), NAME).commits[0].end_offset
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        report = verify(tmp_path)
        (damage,) = report.damaged
        assert (damage.offset >= border) == (place >= border), place
        with BinaryReader.open(path) as reader:
            found = [batch.header.sequence for batch in reader.batches()]
        other = 0 if place >= border else 1
        assert other in found
        assert report.messages >= 2


def test_a_cut_at_every_byte_of_the_last_commit_recovers(lz4_bench: Any) -> None:
    """Data and index cut apart: what is left is the commits before, and the tool reads it."""
    chain = lz4_bench.chain()
    for sequence in range(3):
        chain.append(lz4_bench.batch(sequence, text="text " * 20))
        chain.commit()
    lz4_bench.kill(chain)
    root = lz4_bench.base / "42"
    kept = lz4_bench.base.with_name("kept")
    shutil.copytree(root, kept)
    (path,) = root.rglob("*.lz4")
    commits = lz4_bench.contents("2026-01-01/00/data.bin.lz4").commits
    start, end = commits[-1].start_offset, commits[-1].end_offset
    for cut in range(start, end + 1):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        with path.open("r+b") as file:
            file.truncate(cut)
        chain = lz4_bench.chain()
        expected = {0, 1, 2} if cut == end else {0, 1}
        assert lz4_bench.known(chain) == expected
        chain.close()
        assert set(stored(lz4_bench.base)) == expected
        content = path.read_bytes()
        assert len(content) == (end if cut == end else start)
        assert verify(lz4_bench.base).ok
    tool_content(path)


def test_an_index_cut_anywhere_recovers(lz4_bench: Any) -> None:
    """The data goes with the last commit record that is whole."""
    chain = lz4_bench.chain()
    for sequence in range(2):
        chain.append(lz4_bench.batch(sequence))
        chain.commit()
    lz4_bench.kill(chain)
    (path,) = lz4_bench.base.rglob("*.lz4")
    index_path = path.with_name(NAME + ".idx")
    data, index = path.read_bytes(), index_path.read_bytes()
    for cut in range(64, len(index)):
        path.write_bytes(data)
        index_path.write_bytes(index[:cut])
        found = inspect_segment(path)
        with BinaryReader.open(path) as reader:
            sequences = [batch.header.sequence for batch in reader.batches()]
            assert reader.damaged == []
        assert sequences == list(range(len(found.good_commits)))
        assert data[: found.end_offset] == data[: len(data) * len(sequences) // 2]


@pytest.mark.parametrize("place", ["index header", "commit record"])
def test_a_damaged_index_costs_no_message(maker: Any, tmp_path: Path, place: str) -> None:
    """Without its record a commit's frame is still found and walked."""
    commits = [[maker.batch([maker.message()] * (n + 1), sequence=n)] for n in range(3)]
    path = maker.segment(tmp_path, commits, name=NAME)
    index_path = path.with_name(NAME + ".idx")
    index = bytearray(index_path.read_bytes())
    index[20 if place == "index header" else 64 + 16 + 60] ^= 1
    index_path.write_bytes(index)
    with BinaryReader.open(path) as reader:
        batches = list(reader.batches())
        assert sum(batch.header.message_count for batch in batches) == 6
        assert len(reader.damaged) == 1
        offsets = [message.offset for message in reader.read_all()]
    with SeekableBinaryReader.open(path) as seekable:
        for number in (5, 0, 3):
            seekable.seek(offsets[number])
            message = seekable.read_message()
            assert message is not None
            assert message.offset == offsets[number]
    assert [d.path for d in verify(path).damaged] == [str(index_path)]


def test_committed_bytes_that_are_gone_are_told(maker: Any, tmp_path: Path) -> None:
    """What is left of the last commit is read, then the file's end is the damage."""
    batches = [noise_batch(maker, n, 70_000) for n in range(4)]
    path = maker.segment(tmp_path, [batches[:1], batches[1:]], name=NAME)
    data = path.read_bytes()
    path.write_bytes(data[:-75_000])
    with BinaryReader.open(path) as reader:
        assert [b.header.sequence for b in reader.batches()] == [0, 1]
        assert [(d.offset, d.reason) for d in reader.damaged] == [
            (len(data) - 75_000, "75000 committed bytes are missing, the file ends")
        ]
    assert [d.offset for d in verify(tmp_path).damaged] == [len(data) - 75_000]


def test_a_file_cut_while_it_is_read_ends_in_a_report(maker: Any, tmp_path: Path) -> None:
    """Mapped bytes that are gone are damage; touching them would kill the process."""
    batches = [noise_batch(maker, n, 300_000) for n in range(6)]
    path = maker.segment(tmp_path, [[batch] for batch in batches], name=NAME)
    with BinaryReader.open(path) as reader:
        found = reader.batches()
        assert next(found).header.sequence == 0
        with path.open("r+b") as file:
            file.truncate(350_000)
        assert [batch.header.sequence for batch in found] == []
        assert {d.reason.rpartition(": ")[2] for d in reader.damaged} == {
            "bytes that can't be read"
        }


@pytest.mark.parametrize("with_index", [True, False])
def test_nobody_can_write_to_a_batch(maker: Any, tmp_path: Path, with_index: bool) -> None:
    """It outlives its reader, as those of plain files do."""
    path = maker.segment(tmp_path, [[noise_batch(maker, n, 90_000) for n in (0, 1)]], name=NAME)
    if not with_index:
        path.with_name(NAME + ".idx").unlink()
    with BinaryReader.open(path) as reader:
        batches = list(reader.batches())
    assert b"".join(b.records.tobytes() for b in batches) == lz4.frame.open(path).read()
    assert not any(batch.records.flags.writeable for batch in batches if with_index)


def test_a_commit_that_is_not_ours_is_damage(maker: Any, tmp_path: Path) -> None:
    """Linked blocks, or blocks that are not full, under an index that says otherwise."""
    content = random.Random(1).randbytes(200_000)
    context = lz4.frame.create_compression_context()
    short = lz4.frame.compress_begin(context, block_size=4, block_linked=False)
    for part in (content[:1000], content[1000:]):
        short += lz4.frame.compress_chunk(context, part)
        short += lz4.frame.compress_flush(context, end_frame=False)
    short += lz4.frame.compress_flush(context)
    linked = lz4.frame.compress(content, block_size=4, block_linked=True)
    for frame, reason in [(short, "not full"), (linked, "not the kind")]:
        data = np.frombuffer(frame, np.uint8)
        with pytest.raises(Exception, match=reason):
            CommitContent(data, 0, len(data), tmp_path).read(500, 3000)


def test_a_range_can_be_read_alone(maker: Any, tmp_path: Path) -> None:
    """One commit's batches, as `verify` asks for them."""
    path = maker.segment(tmp_path, [[maker.batch([maker.message()])]], name=NAME)
    segment = Lz4Segment(path, map_file(path), None, lambda _: None)
    ((offset, batch),) = segment.located_in(Range(0, path.stat().st_size, None), base=1000)
    assert (offset, batch.header.message_count) == (1000, 1)


@pytest.fixture
def writers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_after_a_kill_the_tool_reads_every_file(
    lz4_bench: Any, writers: list[subprocess.Popen[str]]
) -> None:
    """All that was acknowledged is there once, and each file is whole LZ4."""
    draw = random.Random("lz4 kill")
    acked: set[int] = set()
    for turn in range(4):
        command = [sys.executable, PROGRAM, lz4_bench.base, f"{turn}", f"{turn * 10**6}", "lz4"]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, bufsize=1,
            cwd=PROGRAM.parents[2], env={"PYTHONPATH": str(PROGRAM.parents[2])},
        )  # fmt: skip
        writers.append(process)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(draw.randrange(10, 60))]
        time.sleep(draw.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        acked |= {int(n) for line in lines[:-1] if line[:5] == "acked" for n in line.split()[1:]}
        chain = lz4_bench.chain()
        assert acked <= lz4_bench.known(chain)
        assert {damage.reason for damage in chain.recovery_report} <= {"torn index record"}
        chain.close()
    assert len(acked) > 40
    found = Counter(stored(lz4_bench.base))
    assert acked <= set(found)
    assert set(found.values()) == {1}
    assert verify(lz4_bench.base).ok
    for info in segments(lz4_bench.base):
        with BinaryReader.open(info.path) as reader:
            records = b"".join(batch.records.tobytes() for batch in reader.batches())
        assert tool_content(info.path) == records


def test_the_segment_of_version_1_is_read(tmp_path: Path) -> None:
    """Later versions must read what this one wrote: sealed, and left open by a crash."""
    for path in GOLDEN.iterdir():
        shutil.copy(path, tmp_path)
    assert sequences_in(tmp_path / NAME) == [0, 1, 2]
    assert sequences_in(tmp_path / "data-1.bin.lz4") == [3]
    (tmp_path / (NAME + ".idx")).unlink()
    with BinaryReader.open(tmp_path / NAME) as reader:
        texts = [bytes(message.message) for message in reader.read_all()]
    assert texts == [b"batch 0 ", b"batch 1 ", b"batch 2 " + b"again and " * 30]
    found = inspect_segment(tmp_path / "data-1.bin.lz4")
    assert (found.is_settled, found.damage) == (False, [])


def make_golden(bench: Any) -> None:
    """How the golden segment was made: one that is sealed, and an open one behind it."""
    chain = bench.chain()
    for sequence in range(2):
        chain.append(bench.batch(sequence))
    chain.commit()
    chain.append(bench.batch(2, text="again and " * 30))
    chain.commit()
    chain.segments.seal_all()
    chain.segments.join()
    chain.append(bench.batch(3))
    chain.commit()


def test_todays_index_is_the_same(lz4_bench: Any) -> None:
    """Nothing changed the format unawares; the library may compress otherwise one day."""
    make_golden(lz4_bench)
    for name in (NAME, "data-1.bin.lz4"):
        path = lz4_bench.path("2026-01-01/00") / name
        assert lz4.frame.open(path).read() == lz4.frame.open(GOLDEN / name).read()
        if path.read_bytes() == (GOLDEN / name).read_bytes():
            written = path.with_name(name + ".idx").read_bytes()
            assert written == (GOLDEN / (name + ".idx")).read_bytes()
