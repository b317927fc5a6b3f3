"""Compressed segments as they are written: LZ4 frames that the standard tool reads."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.files.encoded import CHUNKS_HELD, made_ahead
from cdp_ray_sinks.writers import lz4_blocks, lz4_frames
from cdp_ray_sinks.writers.binary import BinaryLz4Writer
from cdp_ray_sinks.writers.lz4_blocks import bound_bytes, compress_block, find_library
from cdp_ray_sinks.writers.lz4_frames import (
    BLOCK_BYTES_MAX,
    LEVELS,
    Lz4Settings,
    frame_chunks,
    frame_pool,
)

SIZES = [64 * 1024, 256 * 1024, 1024 * 1024, 4 * 1024 * 1024]


def compressible(content_bytes: int, seed: int = 0) -> bytes:
    """Words in random order, of which LZ4 leaves less than half."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (200, 12), np.uint8)
    return words[rng.integers(0, 200, content_bytes // 12 + 1)].tobytes()[:content_bytes]


def framed(pieces: list[bytes], settings: Lz4Settings, content_bytes: int = 0) -> bytes:
    """One frame of the pieces."""
    chunks = frame_chunks(map(memoryview, pieces), settings, content_bytes)
    return b"".join(map(bytes, chunks))


@given(
    st.lists(st.binary(max_size=300) | st.integers(0, 3000).map(bytes), max_size=12),
    st.sampled_from([0, -5, 3, 9, 12]),
    st.booleans(),
)
def test_any_pieces_come_back(pieces: list[bytes], level: int, is_told: bool) -> None:
    """In their order, whatever the level, whether or not their size is known before."""
    content = b"".join(pieces)
    frame = framed(pieces, Lz4Settings(level), len(content) if is_told else 0)
    assert lz4.frame.decompress(frame) == content


@pytest.mark.parametrize("block_bytes", SIZES)
@pytest.mark.parametrize("piece_bytes", [1000, 700_001, 10_000_000])
def test_all_blocks_but_the_last_are_full(block_bytes: int, piece_bytes: int) -> None:
    """Which lets a reader find any part of the content without what is before it."""
    content = compressible(9_000_001)
    pieces = [content[s : s + piece_bytes] for s in range(0, len(content), piece_bytes)]
    frame = framed(pieces, Lz4Settings(block_bytes=block_bytes))
    info = lz4.frame.get_frame_info(frame)
    assert info["block_size"] == block_bytes
    assert not info["block_linked"]
    assert not info["content_checksum"]
    position, block_count = 7, 0
    while size := int.from_bytes(frame[position : position + 4], "little") & 0x7FFFFFFF:
        position += 4 + size
        block_count += 1
    assert position + 4 == len(frame)
    assert block_count == -(-len(content) // block_bytes)


def test_a_frame_says_how_much_it_holds_and_takes_the_block_that_fits() -> None:
    """Little content has small blocks, so that reading it takes little memory."""
    for content_bytes, block_bytes in [(1, SIZES[0]), (SIZES[0] + 1, SIZES[1]), (10**7, SIZES[3])]:
        frame = framed([bytes(content_bytes)], Lz4Settings(), content_bytes)
        info = lz4.frame.get_frame_info(frame)
        assert (info["content_size"], info["block_size"]) == (content_bytes, block_bytes)


def test_chunks_are_neither_tiny_nor_large() -> None:
    """A few MB at most, and bytes; what is tiny is one chunk, so that it is one write."""
    content = memoryview(compressible(20_000_000))
    for level in (0, -5):
        chunks = list(frame_chunks([content], Lz4Settings(level)))
        assert max(chunk.nbytes for chunk in chunks) <= BLOCK_BYTES_MAX
        assert {(chunk.format, len(chunk) == chunk.nbytes) for chunk in chunks} == {("B", True)}
        assert len(chunks) <= 5 + CHUNKS_HELD
    small = [memoryview(b"x" * 100)] * 20
    assert len([c for c in frame_chunks(small, Lz4Settings(), 2000) if len(c)]) == 1


def test_closing_a_frame_closes_its_pieces() -> None:
    """Then a format that makes them in pooled buffers gives the buffers back."""
    closed = []

    def pieces() -> Generator[memoryview, None, None]:
        try:
            while True:
                yield memoryview(compressible(1_000_000))
        finally:
            closed.append(True)

    chunks = frame_chunks(pieces(), Lz4Settings(block_bytes=SIZES[0]))
    next(chunks)
    next(chunks)
    chunks.close()
    assert closed == [True]


def test_what_does_not_compress_is_stored() -> None:
    """So that noise never grows by more than its blocks' sizes."""
    noise = np.random.default_rng(1).bytes(200_000)
    frame = framed([noise], Lz4Settings(block_bytes=SIZES[0]))
    assert len(frame) == 7 + 200_000 + 4 * 4 + 4
    assert lz4.frame.decompress(frame) == noise


def test_buffers_come_from_the_pool_and_go_back_when_they_are_written() -> None:
    """Not while the last chunk is still in use; nothing is allocated in steady state."""
    pool = frame_pool()
    available, misses = pool.available, pool.misses
    for _ in range(20):
        for chunk in made_ahead(frame_chunks([memoryview(compressible(9_000_000))], Lz4Settings())):
            before = bytes(chunk)
            time.sleep(0.001)
            assert len(chunk) == 0 or pool.available == available - CHUNKS_HELD - 1
            assert bytes(chunk) == before
    assert (pool.available, pool.misses) == (available, misses)


@pytest.mark.parametrize("level", [-9, 0, 1, 3, 12])
def test_without_the_librarys_functions_the_packages_are_used(
    level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found or not, the frames hold the same, in about as many bytes."""
    assert find_library() is not None
    content = [compressible(700_000), b"", np.random.default_rng(1).bytes(100_000)]
    settings = Lz4Settings(level, SIZES[0])
    by_library = framed(content, settings)
    monkeypatch.setattr(lz4_frames, "compress_block", lz4_blocks._by_package)
    by_package = framed(content, settings)
    assert lz4.frame.decompress(by_library) == lz4.frame.decompress(by_package) == b"".join(content)
    assert len(by_library) == pytest.approx(len(by_package), rel=0.1)


def test_a_buffer_that_is_too_small_is_refused() -> None:
    """Before the library writes behind its end."""
    with pytest.raises(ValueError, match="too few"):
        compress_block(0)(memoryview(bytes(100)), np.empty(bound_bytes(100) - 1, np.uint8))


def test_a_wrong_announcement_of_the_content_is_an_error() -> None:
    """Rather than a frame that no tool reads."""
    with pytest.raises(ValueError, match="5 bytes came where 6 were announced"):
        framed([b"12345"], Lz4Settings(), 6)


def test_presets_trade_size_for_speed() -> None:
    """Fast is larger than the default, max smaller; a level replaces the preset's."""
    content = [compressible(300_000)]
    sizes = {name: len(framed(content, Lz4Settings.of(name))) for name in LEVELS}
    assert sizes["fast"] > sizes["default"] > sizes["max"]
    assert Lz4Settings.of("max", 3).level == 3


@pytest.mark.parametrize("wrong", [{"level": 13}, {"level": -65}, {"block_bytes": 12345}])
def test_settings_that_lz4_has_not_are_refused(wrong: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Lz4Settings(**wrong)


def test_the_standard_tool_reads_what_the_writer_makes(maker: Any, tmp_path: Path) -> None:
    """Frames one after the other are one file to it."""
    tool = shutil.which("lz4")
    if tool is None:
        pytest.skip("the lz4 tool is not installed")
    writer = BinaryLz4Writer()
    commits = [[maker.batch([maker.message(40)] * 200, sequence=n)] for n in range(3)]
    path = tmp_path / "data.bin.lz4"
    path.write_bytes(
        b"".join(bytes(chunk) for commit in commits for chunk in writer.encode(commit))
    )
    subprocess.run([tool, "-t", path], check=True, capture_output=True)
    shown = subprocess.run([tool, "-dc", path], check=True, capture_output=True).stdout
    assert shown == b"".join(batch.records.tobytes() for (batch,) in commits)
