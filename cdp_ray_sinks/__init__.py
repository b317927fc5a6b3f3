"""Output sinks for customer-event streams that run as Ray actors."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId
    from cdp_ray_sinks.batch.builder import BatchBuilder, batch_of_messages
    from cdp_ray_sinks.batch.columns import decode_events, decode_logs
    from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
    from cdp_ray_sinks.batch.enums import EventType, LogLevel, SchemaType
    from cdp_ray_sinks.config import DeliveryConfig, PipelineConfig, RoutingConfig
    from cdp_ray_sinks.errors import (
        CdpError,
        ConfigError,
        CorruptSegmentError,
        DrainTimeoutError,
        MalformedMessageError,
        SinkError,
        TerminalError,
        TransientError,
    )
    from cdp_ray_sinks.files.archive_reading import read_batches
    from cdp_ray_sinks.files.buffer_pool import BufferPool
    from cdp_ray_sinks.files.rotation import AtomicRotationSink, RotationConfig, RotationInterval
    from cdp_ray_sinks.files.selection import Selection
    from cdp_ray_sinks.pipeline import Pipeline
    from cdp_ray_sinks.ray_data.archive_datasource import read_archive
    from cdp_ray_sinks.ray_data.batch_blocks import batch_blocks, send_blocks
    from cdp_ray_sinks.ray_data.datasink import CdpDatasink
    from cdp_ray_sinks.ray_data.tap import CdpTap
    from cdp_ray_sinks.sinks.base import Sink, SinkConfig, SinkContext
    from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig, ClickHouseSink
    from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig, DiskBinarySink
    from cdp_ray_sinks.sinks.disk_plaintext import DiskPlaintextConfig, DiskPlaintextSink
    from cdp_ray_sinks.sinks.null import NullConfig, NullSink
    from cdp_ray_sinks.sinks.parquet import ParquetConfig, ParquetSink
    from cdp_ray_sinks.sinks.stdout import StdoutConfig, StdoutSink
    from cdp_ray_sinks.sources.synthetic import SyntheticConfig
    from cdp_ray_sinks.sources.tcp import TcpConfig
    from cdp_ray_sinks.writers.binary import (
        BinaryLz4Writer,
        BinaryReader,
        BinaryWriter,
        MessageMetadata,
        SeekableBinaryReader,
    )
    from cdp_ray_sinks.writers.lz4_frames import Lz4Settings
    from cdp_ray_sinks.writers.plaintext import PlainTextLz4Writer, PlainTextWriter
else:
    # Each name is loaded when first asked for: see there.
    from cdp_ray_sinks.exports import load_public as __getattr__  # noqa: F401 - a module hook

__all__ = [
    "AtomicRotationSink",
    "Batch",
    "BatchBuilder",
    "BatchHeader",
    "BatchId",
    "BinaryLz4Writer",
    "BinaryReader",
    "BinaryWriter",
    "BufferPool",
    "CdpDatasink",
    "CdpError",
    "CdpTap",
    "ClickHouseConfig",
    "ClickHouseSink",
    "ConfigError",
    "CorruptSegmentError",
    "DeliveryConfig",
    "DiskBinaryConfig",
    "DiskBinarySink",
    "DiskPlaintextConfig",
    "DiskPlaintextSink",
    "DrainTimeoutError",
    "EventType",
    "LogLevel",
    "Lz4Settings",
    "MalformedMessageError",
    "MessageMetadata",
    "NullConfig",
    "NullSink",
    "ParquetConfig",
    "ParquetSink",
    "Pipeline",
    "PipelineConfig",
    "PlainTextLz4Writer",
    "PlainTextWriter",
    "RotationConfig",
    "RotationInterval",
    "RoutingConfig",
    "SchemaType",
    "SeekableBinaryReader",
    "Selection",
    "Sink",
    "SinkConfig",
    "SinkContext",
    "SinkError",
    "StdoutConfig",
    "StdoutSink",
    "SyntheticConfig",
    "TcpConfig",
    "TerminalError",
    "TransientError",
    "batch_blocks",
    "batch_of_messages",
    "decode_events",
    "decode_logs",
    "encode_events",
    "encode_logs",
    "read_archive",
    "read_batches",
    "send_blocks",
]
