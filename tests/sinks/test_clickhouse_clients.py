"""What clients were seen to send lands in the right tables, value for value, both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.sinks.base import SinkContext

FRAMES = ["rust_encoding_0.5.0_frames.bin", "collector_dialect_frames.bin"]
REQUESTS = [
    "node_sdk_0.3.2_events.http",
    "node_sdk_0.3.2_events_gzip.http",
    "node_sdk_0.3.2_logs.http",
    "browser_sdk_0.3.2_events.http",
    "browser_sdk_0.3.2_logs.http",
]
TABLES = ["events_v1", "users_v1", "user_devices", "user_traits", "context_v1", "logs_v1"]
LOCAL_IP = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"


def frame_batches(oracle: Any, path: Path) -> list[Batch]:
    """Each frame as a batch that came from this machine."""
    batches = []
    for sequence, frame in enumerate(oracle.frames(path.read_bytes())):
        batch = oracle.batch([frame], oracle.schema_of(frame))
        records = batch.records.copy()
        records[8:24] = list(LOCAL_IP)
        header = batch.header._replace(sequence=sequence)
        batches.append(replace(batch, header=header, records=records))
    return batches


@pytest.mark.parametrize("name", [*FRAMES, *REQUESTS])
def test_every_value_of_every_table(
    name: str, captures: Path, lab: Any, oracle: Any, captured_rows: Any
) -> None:
    """Both layouts of an event, the flat payloads of the JavaScript clients, nothing besides."""
    path = captures / name
    if name in FRAMES:
        batches, expected = frame_batches(oracle, path), captured_rows.frames[name]
    else:
        batches = [captured_rows.request_batch(lab, path)]
        expected = captured_rows.requests[name]
    sink = lab.sink()
    for batch in batches:
        sink.write(batch)
    sink.flush()
    found = {table: lab.query(captured_rows.select("{db}", table)) for table in TABLES}
    captured_rows.compare(found, expected)
    counters = sink.counters()
    no_rows = {key: count for key, count in counters.items() if key.startswith("left_out_")}
    if name.startswith("node") and "events" in name:
        assert no_rows == {"left_out_group": 1, "left_out_alias": 1}
    else:
        assert no_rows == ({"left_out_metric_batches": 1} if name == FRAMES[0] else {})


def test_all_of_them_in_the_embedded_engine(
    captures: Path, lab: Any, oracle: Any, captured_rows: Any, tmp_path: Path
) -> None:
    """In one generation: of people who are there twice the newest values stand."""
    config = lab.config(url=f"chdb://{tmp_path}/data", database="cdp")
    sink = config.build(SinkContext("rows", SystemClock(), tmp_path / "state"))
    sink.open()
    batches = [batch for name in FRAMES for batch in frame_batches(oracle, captures / name)]
    batches += [captured_rows.request_batch(lab, captures / name) for name in REQUESTS]
    for sequence, batch in enumerate(batches):
        sink.write(replace(batch, header=batch.header._replace(sequence=sequence)))
    sink.flush()
    found = {
        table: sink._client.query(captured_rows.select("cdp", table) + " FINAL" * (table[0] == "u"))
        for table in TABLES
    }
    sink.close()
    expected: dict[str, list[Any]] = {table: [] for table in TABLES}
    for rows in [*captured_rows.frames.values(), *captured_rows.requests.values()]:
        for table in rows:
            expected[table] += rows[table]
    for table, keys in (("users_v1", 1), ("user_devices", 2), ("user_traits", 2)):
        newest = {row[:keys]: row for row in sorted(expected[table], key=lambda row: row[-1])}
        expected[table] = list(newest.values())
    assert len(expected["users_v1"]) == 3
    captured_rows.compare(found, expected)


@pytest.mark.parametrize("all_events", [False, True])
def test_events_of_no_table(captures: Path, lab: Any, captured_rows: Any, all_events: bool) -> None:
    """GROUP and ALIAS go to events_v1 only if that is asked for."""
    sink = lab.sink(all_events=all_events)
    sink.write(captured_rows.request_batch(lab, captures / "node_sdk_0.3.2_events.http"))
    sink.flush()
    assert lab.query("SELECT count() FROM {db}.events_v1") == [(4 if all_events else 2,)]
