"""The disk_plaintext sink: lines in `{path}/{workspace}/{date}/{hour}/events.log`, `logs.log` ...

With `compression = "lz4"` in `events.log.lz4` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.text_lines import BUFFER_BYTES_MIN
from cdp_ray_sinks.errors import TerminalError
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.file_sink import FileSink, FileSinkConfig
from cdp_ray_sinks.writers.base import SegmentWriter
from cdp_ray_sinks.writers.lz4_frames import frame_pool
from cdp_ray_sinks.writers.plaintext import (
    BUFFER_BYTES,
    PlainTextLz4Writer,
    PlainTextWriter,
    new_pool,
)


class DiskPlaintextConfig(FileSinkConfig):
    """Where the files are and when they end; see `FileSinkConfig`.

    Lines are formatted in buffers of `buffer_bytes`. A segment may pass `segment_bytes_max`
    by what a commit is longer as lines than as messages.
    """

    type: Literal["disk_plaintext"] = "disk_plaintext"
    buffer_bytes: int = Field(default=BUFFER_BYTES, ge=BUFFER_BYTES_MIN, le=1 << 30)

    def build(self, context: SinkContext) -> DiskPlaintextSink:
        """The sink; nothing is opened yet."""
        return DiskPlaintextSink(self, context)

    def new_writer(self, pool: BufferPool) -> SegmentWriter:
        """What writes the segments of one chain."""
        settings = self.lz4_settings()
        return PlainTextWriter(pool) if settings is None else PlainTextLz4Writer(pool, settings)


class DiskPlaintextSink(FileSink):
    """Writes lines; durable means synced, with the commit's index record."""

    def __init__(
        self, config: DiskPlaintextConfig, context: SinkContext, fs: FileSystem | None = None
    ) -> None:
        self.pool = new_pool(config.buffer_bytes)
        self._is_compressed = config.compression != "none"
        super().__init__(config, lambda: config.new_writer(self.pool), context, fs)

    def write(self, batch: Batch) -> None:
        """Accept a batch. Raises TerminalError if its offsets don't fit its records."""
        if not batch.offsets_fit():
            raise TerminalError(f"batch {batch.header.batch_id}: its offsets do not fit its bytes")
        super().write(batch)

    def pools(self) -> Sequence[BufferPool]:
        """That of the lines, and that of the frames they are compressed into."""
        return (self.pool, frame_pool()) if self._is_compressed else (self.pool,)
