"""Compressed archives of other software: no index, frames cut and joined as they please."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.writers.binary import BinaryReader

BLOCKS = {"block_size": 4, "block_linked": False}


def records_of(maker: Any, count: int, filler: bytes = b"x" * 40) -> list[bytes]:
    """Records that can be told apart."""
    return [
        maker.record(maker.message(filler=b"<%d>" % n + filler), maker.start_ms + n)
        for n in range(count)
    ]


def read(path: Path) -> tuple[list[bytes], list[tuple[int, str]]]:
    """All records of the file, and the damage found in it."""
    with BinaryReader.open(path) as reader:
        assert reader.is_compressed
        found = []
        for batch in reader.batches():
            starts = batch.offsets.tolist()
            found += [batch.records[a:b].tobytes() for a, b in pairwise(starts)]
        assert [m.offset for m in reader.read_all()] == _places(found, reader.damaged == [])
        return found, [(damage.offset, damage.reason) for damage in reader.damaged]


def _places(records: list[bytes], is_whole: bool) -> Any:
    """Where records that lie one behind the other begin; anything if some are missing."""
    if not is_whole:
        return _Anything()
    places = [0]
    for record in records:
        places.append(places[-1] + len(record))
    return places[:-1]


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def flushed(pieces: list[bytes], *, is_ended: bool = True, **how: Any) -> bytes:
    """One frame of the pieces, each in blocks of its own, as software that flushes makes it."""
    context = lz4.frame.create_compression_context()
    made = lz4.frame.compress_begin(context, **(BLOCKS | how))
    for piece in pieces:
        made += lz4.frame.compress_chunk(context, piece)
        made += lz4.frame.compress_flush(context, end_frame=False)
    return made + (lz4.frame.compress_flush(context) if is_ended else b"")


@pytest.mark.parametrize(
    "how",
    [
        {"content_checksum": True, "block_size": 7},
        {"block_linked": True},
        {"block_checksum": True},
        {"compression_level": 9},
    ],
)
def test_one_frame_for_a_whole_file(maker: Any, tmp_path: Path, how: dict[str, Any]) -> None:
    """Whatever its options: every record comes back, across blocks and windows."""
    records = records_of(maker, 6_000, filler=bytes(range(256)) * 4)
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(lz4.frame.compress(b"".join(records), **(BLOCKS | how)))
    assert read(path) == (records, [])
    assert verify(path).ok
    assert verify(path).messages == 6_000


@pytest.mark.parametrize("is_linked", [True, False])
def test_frames_one_behind_the_other(maker: Any, tmp_path: Path, is_linked: bool) -> None:
    """A restart appends a frame; a record may go on in the next one; notes are skipped."""
    records = records_of(maker, 900)
    whole = b"".join(records)
    notes = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"note"
    cuts = [0, 10_000, 10_001, 50_000, len(whole)]
    frames = [
        lz4.frame.compress(whole[start:end], block_size=4, block_linked=is_linked)
        for start, end in pairwise(cuts)
    ]
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(notes.join(frames))
    assert read(path) == (records, [])


def test_a_file_cut_anywhere_is_read_to_its_last_good_record(maker: Any, tmp_path: Path) -> None:
    """At every byte of the last blocks: then the damage, with the place in the file."""
    records = records_of(maker, 60)
    pieces = [b"".join(records[n : n + 10]) for n in range(0, 60, 10)]
    whole = flushed(pieces)
    shorter = len(flushed(pieces[:4], is_ended=False))
    path = tmp_path / "data.bin.lz4"
    for cut in [*range(30), *range(shorter, len(whole))]:
        path.write_bytes(whole[:cut])
        found, damage = read(path)
        assert found == records[: len(found)]
        assert len(found) >= (40 if cut >= shorter else 0)
        if cut:
            ((offset, reason),) = damage
            assert offset <= cut
            assert "LZ4" in reason
        assert verify(path).ok == (cut == 0)


def test_a_cut_in_the_middle_of_a_record(maker: Any, tmp_path: Path) -> None:
    """The frame is whole, its content is not: the block that holds the torn record is named."""
    records = records_of(maker, 20)
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(flushed([*records, records[0][:-1]]))
    found, damage = read(path)
    assert found == records
    content_bytes = sum(map(len, records))
    offset = len(flushed(records, is_ended=False))
    assert damage == [(offset, f"torn record at {content_bytes} of the content, in the LZ4 block")]


@pytest.mark.parametrize("lost", [4, 5, 30])
def test_a_frame_whose_writer_was_killed_does_not_hide_the_next(
    maker: Any, tmp_path: Path, lost: int
) -> None:
    """Without its end mark, or in the middle of a block, and then another begins."""
    records = records_of(maker, 40)
    pieces = [b"".join(records[n : n + 10]) for n in range(0, 40, 10)]
    first = flushed(pieces[:2])[:-lost]
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(first + flushed(pieces[2:]))
    found, damage = read(path)
    kept = 20 if lost == 4 else 10
    assert found == records[:kept] + records[20:]
    assert len(damage) == 1
    if lost == 4:
        assert damage == [(len(first), "LZ4 frame has no end, another begins")]


def test_a_flipped_block_costs_the_rest_of_its_frame_only(maker: Any, tmp_path: Path) -> None:
    """Records can't be found again in the middle of a frame, but where a frame begins they can."""
    records = records_of(maker, 60)
    pieces = [b"".join(records[n : n + 10]) for n in range(0, 60, 10)]
    frames = [flushed(pieces[n : n + 3], block_checksum=True) for n in (0, 3)]
    data = bytearray(b"".join(frames))
    hit = len(flushed(pieces[:1], is_ended=False, block_checksum=True))
    data[hit + 40] ^= 1
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(data)
    found, damage = read(path)
    assert found == records[:10] + records[30:]
    assert damage == [(hit, "checksum of an LZ4 block does not hold")]


def test_a_content_checksum_that_does_not_hold_is_told(maker: Any, tmp_path: Path) -> None:
    """What was read until then was given out; what follows the frame is read too."""
    records = records_of(maker, 20)
    first = bytearray(flushed(records[:10], content_checksum=True))
    first[-1] ^= 1
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(bytes(first) + flushed(records[10:]))
    found, damage = read(path)
    assert found == records
    assert damage == [(0, "checksum of an LZ4 frame's content does not hold")]


@pytest.mark.parametrize("prefix", [b"garbage", bytes(5000)])
def test_what_is_no_frame_is_stepped_over(maker: Any, tmp_path: Path, prefix: bytes) -> None:
    """Frames are found again by how they begin."""
    records = records_of(maker, 10)
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(flushed(records[:5]) + prefix + flushed(records[5:]) + prefix)
    found, damage = read(path)
    assert found == records
    assert [reason for _, reason in damage] == ["not an LZ4 frame"] * 2


def test_a_bad_record_ends_its_frame_and_no_more(maker: Any, tmp_path: Path) -> None:
    """Zeros, or a size that can't be."""
    records = records_of(maker, 10)
    absurd = records[0][:24] + b"\xff\xff\xff\xff"
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(
        flushed([*records[:3], absurd, *records[3:5]])
        + flushed([*records[5:7], bytes(1000), *records[7:8]])
        + flushed(records[8:])
    )
    found, damage = read(path)
    assert found == records[:3] + records[5:7] + records[8:]
    assert [reason.partition(" at ")[0] for _, reason in damage] == [
        "record of impossible size",
        "record without a message",
    ]


def test_a_record_larger_than_any_window(maker: Any, tmp_path: Path) -> None:
    """It is gathered once, however many blocks it lies in."""
    records = records_of(maker, 3, filler=b"large " * 2_000_000)
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(lz4.frame.compress(b"".join(records), **BLOCKS))
    assert read(path) == (records, [])


def test_what_looks_like_many_frames_is_not_tried_for_ever(tmp_path: Path) -> None:
    """Headers that hold, each with a block that does not, by the ten thousand."""
    head = lz4.frame.compress_begin(lz4.frame.create_compression_context(), block_size=7)
    path = tmp_path / "data.bin.lz4"
    path.write_bytes((head + (60_000).to_bytes(4, "little")) * 20_000)
    found, damage = read(path)
    assert found == []
    assert 0 < len(damage) < 1000
    assert damage[-1][1] == "too much damage to search on"


def test_random_damage_costs_only_the_frames_it_hits(maker: Any, tmp_path: Path) -> None:
    """With checksums in the blocks: every record of a frame that is whole comes back."""
    rng = random.Random(11)
    path = tmp_path / "data.bin.lz4"
    for _ in range(150):
        records = records_of(maker, rng.randint(4, 30))
        cut = rng.randint(1, len(records) - 1)
        parts = [records[:cut], records[cut:]]
        frames = [flushed(part, block_checksum=True) for part in parts]
        hit = rng.randrange(2)
        damaged = bytearray(frames[hit])
        place = rng.randrange(len(damaged))
        match rng.randrange(3):
            case 0:
                damaged[place] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[place:]
            case 2:
                damaged[place : place + 4] = rng.choice([bytes(4), b"\xff" * 4, rng.randbytes(4)])
        frames[hit] = bytes(damaged)
        path.write_bytes(b"".join(frames))
        found, _ = read(path)
        whole = parts[1 - hit]
        assert (found[-len(whole) :] if hit == 0 else found[: len(whole)]) == whole
        assert found == [record for record in records if record in found]


READ_A_BOMB = """
import resource, sys
from cdp_ray_sinks.batch.kernels import frames
from cdp_ray_sinks.writers.binary import BinaryReader, SeekableBinaryReader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with BinaryReader.open(sys.argv[1]) as reader:
    print(sum(b.header.message_count for b in reader.batches()), len(reader.damaged))
with SeekableBinaryReader.open(sys.argv[1]) as reader:
    reader.seek(0)
    while reader.skip_message():
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("kind", "expected"), [("zeros", ["0", "1"]), ("records", ["1040", "0"]), ("huge", ["2", "1"])]
)
def test_a_bomb_takes_no_more_memory_than_any_file(
    maker: Any, tmp_path: Path, kind: str, expected: list[str]
) -> None:
    """A gigabyte of content in a few MB of file; a record that claims a hundred million bytes."""
    record = maker.record(maker.message(filler=bytes(900_000)), maker.start_ms)
    piece = record * 4 if kind == "records" else bytes(4 << 20)
    block = lz4.frame.compress(piece, block_size=7, block_linked=False, store_size=False)[7:-4]
    path = tmp_path / "data.bin.lz4"
    head = lz4.frame.compress_begin(
        lz4.frame.create_compression_context(), block_size=7, block_linked=False
    )
    if kind == "huge":
        claim = record + record[:24] + (10**8).to_bytes(4, "big")
        head += lz4.frame.compress(claim, block_size=7, store_size=False)[7:-4]
    path.write_bytes(head + block * 260 + bytes(4))
    assert path.stat().st_size < 6_000_000
    done = subprocess.run(
        [sys.executable, "-c", READ_A_BOMB, str(path)],
        capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *found, grown_kb = done.stdout.split()
    assert int(grown_kb) < 500_000
    assert found == expected


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(min_size=1, max_size=200), max_size=30),
    st.lists(st.integers(0, 5000), max_size=5),
    st.sampled_from([4, 7]),
    st.booleans(),
)
def test_any_cutting_into_frames_reads_back(
    maker: Any, tmp_path: Path, messages: list[bytes], cuts: list[int], block: int, is_linked: bool
) -> None:
    """Frames may begin and end anywhere."""
    records = [maker.record(message, maker.start_ms) for message in messages]
    whole = b"".join(records)
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(
        b"".join(
            lz4.frame.compress(whole[start:end], block_size=block, block_linked=is_linked)
            for start, end in pairwise(places)
        )
    )
    assert read(path) == (records, [])
