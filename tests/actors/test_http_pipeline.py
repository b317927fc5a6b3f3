"""Requests over HTTP through real actors into an archive."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline

KEY = "ab" * 16
CLIENTS, REQUESTS, LINES = 4, 20, 25


def refuse(problem: object) -> None:
    raise AssertionError(problem)


def port_of(pipeline: Pipeline) -> int:
    """Where the source listens, once it does."""
    until = time.monotonic() + 30
    while True:
        reports = pipeline.status()["reports"]
        (counters,) = (r["counters"] for name, r in reports.items() if name.endswith("/web"))
        if counters.get("port"):
            return int(counters["port"])
        assert time.monotonic() < until, "nobody listens"
        time.sleep(0.1)


def post(port: int, client: int, statuses: list[int]) -> None:
    """Post lines that no other client posts over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kind = "logs" if client % 2 else "events"
    for request in range(REQUESTS):
        numbers = [1000 * client + LINES * request + place for place in range(LINES)]
        lines = [
            {"level": "error", "message": "m", "n": n} if client % 2 else {"event": "Seen", "n": n}
            for n in numbers
        ]
        body = "\n".join(json.dumps(line) for line in lines)
        connection.request("POST", f"/v1/{kind}?token={KEY}", body, {"Content-Type": "text/plain"})
        response = connection.getresponse()
        assert json.loads(response.read())["accepted"] == LINES
        statuses.append(response.status)


def test_lines_are_durable_when_they_are_answered(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """What clients posted is in the archive once each, and was when the last answer came."""
    (tmp_path / "keys.conf").write_text(f"{KEY}:3\n")
    config = make_config(
        sources={
            "web": {"type": "http", "listen": "127.0.0.1:0", "api_keys": tmp_path / "keys.conf"}
        },
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "taken"}},
    )
    statuses: list[int] = []

    def found() -> list[tuple[int, dict[str, Any]]]:
        return [
            (batch.header.workspace_id, event)
            for _, batch in read_batches([tmp_path / "taken"], refuse)
            for event in events_of(batch, refuse)
        ]

    with Pipeline(config) as pipeline:
        port = port_of(pipeline)
        threads = [
            threading.Thread(target=post, args=(port, client, statuses))
            for client in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert statuses == [202] * (CLIENTS * REQUESTS)
        durable = found()
    assert len(durable) == len(found()) == CLIENTS * REQUESTS * LINES
    numbers = sorted(event["payload"]["n"] for _, event in durable)
    assert numbers == sorted(
        1000 * client + number for client in range(CLIENTS) for number in range(REQUESTS * LINES)
    )
    assert verify(tmp_path / "taken").ok
    held = b"".join(path.read_bytes() for path in (tmp_path / "taken").rglob("*") if path.is_file())
    assert KEY.encode() not in held
    assert bytes.fromhex(KEY) not in held
