"""The null sink's rows: the control path by reference, and fresh bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from cdp_ray_sinks.actors.probes import TwoCalls, put_s
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.rows import Lap, Row, percentile, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.pipeline import Pipeline

BATCH_EVENTS = 50_000
REFERENCES = 32
GIB = 1024 * 1024 * 1024


def null_config(sinks: int) -> PipelineConfig:
    """A pipeline of null sinks whose budgets do not bind: by reference nothing is held twice."""
    unbound = {"type": "null", "max_in_flight_bytes": 64 * GIB}
    return PipelineConfig(
        pipeline={"name": f"bench-null-{sinks}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={f"null_{n}": unbound for n in range(sinks)},
        delivery={"window_bytes": GIB // 4, "group_bytes_max": 8 * GIB},
    )


def null_rows(settings: Settings) -> Iterator[Row]:
    """by_reference with 1, 2 and 4 sinks, fresh, and the small acknowledgement."""
    batches = synthetic_batches(REFERENCES * BATCH_EVENTS, settings.shape, BATCH_EVENTS)
    for sinks in (1, 2, 4):
        settings.say(f"null by reference, {sinks} sinks")
        with Pipeline(null_config(sinks), settings.say) as pipeline:
            yield _by_reference(pipeline, batches, sinks, settings)
            if sinks == 1:
                settings.say("null, fresh batches")
                yield _fresh(pipeline, batches, settings)
                settings.say("null, small acknowledgement")
                yield _small_ack(pipeline, batches[0], settings)


def _by_reference(pipeline: Pipeline, batches: list[Batch], sinks: int, settings: Settings) -> Row:
    """Batches put once, sent again and again; each sink maps and counts each of them."""
    producer = pipeline.producer("by-reference")
    kept = [(b.header, producer.put(b.to_pack())) for b in batches]
    count = max(REFERENCES, settings.events * 20 // BATCH_EVENTS)

    def lap() -> float:
        began = time.perf_counter()
        for number in range(count):
            header, payload = kept[number % REFERENCES]
            producer.submit_reference([header], payload)
        producer.flush(300)
        return time.perf_counter() - began

    lap()
    before = _events_seen(pipeline)
    seconds = [lap() for _ in range(settings.repeat)]
    read_back = (_events_seen(pipeline) - before) // (sinks * settings.repeat)
    producer.close(60)
    events = sum(batches[n % REFERENCES].header.event_count for n in range(count))
    variant = "by_reference" if sinks == 1 else f"by_reference_{sinks}_sinks"
    rates = sorted(events / s for s in seconds)
    return Row(
        "null", variant, events, read_back, median(rates), None, "the calls themselves",
        ratio_min=rates[0] / median(rates), ratio_max=rates[-1] / median(rates),
    )  # fmt: skip


def _events_seen(pipeline: Pipeline) -> int:
    """Events that the null sinks themselves counted."""
    return sum(found.events_written for found in pipeline.lane_metrics().values())


def _fresh(pipeline: Pipeline, batches: list[Batch], settings: Settings) -> Row:
    """New bytes into the store and through to the sink, beside `ray.put` alone."""
    producer = pipeline.producer("fresh")
    record_bytes = sum(b.header.record_bytes for b in batches)
    rounds = max(1, settings.events // sum(b.header.event_count for b in batches))
    packs = [b.to_pack() for b in batches] * rounds
    # Both sides walk through as much of the store's memory as the window allows in flight.
    held_count = pipeline.config.delivery.window_bytes // batches[0].header.record_bytes

    def path() -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            for batch in batches:
                producer.submit(batch)
        producer.flush(300)
        return time.perf_counter() - began

    path()
    put_s(packs, held_count)
    before = _events_seen(pipeline)
    laps = [Lap(path(), put_s(packs, held_count)) for _ in range(settings.repeat)]
    read_back = (_events_seen(pipeline) - before) // settings.repeat
    producer.close(60)
    return rate_row(
        "null",
        "fresh",
        laps,
        events=rounds * sum(b.header.event_count for b in batches),
        record_bytes=rounds * record_bytes,
        read_back=read_back,
        limit="ray.put",
    )


def _small_ack(pipeline: Pipeline, batch: Batch, settings: Settings) -> Row:
    """One small batch, submitted and waited for, beside two plain actor calls."""
    producer: Producer = pipeline.producer("small")
    end = int(batch.offsets[1])
    header = batch.header._replace(message_count=1, record_bytes=end, event_count=1)
    small = Batch(header, batch.records[:end], batch.offsets[:2])
    calls = TwoCalls()
    ours, plain = [], []
    for number in range(20 + settings.calls):
        began = time.perf_counter()
        producer.submit(small).result(60)
        took = time.perf_counter() - began
        took_plain = calls.call_s()
        if number >= 20:
            ours.append(took * 1e6)
            plain.append(took_plain * 1e6)
    calls.close()
    producer.close(60)
    ratio = median(ours) / median(plain)
    return Row(
        "null", "small_ack", settings.calls, settings.calls, limit="two plain actor calls",
        ratio=ratio, p50_us=median(ours), p99_us=percentile(ours, 0.99),
        limit_p50_us=median(plain),
    )  # fmt: skip
