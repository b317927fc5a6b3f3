"""LZ4 frames: what compressed segments are written in, one frame per commit.

Blocks are independent and, but for a frame's last, full, so that readers find any part of a
commit's content without decompressing what is before it. There are no checksums in the
frame: the commit index has the range's. The compressor releases the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import lz4.frame

from cdp_ray_sinks.files.encoded import Chunks

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
_JOINED_BYTES_MAX: Final = 64 * 1024
"""Outputs that are shorter together are one chunk: a write of its own costs more."""


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
    context: Any = lz4.frame.create_compression_context()
    try:
        held: bytes = lz4.frame.compress_begin(
            context,
            source_size=content_bytes,
            compression_level=settings.level,
            block_size=_BLOCK_IDS[block_bytes],
            block_linked=False,
            auto_flush=False,
        )
        for piece in pieces:
            for start in range(0, piece.nbytes, block_bytes):
                made: bytes = lz4.frame.compress_chunk(context, piece[start : start + block_bytes])
                if held and len(held) + len(made) > _JOINED_BYTES_MAX:
                    yield memoryview(held)
                    held = made
                else:
                    held += made
        yield memoryview(held + lz4.frame.compress_flush(context))
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def _block_bytes(settings: Lz4Settings, content_bytes: int) -> int:
    """The smallest block that the whole content fits into, so that little takes little memory."""
    fitting = (size for size in _BLOCK_IDS if size >= content_bytes > 0)
    return min(settings.block_bytes, next(fitting, settings.block_bytes))
