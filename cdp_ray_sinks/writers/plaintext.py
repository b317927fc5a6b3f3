"""disk_plaintext files: a line for each event or log entry, in a file for each schema.

What is in a line: `batch.text_lines`. A message that does not decode is a raw line among the
others of its batch, not in a file of its own, so that a commit stays in one file; `raw.log`
has the messages of unknown schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, Bytes
from cdp_ray_sinks.batch.text_lines import TextLines
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.commit_index import LZ4, RANGE_CHECKSUM
from cdp_ray_sinks.files.encoded import CHUNKS_HELD, Chunks, chunks_of
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.lz4_frames import BLOCK_BYTES_MAX, Lz4Settings, frame_chunks

RAW_STREAM: Final = "raw"

_TEXT_FACTOR: Final = 2
"""Lines are mostly shorter than so many times their messages."""
_SMALL_BLOCKS: Final = (64 * 1024, 256 * 1024, 1024 * 1024)

BUFFER_BYTES: Final = 1024 * 1024
BUFFERS: Final = CHUNKS_HELD
"""What a commit uses, and one chain of a lane commits at a time."""


def new_pool(buffer_bytes: int = BUFFER_BYTES) -> BufferPool:
    """The buffers that all chains of a lane format lines in."""
    return BufferPool(BUFFERS, buffer_bytes)


class PlainTextWriter:
    """Writes lines; segments are named after what is in them, `events.log` and so on."""

    suffix: ClassVar[str] = ".log"
    index_flags: ClassVar[int] = RANGE_CHECKSUM

    def __init__(self, pool: BufferPool | None = None) -> None:
        self._pool = pool or new_pool()

    def stream_of(self, header: BatchHeader) -> str:
        """Each schema has a file of its own."""
        return STREAMS.get(header.schema_type, RAW_STREAM)

    def encode(self, batches: Sequence[Batch]) -> Chunks:
        """The lines of all batches, in buffers of the pool."""
        left = iter(batches)
        lines = TextLines()

        def fill(out: Bytes) -> int:
            filled = 0
            while True:
                if lines.is_done:
                    batch = next(left, None)
                    if batch is None:
                        return filled
                    lines.start(batch)
                filled = lines.fill(out, filled)
                if not lines.is_done:
                    return filled

        return chunks_of(self._pool, fill)

    def release(self) -> None:
        """Nothing is held."""


class PlainTextLz4Writer(PlainTextWriter):
    """Writes the same lines, each commit compressed into one LZ4 frame: `events.log.lz4`."""

    suffix: ClassVar[str] = PlainTextWriter.suffix + LZ4_SUFFIX
    index_flags: ClassVar[int] = RANGE_CHECKSUM | LZ4

    def __init__(self, pool: BufferPool | None = None, settings: Lz4Settings | None = None) -> None:
        super().__init__(pool)
        self.settings = settings or Lz4Settings()

    def encode(self, batches: Sequence[Batch]) -> Chunks:
        """One LZ4 frame of the lines of all batches; its blocks are small if it will be."""
        text_bytes = _TEXT_FACTOR * sum(batch.header.record_bytes for batch in batches)
        block_bytes = next((size for size in _SMALL_BLOCKS if size >= text_bytes), BLOCK_BYTES_MAX)
        settings = replace(self.settings, block_bytes=min(block_bytes, self.settings.block_bytes))
        return frame_chunks(super().encode(batches), settings)
