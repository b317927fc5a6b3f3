"""Batches become the rows of six tables; what makes no row is told."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, deserialise, serialise, split_by_month


def rows_of(made: Any, table: str) -> list[dict[str, Any]]:
    """The rows of one table; they are valid Arrow of its schema."""
    found = made.tables[table]
    found.rows.validate(full=True)
    assert found.rows.schema == SCHEMAS[table]
    assert len(found.batches) == len(found.messages) == found.rows.num_rows
    rows: list[dict[str, Any]] = found.rows.to_pylist()
    return rows


def test_synthetic_events_keep_their_payloads_through_the_bytes() -> None:
    """Every TRACK event is a row, also after serialising month by month."""
    batches = synthetic_batches(3_000, "tell", 1_000)
    made = RowMaker().rows_of(batches)
    assert list(made.tables) == ["events_v1"]
    assert made.problems == []
    blocks = [serialise(part.rows) for part in split_by_month(made.tables["events_v1"])]
    rows = pa.Table.from_batches([deserialise(block) for block in blocks])
    assert rows.num_rows == 3_000
    assert rows["properties"] == rows["_raw"]
