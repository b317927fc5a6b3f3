"""The clickhouse sink's rows, on a server of its own that shares the machine.

Rates are compared with the engine alone: INSERT SELECT out of a Memory table, in the same
number of inserts, in turn with ours. Rows of several tables have no such limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.clickhouse_material import (
    BATCH_EVENTS,
    EVENTS,
    INSERT_ROWS,
    Database,
    blocks_of,
    database_in,
    mixed_batches,
)
from cdp_ray_sinks.bench.lanes import submitted_s
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.rows import Lap, Row, percentile, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, Compression

SINK: Final = "clickhouse"
LIMIT: Final = "INSERT SELECT from Memory"
GIB: Final = 1024 * 1024 * 1024
CODECS: Final[tuple[Compression, ...]] = ("none", "lz4")
LONE_EVENTS_MAX: Final = 100
LONE_EVENT_EVERY_S: Final = 0.1
SAMPLE_S: Final = 0.05


def clickhouse_rows(settings: Settings) -> Iterator[Row]:
    """insert_*, events_* and six_tables, times of acknowledgements, what is pinned, and peers."""
    with database_in(settings.directory / "clickhouse") as database:
        batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
        database.fill_memory(batches)
        for compression in CODECS:
            settings.say(f"clickhouse, the insert alone, {compression}")
            yield _insert_row(settings, database, batches, compression)
        for compression in CODECS:
            settings.say(f"clickhouse, events through the actors, {compression}")
            yield from _pipeline_rows(settings, database, batches, compression)
        if settings.has_peers:
            from cdp_ray_sinks.bench.clickhouse_peers import peer_rows

            yield from peer_rows(settings, database, batches)


def pipeline_config(database: Database, settings: Settings, compression: str) -> PipelineConfig:
    """A pipeline as users have it, its state beside the server's data."""
    return PipelineConfig(
        pipeline={"name": f"bench-clickhouse-{compression}",
                  "state_dir": settings.directory / f"state-{compression}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"rows": {"type": SINK, "url": database.url, "database": "bench",
                        "compression": compression, "on_full": "block"}},
    )  # fmt: skip


def _insert_row(
    settings: Settings, database: Database, batches: Sequence[Batch], compression: Compression
) -> Row:
    blocks, columns = blocks_of(batches, compression), SCHEMAS[EVENTS].names
    laps, read_back = [], settings.events
    for lap in range(settings.repeat + 1):
        database.empty()
        began = time.perf_counter()
        for place, block in enumerate(blocks):
            database.client.insert(EVENTS, columns, block, f"{compression}/{lap}/{place}")
        path_s = time.perf_counter() - began
        read_back = min(read_back, database.numbers_found(settings.events))
        limit_s = database.insert_select_s(len(blocks))
        if lap:  # the first warms both sides
            laps.append(Lap(path_s, limit_s))
    return _rate_row(f"insert_{compression}", laps, settings, batches, read_back)


def _pipeline_rows(
    settings: Settings, database: Database, batches: Sequence[Batch], compression: Compression
) -> Iterator[Row]:
    inserts = -(-settings.events // INSERT_ROWS)
    laps, read_back = [], settings.events
    config = pipeline_config(database, settings, compression)
    with Pipeline(config, settings.say) as pipeline:
        producer = pipeline.producer("bench")
        for lap in range(settings.repeat + 1):
            database.empty()
            path_s = submitted_s(producer, batches)
            read_back = min(read_back, database.numbers_found(settings.events))
            limit_s = database.insert_select_s(inserts)
            if lap:
                laps.append(Lap(path_s, limit_s))
        yield _rate_row(f"events_{compression}", laps, settings, batches, read_back)
        if compression == "none":
            settings.say("clickhouse, six tables")
            yield _six_tables_row(settings, database, producer)
            settings.say("clickhouse, acknowledgements at full rate, and what they pin")
            yield from _full_rate_rows(settings, database, pipeline, producer, batches)
            settings.say("clickhouse, acknowledgements of lone events")
            yield _lone_event_row(settings, database, producer, batches[0])


def _rate_row(
    variant: str, laps: Sequence[Lap], settings: Settings, batches: Sequence[Batch], read_back: int
) -> Row:
    return rate_row(
        SINK, variant, laps, events=settings.events,
        record_bytes=sum(len(batch.records) for batch in batches), read_back=read_back, limit=LIMIT,
    )  # fmt: skip


def _six_tables_row(settings: Settings, database: Database, producer: Producer) -> Row:
    """Rows a second into all tables together; `events` and `read_back` are rows here."""
    batches = mixed_batches(settings.events, settings.shape)
    seconds, rows = [], 0
    for lap in range(settings.repeat + 1):
        database.empty()
        taken_s = submitted_s(producer, batches)
        rows = sum(database.row_counts().values())
        if lap:
            seconds.append(taken_s)
    rates = sorted(rows / taken_s for taken_s in seconds)
    return Row(
        SINK, "six_tables", rows, rows, median(rates),
        ratio_min=rates[0] / median(rates), ratio_max=rates[-1] / median(rates),
    )  # fmt: skip


def _full_rate_rows(
    settings: Settings,
    database: Database,
    pipeline: Pipeline,
    producer: Producer,
    batches: Sequence[Batch],
) -> Iterator[Row]:
    """Each batch from submitting to durable, and the most that was pinned for the sink meanwhile.

    `ratio` of the second is what was between router and destination to the sink's budget.
    """
    database.empty()
    sampler = _Sampler(pipeline)
    waiting: list[tuple[float, Any]] = []
    times: list[float] = []
    done = threading.Event()

    def wait_in_turn() -> None:
        place = 0
        while not done.is_set() or place < len(waiting):
            if place == len(waiting):
                time.sleep(SAMPLE_S / 10)
                continue
            began, ticket = waiting[place]
            ticket.result(600)
            times.append((time.perf_counter() - began) * 1e6)
            place += 1

    waiter = threading.Thread(target=wait_in_turn)
    waiter.start()
    with sampler:
        for batch in batches:
            began = time.perf_counter()
            waiting.append((began, producer.submit(batch)))
        done.set()
        waiter.join()
    found = database.numbers_found(settings.events)
    yield Row(
        SINK, "ack_full_rate", settings.events, found, p50_us=median(times),
        p99_us=percentile(times, 0.99),
    )  # fmt: skip
    budget = pipeline.config.sinks["rows"].max_in_flight_bytes
    yield Row(
        SINK, "store_pinned", settings.events, found, limit="max_in_flight_bytes",
        ratio=sampler.pinned_bytes_max / budget,
        bytes_per_event=sampler.pinned_bytes_max / settings.events,
    )  # fmt: skip


class _Sampler:
    """Looks at what the router has under way to the sink, while a block runs."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pinned_bytes_max = 0
        self._pipeline = pipeline
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Sampler:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            reports = self._pipeline.status()["reports"]
            for name, report in reports.items():
                if name.endswith("/router"):
                    pinned_bytes = report["sinks"]["rows"]["in_flight_bytes"]
                    self.pinned_bytes_max = max(self.pinned_bytes_max, pinned_bytes)


def _lone_event_row(
    settings: Settings, database: Database, producer: Producer, batch: Batch
) -> Row:
    """One message every LONE_EVENT_EVERY_S; from submitting to durable."""
    end = int(batch.offsets[1])
    header = batch.header._replace(message_count=1, record_bytes=end, event_count=1)
    lone = Batch(header, batch.records[:end], batch.offsets[:2])
    count = min(LONE_EVENTS_MAX, settings.calls)
    database.empty()
    began: list[float] = []
    tickets: list[Any] = []
    times: list[float] = []

    def wait_in_turn() -> None:
        for place in range(count):
            while place >= len(tickets):
                time.sleep(0.001)
            tickets[place].result(60)
            times.append((time.perf_counter() - began[place]) * 1e6)

    waiter = threading.Thread(target=wait_in_turn)
    waiter.start()
    next_s = time.perf_counter()
    for _ in range(count):
        began.append(time.perf_counter())
        tickets.append(producer.submit(lone))
        next_s += LONE_EVENT_EVERY_S
        time.sleep(max(0.0, next_s - time.perf_counter()))
    waiter.join()
    messages = database.row_counts()[EVENTS]
    return Row(
        SINK, "ack_10_per_s", count, min(count, messages), p50_us=median(times),
        p99_us=percentile(times, 0.99),
    )  # fmt: skip
