"""Writes batches into an embedded ClickHouse, to be killed while it does.

python embedded_writer.py FOLDER BATCHES: prints "open", then "durable" and after it what is there:
rows, and how many different ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import clickhouse_connect

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig
from cdp_ray_sinks.testing import numbered_events

MESSAGES = 400


def main(folder: Path, batches: int) -> None:
    """What a lane does with all batches at each start: write those that the ledger lacks."""
    config = ClickHouseConfig(url=f"chdb://{folder}/data", create_tables=True, rows_per_insert=1000)
    sink = config.build(SinkContext("rows", SystemClock(), folder / "state"))
    sink.open()
    print("open", flush=True)
    for number in range(batches):
        batch = numbered_events(number, messages=MESSAGES)
        h = batch.header
        if not sink.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum):
            sink.write(batch)
        if number % 7 == 0:
            sink.flush()
    sink.flush()
    print("durable", flush=True)
    sink.close()
    client = clickhouse_connect.get_client(interface="chdb", path=f"{folder}/data")
    number = "simpleJSONExtractUInt(properties, 'n')"
    sql = f"SELECT count(), uniqExact({number}) FROM cdp.events_v1"
    print(*client.query(sql).result_rows[0])
    client.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
