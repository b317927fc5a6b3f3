"""Rows of ClickHouse's tables, nanoseconds an event: `python tests/benchmarks/clickhouse_rows.py`.

One core, 100k synthetic events in five batches that become one block per table: decoding alone,
with the rows made of it, with the bytes to insert. Median, 10th and 90th percentile of the
turns, in time of the process, so that other processes count less.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import serialise, split_by_month

EVENTS = 100_000
TURNS = 25

KINDS: dict[str, dict[str, Any]] = {
    "track": {},
    "identify": {"identify_share": 1.0},
    "identify, all different": {"identify_share": 1.0, "device_count": EVENTS},
    "context": {"context_share": 1.0},
    "logs": {"log_share": 1.0},
    "mix 81/5/5/10": {"identify_share": 0.05, "context_share": 0.05, "log_share": 0.1},
}


def batches_of(options: dict[str, Any]) -> list[Batch]:
    """Batches of the synthetic source."""
    given = {"events": EVENTS, "shape": "tell", "batch_events": EVENTS // 5} | options
    keeper = BatchKeeper()
    load_source_config("synthetic", given).build(SourceContext("bench")).run(
        keeper, threading.Event()
    )
    return keeper.batches


def measure(run: Callable[[], object]) -> str:
    """Nanoseconds an event."""
    times = []
    for _ in range(TURNS):
        started = time.process_time_ns()
        run()
        times.append((time.process_time_ns() - started) / EVENTS)
    low, median, high = np.percentile(times, [10, 50, 90])
    return f"{median:7.0f} ({low:.0f}-{high:.0f})"


def main() -> None:
    """Print one line per kind of events."""
    maker, buffers, log_buffers = RowMaker(), DecodeBuffers(), DecodeBuffers()
    print(f"{'':24} {'decode':>20} {'and rows':>20} {'and bytes':>20}  rows an event")
    for kind, options in KINDS.items():
        batches = batches_of(options)
        events = [batch for batch in batches if batch.header.schema_type == 1]
        logs = [batch for batch in batches if batch.header.schema_type == 2]

        def decode(events: list[Batch] = events, logs: list[Batch] = logs) -> None:
            decode_events(events, buffers=buffers)
            decode_logs(logs, buffers=log_buffers)

        def rows(batches: list[Batch] = batches) -> Any:
            return maker.rows_of(batches).tables

        def blocks(rows: Callable[[], Any] = rows) -> Any:
            return [serialise(part.rows) for t in rows().values() for part in split_by_month(t)]

        count = sum(table.rows.num_rows for table in rows().values())
        figures = " ".join(f"{measure(run):>20}" for run in (decode, rows, blocks))
        print(f"{kind:24} {figures}  {count / EVENTS:.2f}")


if __name__ == "__main__":
    main()
