"""Chains whose files may not grow, or whose folders take no file, under load, and then may."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdp_ray_sinks.chaos.processes import file_size_limited
from cdp_ray_sinks.chaos.small_disk import read_only
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import RECEIVED_AT_MS, numbered_events, numbers_in_tables
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

HOUR_MS = 3_600_000


def errors_of(pipeline: Pipeline) -> dict[str, Any]:
    """What each chain is being retried for."""
    reports = pipeline.status()["reports"].items()
    return {
        name.split("/")[2]: report["last_error"] for name, report in reports if "/chain/" in name
    }


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.1)


def test_what_a_disk_refuses_lands_once_when_it_takes_files_again(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Told and tried again, not acknowledged meanwhile; the end of a quota, then read-only."""
    kept = {"archive": tmp_path / "archive", "tables": tmp_path / "tables"}
    config = make_config(
        sinks={
            "archive": {"type": "disk_binary", "path": kept["archive"]},
            "tables": {"type": "parquet", "path": kept["tables"]},
        },
        delivery={"max_chain_actors": 2},
    )
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")

        def send(first: int, hour: int) -> list[Any]:
            at_ms = RECEIVED_AT_MS + hour * HOUR_MS
            return [
                producer.submit(numbered_events(n, 1, 2000, 1, at_ms))
                for n in range(first, first + 20)
            ]

        for ticket in send(0, 0):
            ticket.result(60)
        chains = [a["pid"] for a in pipeline.status()["actors"] if a["kind"] == "chain"]
        with file_size_limited(chains, 0):
            limited = send(20, 0)
            wait_for(lambda: all("File too large" in str(e) for e in errors_of(pipeline).values()))
            assert not any(ticket.done() for ticket in limited)
        for ticket in limited:
            assert ticket.result(60) == {"archive": "durable", "tables": "durable"}
        with read_only(kept["archive"]) as is_done, read_only(kept["tables"]) as are_done:
            refused = send(40, 1)  # of an hour that has no file yet
            if is_done and are_done:
                wait_for(lambda: all(errors_of(pipeline).values()))
                assert not any(ticket.done() for ticket in refused)
        for ticket in refused:
            assert ticket.result(60) == {"archive": "durable", "tables": "durable"}
    assert verify(kept["archive"]).events == 60
    assert verify_warehouse(kept["tables"]).ok
    assert sorted(numbers_in_tables(kept["tables"])) == list(range(60))
