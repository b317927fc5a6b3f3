"""A ClickHouse server that stands still, or hardly moves, while events come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.flights import BatchTicket
from cdp_ray_sinks.pipeline import Pipeline


def settle(
    tickets: Sequence[BatchTicket], server: ClickHouseServer, runs_s: float
) -> list[Mapping[str, str]]:
    """Their outcomes, while the server stands still but for `runs_s` now and then."""
    until = time.monotonic() + 60
    server.pause()
    try:
        while not all(ticket.done() for ticket in tickets):
            assert time.monotonic() < until, "somebody waits for the server"
            if runs_s:
                server.pause(False)
                time.sleep(runs_s)
                server.pause()
            time.sleep(0.1)
    finally:
        server.pause(False)
    return [ticket.result() for ticket in tickets]


def test_a_frozen_and_a_slow_server_cost_nobody_anything(
    make_config: Callable[..., PipelineConfig], lab_of: Callable[..., Any], tmp_path: Path
) -> None:
    """The archive has all of it meanwhile; the rows are spooled, and land once when it moves."""
    with ClickHouseServer(tmp_path / "server") as server:
        lab = lab_of(server)
        rows = {"type": "clickhouse", "url": server.url, "database": lab.database,
                "create_tables": True, "insert_timeout_s": 5, "on_full": "spool",
                "spool_after_ms": 300}  # fmt: skip
        config = make_config(
            sinks={"rows": rows, "archive": {"type": "disk_binary", "path": tmp_path / "archive"}}
        )
        with Pipeline(config) as pipeline:
            producer = pipeline.producer("mine")

            def send(first: int, count: int) -> list[BatchTicket]:
                numbers = range(first, first + count)
                return [producer.submit(lab.numbered(n * 100, 100)) for n in numbers]

            send(0, 1)[0].result(60)
            server.pause()
            frozen = settle(send(1, 29), server, 0)
            assert {each["archive"] for each in frozen} == {"durable"}
            assert {each["rows"] for each in frozen} == {"spooled"}
            server.pause()
            slow = settle(send(30, 30), server, 0.05)
            assert {each["archive"] for each in slow} == {"durable"}
        assert pipeline.summary()["sinks"]["rows"]["left_in_spool"] == 0
        assert lab.landed() == (6000, 6000)
