"""Open a segment to read it, whichever way its bytes are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX, Report, load_index
from cdp_ray_sinks.files.lz4_segment import Lz4Segment
from cdp_ray_sinks.files.mapped_segment import MappedSegment
from cdp_ray_sinks.files.mapping import map_file

RecordSegment: TypeAlias = MappedSegment | Lz4Segment
"""Both say which batches they hold and where; see `MappedSegment.located`."""


def open_segment(path: Path, report: Report) -> RecordSegment:
    """Map the segment at `path`, written by us (with a commit index) or by other software.

    What is damaged in the index is reported. Raises OSError or CorruptSegmentError.
    """
    # The index first: what it describes is in the file by then.
    index = load_index(path)
    data = map_file(path)
    if index is None:
        is_compressed = path.name.endswith(LZ4_SUFFIX)
    else:
        is_compressed = index.is_compressed
        for offset, reason in index.damage:
            report(CorruptSegmentError(str(index.path), offset, reason))
    kind = Lz4Segment if is_compressed else MappedSegment
    return kind(path, data, index, report)
