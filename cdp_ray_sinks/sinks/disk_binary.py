"""The disk_binary sink: batches as they are, in `{path}/{workspace}/{date}/{hour}/data.bin`.

With `compression = "lz4"` in `data.bin.lz4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.file_sink import FileSink, FileSinkConfig
from cdp_ray_sinks.writers.base import SegmentWriter
from cdp_ray_sinks.writers.binary import BinaryLz4Writer, BinaryWriter
from cdp_ray_sinks.writers.lz4_frames import frame_pool


class DiskBinaryConfig(FileSinkConfig):
    """Where the archive is and when its segments end; see `FileSinkConfig`."""

    type: Literal["disk_binary"] = "disk_binary"

    def build(self, context: SinkContext) -> DiskBinarySink:
        """The sink; nothing is opened yet."""
        return DiskBinarySink(self, context)

    def new_writer(self) -> SegmentWriter:
        """What writes the segments of one chain."""
        settings = self.lz4_settings()
        return BinaryWriter() if settings is None else BinaryLz4Writer(settings=settings)


class DiskBinarySink(FileSink):
    """Writes batches as they are; durable means synced, with the commit's index record."""

    def __init__(
        self, config: DiskBinaryConfig, context: SinkContext, fs: FileSystem | None = None
    ) -> None:
        super().__init__(config, config.new_writer, context, fs)
        self._is_compressed = config.compression != "none"

    def pools(self) -> Sequence[BufferPool]:
        """That of the frames, if batches are compressed."""
        return (frame_pool(),) if self._is_compressed else ()
