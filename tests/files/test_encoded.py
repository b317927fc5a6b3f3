"""Serialising while writing: order, bounds, errors on either side, retries."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.commit_index import RANGE_CHECKSUM
from cdp_ray_sinks.files.encoded import (
    AHEAD_BYTES_MIN,
    CHUNKS_HELD,
    chunks_of,
    made_ahead,
    write_encoded,
)
from cdp_ray_sinks.files.file_system import LocalFileSystem

PIECE_BYTES = 1000


def pieces_of(data: bytes, pool: BufferPool) -> Generator[memoryview, None, None]:
    """The data in pieces as large as the pool's buffers."""
    left = memoryview(data)

    def fill(buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
        nonlocal left
        piece, left = left[: len(buffer)], left[len(buffer) :]
        buffer[: len(piece)] = np.frombuffer(piece, np.uint8)
        return len(piece)

    return chunks_of(pool, fill)


@given(st.binary(max_size=100), st.integers(1, 40), st.booleans(), st.booleans())
def test_what_is_written_is_what_was_made(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    piece_bytes: int,
    ahead: bool,
    checksum: bool,
) -> None:
    """However the bytes are cut into chunks, in one thread or in two."""
    path = tmp_path_factory.mktemp("made") / "file"
    pool = BufferPool(CHUNKS_HELD, piece_bytes)
    with path.open("w+b") as file:
        end, found = write_encoded(
            LocalFileSystem(),
            file.fileno(),
            pieces_of(data, pool),
            0,
            checksum=checksum,
            ahead=ahead,
            will_sync=True,
        )
    assert path.read_bytes() == data
    assert end == len(data)
    assert found == (xxhash.xxh3_64_intdigest(data) if checksum else 0)
    assert pool.available == CHUNKS_HELD


def test_the_next_chunks_are_made_while_one_is_used_and_no_further() -> None:
    """As many buffers are enough: a further chunk is asked for when the first is let go."""
    asked: list[int] = []
    made = threading.Semaphore(0)

    def chunks() -> Generator[memoryview, None, None]:
        for number in range(9):
            asked.append(number)
            made.release()
            yield memoryview(bytes([number]))

    given_out = made_ahead(chunks())
    for number in range(9):
        assert next(given_out)[0] == number
        assert made.acquire(timeout=10)
        assert len(asked) <= number + CHUNKS_HELD
    assert next(given_out, None) is None


def test_buffers_go_back_only_when_the_last_chunk_is_used() -> None:
    """Or another thread would write into what is being written."""
    pool = BufferPool(CHUNKS_HELD, 8)
    sizes = iter([8, 8, 3, 0])
    for chunk in made_ahead(chunks_of(pool, lambda _: next(sizes))):
        time.sleep(0.01)
        assert len(chunk) == 0 or pool.available == 0
    assert pool.available == CHUNKS_HELD


def test_an_error_while_making_is_raised_where_the_chunks_are_used() -> None:
    """With the chunks before it used, and the buffers given back."""
    pool = BufferPool(CHUNKS_HELD, 8)
    calls: Iterator[int] = iter([8, 8])

    def fill(buffer: Any) -> int:
        return next(calls)  # a StopIteration inside, which a generator must not hide

    used = []
    with pytest.raises(RuntimeError):
        used.extend(chunk.nbytes for chunk in made_ahead(chunks_of(pool, fill)))
    assert pool.available == CHUNKS_HELD
    assert threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if thread.name == "encoder"]


def test_a_write_that_fails_ends_the_making(tmp_path: Path) -> None:
    """The thread is gone, the buffers are back, and no more than two chunks were made."""
    pool = BufferPool(CHUNKS_HELD, 8)
    made = []

    def fill(buffer: Any) -> int:
        made.append(1)
        return 8

    class Full(LocalFileSystem):
        def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
            raise OSError(errno.ENOSPC, "full")

    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="full"):
        write_encoded(
            Full(), file.fileno(), chunks_of(pool, fill), 0,
            checksum=True, ahead=True, will_sync=False,
        )  # fmt: skip
    assert len(made) <= CHUNKS_HELD + 1
    assert pool.available == CHUNKS_HELD
    assert not [thread for thread in threading.enumerate() if thread.name == "encoder"]


class ChunkedWriter:
    """Writes each record twice, in chunks."""

    suffix = ".twice"
    index_flags = RANGE_CHECKSUM

    def __init__(self) -> None:
        self.pool = BufferPool(CHUNKS_HELD, 1 << 20)
        self.broken_at: int | None = None

    def stream_of(self, header: BatchHeader) -> str:
        return "data"

    def encode(self, batches: Sequence[Batch]) -> Generator[memoryview, None, None]:
        data = b"".join(batch.records.repeat(2).tobytes() for batch in batches)
        if self.broken_at is None:
            return pieces_of(data, self.pool)
        return self._breaking(data[: self.broken_at])

    def _breaking(self, data: bytes) -> Generator[memoryview, None, None]:
        yield from pieces_of(data, self.pool)
        raise MemoryError

    def release(self) -> None:
        pass


@pytest.mark.parametrize("filler", [10, AHEAD_BYTES_MIN])
def test_a_commit_in_chunks_is_proven_by_its_range(bench: Any, filler: int) -> None:
    """Small ones in the writing thread, large ones in two; the index has the file's checksum."""
    bench.writer = ChunkedWriter
    chain = bench.chain()
    texts = ["x" * filler, "y", "z" * filler]
    for sequence, text in enumerate(texts):
        chain.append(bench.batch(sequence, text=text))
        chain.commit()
    chain.close()
    data = bench.path(bench.data_files[0]).read_bytes()
    expected = [bench.batch(sequence, text=text).records for sequence, text in enumerate(texts)]
    assert data == b"".join(records.repeat(2).tobytes() for records in expected)
    for commit in bench.contents(bench.data_files[0]).commits:
        covered = data[commit.start_offset : commit.end_offset]
        assert xxhash.xxh3_64_intdigest(covered) == commit.range_checksum


@pytest.mark.parametrize("operation", ["write", "append"])
def test_a_commit_in_chunks_that_fails_is_written_again(bench: Any, operation: str) -> None:
    """A full disk in its middle: cut back, then the same bytes."""
    bench.writer = ChunkedWriter
    chain = bench.chain()
    chain.append(bench.batch(0, text="x" * AHEAD_BYTES_MIN))
    bench.fs.fails = lambda called, name: (
        errno.ENOSPC
        if called == operation and len(bench.fs.calls) > 6 and name.startswith("data.twice")
        else 0
    )
    with pytest.raises(TransientError, match="ENOSPC"):
        chain.commit()
    assert bench.path("2026-01-01/00/data.twice").stat().st_size == 0
    bench.fs.fails = lambda called, name: 0
    chain.commit()
    chain.close()
    assert chain._writer.pool.available == CHUNKS_HELD
    expected = bench.batch(0, text="x" * AHEAD_BYTES_MIN).records.repeat(2).tobytes()
    assert bench.path("2026-01-01/00/data.twice").read_bytes() == expected


def test_a_commit_whose_making_fails_is_taken_back(bench: Any) -> None:
    """What was written of it is cut off before anything else is written."""
    bench.writer = ChunkedWriter
    chain = bench.chain()
    chain.append(bench.batch(0))
    chain.commit()
    chain.append(bench.batch(1, text="x" * AHEAD_BYTES_MIN))
    chain._writer.broken_at = AHEAD_BYTES_MIN
    with pytest.raises(MemoryError):
        chain.commit()
    chain._writer.broken_at = None
    chain.commit()
    chain.close()
    expected = [bench.batch(0), bench.batch(1, text="x" * AHEAD_BYTES_MIN)]
    data = bench.path(bench.data_files[0]).read_bytes()
    assert data == b"".join(batch.records.repeat(2).tobytes() for batch in expected)
