"""What the clickhouse rows are measured with: a server, its tables, the engine's own speed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.sinks.clickhouse_check import create_tables
from cdp_ray_sinks.sinks.clickhouse_client import Address, ClickHouseClient
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, Compression, serialise

DATABASE: Final = "bench"
BATCH_EVENTS: Final = 50_000
INSERT_ROWS: Final = 100_000
EVENTS: Final = "events_v1"
MEMORY: Final = "rows_in_memory"


class Database:
    """The six tables on a server of the benchmark's own."""

    def __init__(self, server: ClickHouseServer) -> None:
        self.url = server.url
        self.client = ClickHouseClient(Address(server.url, DATABASE), {})
        self.client.open()
        self._inserts = 0
        create_tables(self.client)

    def name(self, table: str) -> str:
        """A table with its database, quoted."""
        return self.client.table_name(table)

    def empty(self) -> None:
        """Take all rows out of the six tables, so that no merge of a lap goes into the next."""
        for table in SCHEMAS:
            self.client.command(f"TRUNCATE TABLE {self.name(table)}")

    def row_counts(self) -> dict[str, int]:
        """Rows in each of the six tables."""
        return {
            table: int(self.client.query(f"SELECT count() FROM {self.name(table)}")[0][0])
            for table in SCHEMAS
        }

    def numbers_found(self, events: int) -> int:
        """How many of the running numbers below `events` are in events_v1, each once."""
        number = "simpleJSONExtractUInt(properties, 'n')"
        sql = f"SELECT count(), uniqExact({number}) FROM {self.name(EVENTS)} WHERE {number} < "
        ((rows, different),) = self.client.query(sql + str(events))
        return int(different) - (int(rows) - int(different))

    def insert_select_s(self, times: int) -> float:
        """Seconds of the engine alone: a block of INSERT_ROWS out of memory, so many times."""
        self.empty()
        began = time.perf_counter()
        for _ in range(times):
            self._inserts += 1  # without a token of its own the same rows would be left out
            self.client.command(
                f"INSERT INTO {self.name(EVENTS)} "
                f"SETTINGS insert_deduplication_token = 'select/{self._inserts}' "
                f"SELECT * FROM {self.name(MEMORY)}"
            )
        taken_s = time.perf_counter() - began
        rows = self.row_counts()[EVENTS]
        if rows != times * INSERT_ROWS:
            raise CdpError(f"INSERT SELECT put {rows} rows there, not {times} x {INSERT_ROWS}")
        return taken_s

    def fill_memory(self, batches: Sequence[Batch]) -> None:
        """INSERT_ROWS of the batches' rows into a table that is nothing but memory."""
        memory = self.name(MEMORY)
        self.client.command(
            f"CREATE OR REPLACE TABLE {memory} AS {self.name(EVENTS)} ENGINE=Memory"
        )
        (block,) = blocks_of(batches, "none")[:1]
        self.client.insert(MEMORY, SCHEMAS[EVENTS].names, block, "memory")


@contextmanager
def database_in(directory: Path) -> Iterator[Database]:
    """A server on its own directory; it ends with the block. ConfigError without chdb."""
    try:
        with ClickHouseServer(directory) as server:
            made = Database(server)
            try:
                yield made
            finally:
                made.client.close()
    except LookupError as error:
        raise ConfigError(f"bench clickhouse: {error}: pip install 'cdp-ray-sinks[chdb]'") from None


def blocks_of(batches: Sequence[Batch], compression: Compression) -> list[Any]:
    """The rows of events_v1 as blocks of INSERT_ROWS, ready to be inserted."""
    maker, blocks = RowMaker(), []
    per_block = INSERT_ROWS // BATCH_EVENTS
    for start in range(0, len(batches), per_block):
        made = maker.rows_of(batches[start : start + per_block]).tables[EVENTS]
        blocks.append(serialise(made.rows, compression))
    return blocks


def mixed_batches(events: int, shape: str) -> list[Batch]:
    """Synthetic batches of which every table gets rows."""
    config = load_source_config(
        "synthetic",
        {
            "events": events,
            "shape": shape,
            "batch_events": BATCH_EVENTS,
            "identify_share": 0.05,
            "context_share": 0.15,
            "log_share": 0.2,
        },
    )
    keeper = BatchKeeper()
    config.build(SourceContext("bench")).run(keeper, threading.Event())
    return keeper.batches
