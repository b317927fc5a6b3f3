"""Loads the package's public names when they are first asked for.

`cdp-sinks cat` must not wait for Ray, nor a config check for numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

MODULES: Final = {
    "cdp_ray_sinks.batch.batch": ("Batch", "BatchHeader", "BatchId"),
    "cdp_ray_sinks.batch.builder": ("BatchBuilder", "batch_of_messages"),
    "cdp_ray_sinks.batch.columns": ("decode_events", "decode_logs"),
    "cdp_ray_sinks.batch.encoding": ("encode_events", "encode_logs"),
    "cdp_ray_sinks.batch.enums": ("EventType", "LogLevel", "SchemaType"),
    "cdp_ray_sinks.config": ("DeliveryConfig", "PipelineConfig", "RoutingConfig"),
    "cdp_ray_sinks.errors": (
        "CdpError",
        "ConfigError",
        "CorruptSegmentError",
        "DrainTimeoutError",
        "MalformedMessageError",
        "SinkError",
        "TerminalError",
        "TransientError",
    ),
    "cdp_ray_sinks.files.archive_reading": ("read_batches",),
    "cdp_ray_sinks.files.buffer_pool": ("BufferPool",),
    "cdp_ray_sinks.files.rotation": ("AtomicRotationSink", "RotationConfig", "RotationInterval"),
    "cdp_ray_sinks.files.selection": ("Selection",),
    "cdp_ray_sinks.pipeline": ("Pipeline",),
    "cdp_ray_sinks.ray_data.archive_datasource": ("read_archive",),
    "cdp_ray_sinks.ray_data.batch_blocks": ("batch_blocks", "send_blocks"),
    "cdp_ray_sinks.ray_data.datasink": ("CdpDatasink",),
    "cdp_ray_sinks.ray_data.tap": ("CdpTap",),
    "cdp_ray_sinks.sinks.base": ("Sink", "SinkConfig", "SinkContext"),
    "cdp_ray_sinks.sinks.clickhouse": ("ClickHouseConfig", "ClickHouseSink"),
    "cdp_ray_sinks.sinks.disk_binary": ("DiskBinaryConfig", "DiskBinarySink"),
    "cdp_ray_sinks.sinks.disk_plaintext": ("DiskPlaintextConfig", "DiskPlaintextSink"),
    "cdp_ray_sinks.sinks.null": ("NullConfig", "NullSink"),
    "cdp_ray_sinks.sinks.parquet": ("ParquetConfig", "ParquetSink"),
    "cdp_ray_sinks.sinks.stdout": ("StdoutConfig", "StdoutSink"),
    "cdp_ray_sinks.sources.synthetic": ("SyntheticConfig",),
    "cdp_ray_sinks.sources.tcp": ("TcpConfig",),
    "cdp_ray_sinks.writers.binary": (
        "BinaryLz4Writer",
        "BinaryReader",
        "BinaryWriter",
        "MessageMetadata",
        "SeekableBinaryReader",
    ),
    "cdp_ray_sinks.writers.lz4_frames": ("Lz4Settings",),
    "cdp_ray_sinks.writers.plaintext": ("PlainTextLz4Writer", "PlainTextWriter"),
}
_HOMES: Final = {name: module for module, names in MODULES.items() for name in names}


def load_public(name: str) -> Any:
    """The public object of that name; stands in as the package's `__getattr__`."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'cdp_ray_sinks' has no attribute {name!r}") from None
    return getattr(import_module(home), name)
