"""What a writer is: it turns batches into the bytes of one format, and knows no file.

The protocol is `files.segment.SegmentWriter`, because the files call it; this module is
where writers and sinks take it from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cdp_ray_sinks.files.segment import SegmentWriter

WriterFactory: TypeAlias = Callable[[], SegmentWriter]
"""Makes a writer of its own for each chain."""

__all__ = ["SegmentWriter", "WriterFactory"]
