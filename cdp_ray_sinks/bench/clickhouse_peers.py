"""Other ways from Python into the same ClickHouse table, with the same events.

`ratio` is the sink's rate, through the actors, over theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

import msgspec
import pyarrow as pa

from cdp_ray_sinks.actors.dataset_probe import dataset_inserted_s
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.clickhouse_material import (
    BATCH_EVENTS,
    EVENTS,
    INSERT_ROWS,
    Database,
    blocks_of,
)
from cdp_ray_sinks.bench.clickhouse_rows import SINK, pipeline_config
from cdp_ray_sinks.bench.lanes import submitted_s
from cdp_ray_sinks.bench.rows import Row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, deserialise

EVENTS_MAX: Final = 1_000_000
"""What the slow ones are given."""


def peer_rows(settings: Settings, database: Database, batches: Sequence[Batch]) -> Iterator[Row]:
    """json_each_row and dataset: each beside the sink with as many events, in turn."""
    few = batches[: max(INSERT_ROWS, min(EVENTS_MAX, settings.events)) // BATCH_EVENTS]
    events = sum(batch.header.event_count for batch in few)
    record_bytes = sum(len(batch.records) for batch in few)
    blocks = [deserialise(block) for block in blocks_of(few, "none")]
    config = pipeline_config(database, settings, "none")
    with Pipeline(config, settings.say) as pipeline:
        producer = pipeline.producer("peers")
        for name, limit in (("json_each_row", "JSONEachRow"), ("dataset", "write_clickhouse")):
            settings.say(f"clickhouse beside {limit}")
            laps, found = [], events
            for lap in range(settings.repeat + 1):
                database.empty()
                own_s = submitted_s(producer, few)
                database.empty()
                peer_s = (
                    _json_each_row_s(database, blocks, lap)
                    if name == "json_each_row"
                    else dataset_inserted_s(
                        [plain_table(block) for block in blocks],
                        f"{database.client.address.database}.{EVENTS}",
                        database.url.replace("http://", "clickhouse://default:@"),
                    )
                )
                found = min(found, database.row_counts()[EVENTS])
                if lap:
                    laps.append((own_s, peer_s))
            ratios = sorted(peer_s / own_s for own_s, peer_s in laps)
            own = median(own_s for own_s, _ in laps)
            yield Row(
                SINK, name, events, found, events / own, record_bytes / own, limit,
                record_bytes / median(peer_s for _, peer_s in laps), median(ratios), ratios[0],
                ratios[-1],
            )  # fmt: skip


def _json_each_row_s(database: Database, blocks: Sequence[pa.RecordBatch], lap: int) -> float:
    """Rows as Python has them, encoded by the fastest library, in inserts of as many rows."""
    began = time.perf_counter()
    for place, block in enumerate(blocks):
        text = msgspec.json.Encoder(enc_hook=str).encode_lines(_python_rows(block))
        database.client.insert(
            EVENTS, SCHEMAS[EVENTS].names, text, f"json/{lap}/{place}",
            {"date_time_input_format": "best_effort"}, "JSONEachRow",
        )  # fmt: skip
    return time.perf_counter() - began


def _python_rows(block: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = block.to_pylist()
    for row in rows:
        row["timestamp"] = row["timestamp"].isoformat(timespec="milliseconds")
        row["device_id"] = _hyphenated(row["device_id"])
        row["session_id"] = _hyphenated(row["session_id"])
        row["properties"] = row["_raw"] = row["properties"].decode()
        row["source_ip"] = "::ffff:127.0.0.1"
    return rows


def _hyphenated(data: bytes) -> str:
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def plain_table(block: pa.RecordBatch) -> pa.Table:
    """Columns as Ray Data takes them: words instead of a dictionary."""
    place = block.schema.get_field_index("event_name")
    names = block.column(place).cast(pa.utf8())
    return pa.table(block.set_column(place, pa.field("event_name", pa.utf8()), names))
