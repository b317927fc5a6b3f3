"""Invented events: the same every time, each number once, of the sizes that are promised."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest
import xxhash

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.sources.synthetic import SyntheticConfig, synthetic_frames

MIXED = {"identify_share": 0.1, "context_share": 0.05, "log_share": 0.2, "workspaces": 3}
NOW_MS = 1_767_225_600_000


class StillClock(SystemClock):
    """Real durations, one wall time."""

    def now_ms(self) -> int:
        return NOW_MS


def produce(taker: Any, **options: Any) -> list[Batch]:
    """All batches of a source with these options."""
    config = load_source_config("synthetic", options)
    source = config.build(SourceContext("gen", StillClock()))
    taker.batches.clear()
    source.run(taker, threading.Event())
    assert source.progress() == (options["events"], options["events"])
    counters = source.counters()
    assert counters["events"] == taker.events == options["events"]
    assert counters["bytes"] == sum(len(batch.records) for batch in taker.batches)
    return list(taker.batches)


def rows_of(batches: list[Batch]) -> list[dict[str, Any]]:
    rows = []
    for batch in batches:
        is_log = batch.header.schema_type == SchemaType.LOG
        decoded = decode_logs(batch) if is_log else decode_events(batch, "v2")
        assert len(decoded.damaged) == 0
        rows += decoded.table.to_pylist()
    return rows


@pytest.mark.parametrize("shape", ["tell", "small", "single"])
@pytest.mark.parametrize("events", [1, 499, 12_345])
def test_each_number_is_there_once(taker: Any, shape: str, events: int) -> None:
    """Over all workspaces and kinds together, from the first number on."""
    numbers = RunningNumbers(events)
    for batch in produce(taker, events=events, shape=shape, batch_events=5000, **MIXED):
        is_log = batch.header.schema_type == SchemaType.LOG
        decoded = decode_logs(batch) if is_log else decode_events(batch)
        numbers.add(decoded.table.column("payload"))
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (0, 0, 0)


def test_the_same_seed_gives_the_same_bytes(taker: Any) -> None:
    """At the same time of day, every byte is the same; another seed is another stream."""
    first, again, other = (
        b"".join(b.records.tobytes() for b in produce(taker, events=5000, seed=seed, **MIXED))
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_an_entry_does_not_depend_on_the_batch_it_is_in(taker: Any) -> None:
    """Cut into other batches, or begun later, number n says the same."""

    def payloads(**options: Any) -> dict[int, Any]:
        found = [json.loads(row["payload"]) for row in rows_of(produce(taker, **options))]
        return {payload["n"]: payload for payload in found}

    whole = payloads(events=2000, identify_share=0.2)
    assert payloads(events=2000, identify_share=0.2, batch_events=77) == whole
    later = payloads(events=500, start_number=1500, identify_share=0.2)
    assert later == {n: whole[n] for n in range(1500, 2000)}


def test_kinds_come_in_their_shares_with_what_belongs_to_them(taker: Any) -> None:
    """IDENTIFY has email, name and traits, CONTEXT the device, logs level and message."""
    batches = produce(taker, events=20_000, batch_events=2000, **MIXED)
    events = rows_of([b for b in batches if b.header.schema_type == SchemaType.EVENT])
    logs = rows_of([b for b in batches if b.header.schema_type == SchemaType.LOG])
    assert len(logs) == 4000
    by_type: dict[int, list[dict[str, Any]]] = {}
    for row in events:
        by_type.setdefault(row["event_type"], []).append(row)
    assert len(by_type[2]) == pytest.approx(1600, rel=0.15)
    assert len(by_type[6]) == pytest.approx(800, rel=0.2)
    assert all(row["event_name"] is None for row in by_type[2] + by_type[6])
    assert {"email", "name", "traits", "user_id"} <= json.loads(by_type[2][0]["payload"]).keys()
    assert "operating_system" in json.loads(by_type[6][0]["payload"])
    assert all(json.loads(row["payload"])["message"] for row in logs)
    assert {row["level"] for row in logs} == {2, 3, 4, 5, 6, 7, 8}
    assert {row["source"] for row in logs} == {"web-1", "web-2", "worker-1", "cron"}
    assert None not in {row["session_id"] for row in logs + events}
    assert {b.header.workspace_id for b in batches} == {1, 2, 3}


def test_devices_and_names_are_as_many_as_asked(taker: Any) -> None:
    """1000 devices with a session each, 25 names, version 4 UUIDs."""
    rows = rows_of(produce(taker, events=30_000))
    devices = {row["device_id"] for row in rows}
    assert len(devices) == len({row["session_id"] for row in rows}) == 1000
    assert len({row["event_name"] for row in rows}) == 25
    assert all(device[6] >> 4 == 4 and device[8] >> 6 == 2 for device in devices)
    few = rows_of(produce(taker, events=500, device_count=3, name_count=1))
    assert len({row["device_id"] for row in few}) == 3
    assert {row["event_name"] for row in few} == {"Page Viewed"}
    many = rows_of(produce(taker, events=30_000, name_count=300))
    assert len({row["event_name"] for row in many}) > 250


@pytest.mark.parametrize(
    ("shape", "per_message", "low", "high"),
    [("tell", 500, 203, 213), ("small", 10, 210, 222), ("single", 1, 295, 315)],
)
def test_messages_have_the_promised_shape(
    taker: Any, shape: str, per_message: int, low: int, high: int
) -> None:
    """500, 10 or 1 events a message; frame bytes an event near the SDK's own."""
    batches = produce(taker, events=100_000, shape=shape)
    header = batches[0].header
    assert header.message_count == 50_000 // per_message
    messages = sum(batch.header.message_count for batch in batches)
    frames = sum(batch.header.record_bytes for batch in batches) - 24 * messages
    assert low < frames / 100_000 < high


def test_headers_say_what_the_envelope_kernel_finds(taker: Any) -> None:
    """Counts, types, times and checksum agree with the messages, keys are zero."""
    for batch in produce(taker, events=9000, batch_events=1700, shape="small", **MIXED):
        header = batch.header
        run = MessageRun(header.message_count)
        run.buffer, run.count = batch.records, header.message_count
        run.starts[:] = batch.offsets[:-1] + 28
        run.lengths[:] = np.diff(batch.offsets) - 28
        run.check(workspace_id=header.workspace_id)
        assert (run.ok_count, run.undecodable_count) == (header.message_count, 0)
        assert run.event_count == header.event_count
        assert np.bitwise_or.reduce(run.facts[:, 7]) == header.event_types
        assert run.facts[:, 8].min() == header.time_min_ms
        assert run.facts[:, 9].max() == header.time_max_ms == header.received_at_ms == NOW_MS
        assert header.checksum == xxhash.xxh3_64_intdigest(batch.records)
        run.check()
        assert run.unknown_key_count == header.message_count


def test_many_workspaces_share_packs(taker: Any) -> None:
    """Each workspace has its part, and their small batches travel together."""
    batches = produce(taker, events=10_000, workspaces=1000)
    assert {batch.header.workspace_id for batch in batches} == set(range(1, 1001))
    assert len(batches) == 1000
    assert len(taker.packs) < 10


def test_the_frames_are_what_a_client_sends(
    api_keys: Any, run_source: Any, taker: Any, wire: Any
) -> None:
    """Sent to a TCP source, every number lands in the key's workspace."""
    config = load_source_config("tcp", {"listen": "127.0.0.1:0", "api_keys": str(api_keys)})
    running = run_source(config.build(SourceContext("tcp_main")))
    with running.connect() as client:
        options = SyntheticConfig(events=60_000, batch_events=7000, log_share=0.1)
        for frames in synthetic_frames(options, wire.two, NOW_MS):
            client.sendall(frames)
    wire.wait_until(lambda: running.counter("events") == 60_000)
    running.finish()
    numbers = RunningNumbers(60_000)
    for batch in taker.batches:
        assert batch.header.workspace_id == 2
        assert wire.two not in batch.records.tobytes()
        is_log = batch.header.schema_type == SchemaType.LOG
        decoded = decode_logs(batch) if is_log else decode_events(batch)
        numbers.add(decoded.table.column("payload"))
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (0, 0, 0)
    with pytest.raises(ValueError, match="endless"):
        synthetic_frames(SyntheticConfig(), wire.two, NOW_MS)
    with pytest.raises(ValueError, match="16 bytes"):
        synthetic_frames(options, b"short", NOW_MS)


def test_a_rate_is_kept(taker: Any) -> None:
    """2000 events at 10,000 a second take about a fifth of a second."""
    started = time.monotonic()
    produce(taker, events=2000, rate_events_per_s=10_000.0, shape="small")
    assert time.monotonic() - started > 0.15
    assert len(taker.batches) >= 8


def test_an_endless_source_stops_when_told(run_source: Any, taker: Any, wire: Any) -> None:
    """It goes on until stop, and knows no end before."""
    config = load_source_config("synthetic", {"batch_events": 1000})
    source = config.build(SourceContext("gen"))
    running = run_source(source)
    wire.wait_until(lambda: taker.events >= 10_000)
    running.finish()
    assert source.progress() == (taker.events, None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": "odd"}, "shape"),
        ({"events": -1}, "events"),
        ({"workspaces": 0}, "workspaces"),
        ({"identify_share": 0.6, "context_share": 0.6}, "must not be above 1"),
        ({"evnets": 5}, "evnets"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    """The key and what is allowed are in the error."""
    with pytest.raises(ConfigError, match=text):
        load_source_config("synthetic", options)
