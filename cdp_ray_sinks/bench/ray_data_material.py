"""What the ray_data rows are measured with: the same rows as blocks, and what was read back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.ray_data.row_batches import COLUMNS

BLOCK_EVENTS: Final = 100_000


def row_blocks(batches: Sequence[Batch], workspaces: Sequence[int]) -> list[pa.Table]:
    """A block of plain columns for each batch, in the workspaces in turn."""
    return [
        _plain(decode_events([batch]).table, workspace_id)
        for batch, workspace_id in zip(batches, cycle(workspaces), strict=False)
    ]


def _plain(rows: pa.RecordBatch, workspace_id: int) -> pa.Table:
    made: dict[str, Any] = {
        "workspace_id": pa.repeat(pa.scalar(workspace_id, pa.uint32()), rows.num_rows)
    }
    for name in COLUMNS["events"]:
        column = rows.column(name)
        if name == "timestamp":
            column = column.view(pa.timestamp("ms", "UTC"))
        is_coded = pa.types.is_dictionary(column.type)
        made[name] = column.cast(pa.utf8()) if is_coded else column
    return pa.table(made)


def numbers_in(payloads: Sequence[Any], events: int) -> int:
    """How many of the running numbers are in these columns exactly once."""
    numbers = RunningNumbers(events)
    for column in payloads:
        numbers.add(column)
    return events - numbers.missing - numbers.duplicated
