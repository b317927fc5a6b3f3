"""LZ4 frames: what compressed segments are written in, one frame per commit.

Blocks are independent and, but for a frame's last, full, so that readers find any part of a
commit's content without decompressing what is before it. There are no checksums in the
frame: the commit index has the range's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Final, Literal, TypeAlias

import lz4.frame
import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.encoded import CHUNKS_HELD, Chunks, no_more
from cdp_ray_sinks.files.lz4_frame import STORED
from cdp_ray_sinks.writers.lz4_blocks import CompressBlock, bound_bytes, compress_block

Lz4Preset: TypeAlias = Literal["default", "fast", "max"]

LEVEL_MIN: Final = -64
LEVEL_MAX: Final = 12
LEVELS: Final[dict[Lz4Preset, int]] = {"default": 0, "fast": -5, "max": 9}
"""Level 12 takes more than twice the time of 9 for one part in a hundred of the size."""

_BLOCK_IDS: Final = {
    64 * 1024: lz4.frame.BLOCKSIZE_MAX64KB,
    256 * 1024: lz4.frame.BLOCKSIZE_MAX256KB,
    1024 * 1024: lz4.frame.BLOCKSIZE_MAX1MB,
    4 * 1024 * 1024: lz4.frame.BLOCKSIZE_MAX4MB,
}
BLOCK_BYTES_MAX: Final = max(_BLOCK_IDS)
_FRAME_END: Final = bytes(4)
JOINED_BYTES_MAX: Final = 64 * 1024
"""Outputs that are shorter together are one chunk: a write of its own costs more."""
_BUFFERS: Final = 2 * (1 + CHUNKS_HELD)
"""For two frames at a time: one to gather a block in, the others for chunks."""


@dataclass(frozen=True, slots=True)
class Lz4Settings:
    """How frames are compressed.

    `level` is that of the lz4 tool and library: below 0 faster, 0-2 the default, 3-12 smaller
    and slower. `block_bytes` is 64 KiB, 256 KiB, 1 or 4 MiB.
    """

    level: int = LEVELS["default"]
    block_bytes: int = BLOCK_BYTES_MAX

    def __post_init__(self) -> None:
        if self.block_bytes not in _BLOCK_IDS:
            raise ValueError(f"LZ4 has no blocks of {self.block_bytes} bytes")
        if not LEVEL_MIN <= self.level <= LEVEL_MAX:
            raise ValueError(f"LZ4 level {self.level} is not one of {LEVEL_MIN}..{LEVEL_MAX}")

    @classmethod
    def of(cls, preset: Lz4Preset, level: int | None = None) -> Lz4Settings:
        """A preset's settings; `level` replaces the preset's own."""
        return cls(LEVELS[preset] if level is None else level)


def frame_chunks(
    pieces: Iterable[memoryview], settings: Lz4Settings, content_bytes: int = 0
) -> Chunks:
    """The pieces, one after the other, as one LZ4 frame in chunks of at most a few MB.

    `content_bytes` goes into the frame's header and must be right; 0 if it is not known.
    A piece is read before the next is asked for. `pieces` is closed if it can be.
    """
    block_bytes = _block_bytes(settings, content_bytes)
    compress = compress_block(settings.level)
    head: bytes = lz4.frame.compress_begin(
        lz4.frame.create_compression_context(),
        source_size=content_bytes,
        block_size=_BLOCK_IDS[block_bytes],
        block_linked=False,
    )
    pool = frame_pool()
    stage, *buffers = (pool.get() for _ in range(1 + CHUNKS_HELD))
    outs = cycle(buffers)
    out = next(outs)
    done_bytes, held = 0, _put(out, 0, head)
    try:
        for block in _full_blocks(pieces, stage[:block_bytes]):
            done_bytes += block.nbytes
            held = _add_block(out, held, block, compress)
            if held > JOINED_BYTES_MAX:
                yield out.data[:held]
                out, held = next(outs), 0
        if content_bytes not in (0, done_bytes):
            raise ValueError(f"{done_bytes} bytes came where {content_bytes} were announced")
        yield out.data[: _put(out, held, _FRAME_END)]
        yield from no_more()
    finally:
        for buffer in (stage, *buffers):
            pool.put(buffer)
        if isinstance(pieces, Generator):
            pieces.close()


@cache
def frame_pool() -> BufferPool:
    """The buffers that frames are made in, shared by all threads of the process."""
    return BufferPool(_BUFFERS, JOINED_BYTES_MAX + 64 + bound_bytes(BLOCK_BYTES_MAX))


def _put(out: Bytes, position: int, data: bytes) -> int:
    """Put bytes at a place of a buffer; returns where they end."""
    end = position + len(data)
    out[position:end] = np.frombuffer(data, np.uint8)
    return end


def _add_block(out: Bytes, position: int, block: memoryview, compress: CompressBlock) -> int:
    """Put a block behind what is in a buffer; returns where it ends."""
    begin = position + 4
    size = made = compress(block, out[begin:])
    if made >= block.nbytes:
        made = block.nbytes
        size = made | STORED
        out[begin : begin + made] = np.frombuffer(block, np.uint8)
    _put(out, position, size.to_bytes(4, "little"))
    return begin + made


def _full_blocks(pieces: Iterable[memoryview], stage: Bytes) -> Iterator[memoryview]:
    """The content in blocks as large as `stage`, but for the last; each holds until the next.

    What lies in one piece is not copied.
    """
    block_bytes, staged = len(stage), 0
    for piece in pieces:
        position = 0
        while position < piece.nbytes:
            part = piece[position : position + block_bytes - staged]
            position += part.nbytes
            if part.nbytes == block_bytes:
                yield part
                continue
            stage[staged : staged + part.nbytes] = np.frombuffer(part, np.uint8)
            staged += part.nbytes
            if staged == block_bytes:
                yield stage.data
                staged = 0
    if staged:
        yield stage.data[:staged]


def _block_bytes(settings: Lz4Settings, content_bytes: int) -> int:
    """The smallest block that the whole content fits into, so that little takes little memory."""
    fitting = (size for size in _BLOCK_IDS if size >= content_bytes > 0)
    return min(settings.block_bytes, next(fitting, settings.block_bytes))
