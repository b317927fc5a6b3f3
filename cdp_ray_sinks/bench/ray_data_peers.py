"""`write_datasink` into a ClickHouse sink beside `Dataset.write_clickhouse`, on one server.

The peer gets columns that are ready for the table; the datasink gets rows of events, from which
it makes messages and the sink makes the table's columns.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from cdp_ray_sinks.actors.dataset_probe import dataset_inserted_s, dataset_of
from cdp_ray_sinks.bench.clickhouse_material import EVENTS, blocks_of, database_in
from cdp_ray_sinks.bench.clickhouse_peers import plain_table
from cdp_ray_sinks.bench.clickhouse_rows import pipeline_config
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.ray_data_material import row_blocks
from cdp_ray_sinks.bench.ray_data_rows import SINK, TASKS, timed
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.datasink import CdpDatasink
from cdp_ray_sinks.writers.clickhouse_tables import deserialise

EVENTS_MAX: Final = 1_000_000
BATCH_EVENTS: Final = 50_000


def clickhouse_row(settings: Settings) -> Row:
    """Rows of events into events_v1, on a server that shares the machine."""
    events = min(EVENTS_MAX, settings.events)
    batches = synthetic_batches(events, settings.shape, BATCH_EVENTS)
    laps, found = [], events
    with database_in(settings.directory / "ray-data-clickhouse") as database:
        ready = [plain_table(deserialise(block)) for block in blocks_of(batches, "none")]
        config = pipeline_config(database, settings, "none")
        table = f"{database.client.address.database}.{EVENTS}"
        dsn = database.url.replace("http://", "clickhouse://default:@")
        with Pipeline(config, settings.say), dataset_of(row_blocks(batches, [1])) as dataset:
            settings.say("ray_data beside Dataset.write_clickhouse")
            for lap in range(settings.repeat + 1):
                database.empty()
                sink = CdpDatasink(config.pipeline.name, rows_per_task_min=events // TASKS)
                own_s = timed(partial(dataset.write_datasink, sink))
                found = min(found, database.numbers_found(events))
                database.empty()
                peer_s = dataset_inserted_s(ready, table, dsn)
                found = min(found, database.row_counts()[EVENTS])
                if lap:
                    laps.append(Lap(own_s, peer_s))
    return rate_row(
        SINK, "clickhouse", laps, events=events, read_back=found, limit="Dataset.write_clickhouse",
        record_bytes=sum(len(batch.records) for batch in batches),
    )  # fmt: skip
