"""The SDK that runs in browsers, under Node, into every kind of destination.

CDP_NODE_MODULES names the folder into which npm has put `@tell-rs/browser`; without it npm
is asked for it. Skipped where there is no Node.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.enums import EventType, LogLevel
from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline

KEY = "feed1e11" * 4
SCRIPT = Path(__file__).parents[1] / "clients" / "browser.cjs"
PACKAGE = "@tell-rs/browser@0.3.2"


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of node_modules that has the SDK."""
    if shutil.which("node") is None:
        pytest.skip("no Node on this machine")
    if "CDP_NODE_MODULES" in os.environ:
        return Path(os.environ["CDP_NODE_MODULES"])
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm can't install {PACKAGE}: {error}")
    return folder / "node_modules"


def drive_browser(modules: Path, port: int) -> list[dict[str, Any]]:
    """Run the script; the requests that the SDK made, each with its answer."""
    done = subprocess.run(
        ["node", str(SCRIPT), f"http://127.0.0.1:{port}", KEY], check=False, capture_output=True,
        text=True, timeout=180, env={**os.environ, "NODE_PATH": str(modules)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    made: list[dict[str, Any]] = found["made"]
    return made


def columns_of(line: dict[str, Any], is_log: bool) -> dict[str, Any]:
    """What a line that was sent is to be found as, its payload parsed."""
    line = dict(line)
    row = {"timestamp": line.pop("timestamp"), "session_id": line.pop("session_id")}
    row["service"] = line.pop("service")
    if is_log:
        row["level"] = int(LogLevel[line.pop("level").upper()])
        row["source"] = line.pop("source")
        line |= line.pop("data", {})
    else:
        row["event_type"] = int(EventType[line.pop("type").upper()])
        row["device_id"] = line.pop("device_id")
        row["event_name"] = line.pop("event", None)
    return {**row, "payload": line}


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def query(url: str, sql: str) -> list[dict[str, Any]]:
    """Rows of the embedded ClickHouse, asked in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", "query", url, sql, "--json", "--limit", "1000"],
        check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_field_that_a_browser_sends_is_kept(
    modules: Path, make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """In the archive, in Parquet and in ClickHouse, whatever the SDK put into its requests."""
    (tmp_path / "keys.conf").write_text(f"{KEY}:7\n")
    url = f"chdb://{tmp_path}/clickhouse"
    config = make_config(
        sources={
            "web": {"type": "http", "listen": "127.0.0.1:0", "api_keys": tmp_path / "keys.conf"}
        },
        sinks={
            "archive": {"type": "disk_binary", "path": tmp_path / "archive"},
            "tables": {"type": "parquet", "path": tmp_path / "tables"},
            "rows": {"type": "clickhouse", "url": url, "create_tables": True},
        },
    )
    with Pipeline(config) as pipeline:
        until, port = time.monotonic() + 30, 0
        while not port:
            assert time.monotonic() < until
            reports = pipeline.status()["reports"]
            port = next(r for name, r in reports.items() if name.endswith("/web"))["counters"][
                "port"
            ]
        made = drive_browser(modules, port)
    assert {request["status"] for request in made} == {202}
    sent: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for request in made:
        lines = [json.loads(line) for line in request["body"].split("\n")]
        assert request["answer"]["accepted"] == len(lines)
        is_log = request["path"] == "/v1/logs"
        sent[is_log] += [columns_of(line, is_log) for line in lines]
    assert (len(sent[False]), len(sent[True])) == (47, 3)
    check_archive(tmp_path / "archive", sent)
    check_tables(tmp_path / "tables", sent)
    check_clickhouse(url, sent)


def check_archive(base: Path, sent: dict[bool, list[dict[str, Any]]]) -> None:
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for _, batch in read_batches([base], print):
        assert batch.header.workspace_id == 7
        for event in events_of(batch, print):
            assert event["source_ip"] == "127.0.0.1"
            found["level" in event].append(event)
    check_rows(found, sent)


def check_tables(base: Path, sent: dict[bool, list[dict[str, Any]]]) -> None:
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for path in base.rglob("*.parquet"):
        found["logs" in path.name] += pq.read_table(path, partitioning=None).to_pylist()
    check_rows(found, sent)


def check_rows(
    found: dict[bool, list[dict[str, Any]]], sent: dict[bool, list[dict[str, Any]]]
) -> None:
    for is_log, rows in found.items():
        wanted = in_order(sent[is_log])
        keys = [key for key in wanted[0] if key in rows[0]]
        assert "payload" in keys
        plain = in_order([{key: _plain(key, row[key]) for key in keys} for row in rows])
        assert plain == in_order([{key: row[key] for key in keys} for row in wanted])


def _plain(key: str, value: Any) -> Any:
    if key in ("device_id", "session_id"):
        return value.hex() if isinstance(value, bytes) else str(value).replace("-", "")
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if key == "event_type" and isinstance(value, str):
        return int(EventType[value.upper()])
    if key == "level" and isinstance(value, str):
        return int(LogLevel[value.upper()])
    if key == "payload" and isinstance(value, str | bytes):
        return json.loads(value)
    return value


def check_clickhouse(url: str, sent: dict[bool, list[dict[str, Any]]]) -> None:
    events = query(
        url,
        "SELECT event_name, toString(properties) AS p, toUnixTimestamp64Milli(timestamp) AS t "
        "FROM events_v1",
    )
    tracked = [row for row in sent[False] if row["event_type"] == EventType.TRACK]
    assert in_order([
        {"event_name": row["event_name"], "t": int(row["t"]), "p": json.loads(row["p"])}
        for row in events
    ]) == in_order([
        {"event_name": row["event_name"], "t": row["timestamp"], "p": row["payload"]}
        for row in tracked
    ])  # fmt: skip
    [user] = query(url, "SELECT email, name FROM users_v1")
    assert user == {"email": "a@b.co", "name": "Zoë"}
    traits = query(url, "SELECT trait_key, trait_value FROM user_traits")
    assert {row["trait_key"]: row["trait_value"] for row in traits} == {"plan": "pro"}
    [context] = query(
        url,
        "SELECT device_type, toString(locale) AS locale, toString(properties) AS p FROM context_v1",
    )
    assert (context["device_type"], context["locale"]) == ("desktop", "en-US")
    [sent_context] = [row for row in sent[False] if row["event_type"] == EventType.CONTEXT]
    assert json.loads(context["p"]) == sent_context["payload"]
    logs = query(url, "SELECT toString(level) AS level, source, service, message FROM logs_v1")
    assert in_order([{**row, "message": json.loads(row["message"])} for row in logs]) == in_order([
        {"level": LogLevel(row["level"]).name, "source": row["source"],
         "service": row["service"], "message": row["payload"]}
        for row in sent[True]
    ])  # fmt: skip
