"""Which rows of a decoded batch are selected."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.files.selection import Selection


def wanted_rows(table: pa.RecordBatch, schema_type: int, selection: Selection) -> pa.RecordBatch:
    """The rows of a decoded batch that are selected by event time and event type."""
    mask = None
    if selection.time == "event" and selection.has_range:
        times = table.column("timestamp")
        low, high = selection.start_ms, selection.end_ms
        mask = pc.and_(
            pc.greater_equal(times, -(2**63) if low is None else low),
            pc.less_equal(times, 2**63 - 1 if high is None else high),
        )
    if selection.event_types is not None and schema_type == SchemaType.EVENT:
        kinds = table.column("event_type").to_numpy()
        is_kind = pa.array((np.uint64(selection.event_types) >> kinds.astype("u8")) & 1 == 1)
        mask = is_kind if mask is None else pc.and_(mask, is_kind)
    return table if mask is None else table.filter(mask)
