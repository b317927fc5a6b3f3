"""What a writer is: it turns batches into the bytes of one format, and knows no file.

The protocol is `files.segment.SegmentWriter`, because the files call it; this module is
where writers and sinks take it from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.files.segment import SegmentWriter

WriterFactory: TypeAlias = Callable[[], SegmentWriter]
"""Makes a writer of its own for each chain."""

STREAMS: Final[dict[int, str]] = {
    SchemaType.EVENT: "events",
    SchemaType.LOG: "logs",
    SchemaType.METRIC: "metrics",
    SchemaType.TRACE: "traces",
    SchemaType.SNAPSHOT: "snapshots",
}
"""The stream, and so the name of the files, of each schema that has one."""

__all__ = ["STREAMS", "SegmentWriter", "WriterFactory"]
