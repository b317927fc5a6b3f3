"""The compiled kernels' rows: decode and encode beside a copy of the same bytes, one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.bench.limits import memcpy_s
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.rows import REFERENCE_LIMITS, SUSPECT_BELOW, Row
from cdp_ray_sinks.bench.settings import Settings

BATCH_EVENTS = 50_000
BATCHES = 6
TURNS = 42
PER_MESSAGE = {"tell": 500, "small": 10, "single": 1}


def kernel_rows(settings: Settings) -> Iterator[Row]:
    """decode and encode for each shape; `ratio` is times the copy, lower is better.

    Six batches take turns, so that their bytes come from memory and not from a cache, as
    they do in a stream; path and copy write to reused memory of their own.
    """
    for shape in sorted(PER_MESSAGE, key=lambda name: name != settings.shape):
        settings.say(f"kernels, {PER_MESSAGE[shape]} events per message")
        batches = synthetic_batches(BATCHES * BATCH_EVENTS, shape, BATCH_EVENTS)
        suffix = "" if shape == settings.shape else f"_{PER_MESSAGE[shape]}_per_message"
        for name, path in (("decode", _decoder(batches)), ("encode", _encoder(batches, shape))):
            yield _row(name + suffix, path, batches)


def _decoder(batches: list[Batch]) -> Callable[[int], int]:
    buffers = DecodeBuffers()
    return lambda number: int(decode_events(batches[number], buffers=buffers).table.num_rows)


def _encoder(batches: list[Batch], shape: str) -> Callable[[int], int]:
    tables = [decode_events(batch, buffers=DecodeBuffers()).table for batch in batches]
    room = np.empty(2 * max(len(batch.records) for batch in batches) + (1 << 20), np.uint8)

    def encode(number: int) -> int:
        table = tables[number]
        encode_events(
            table["event_type"], table["timestamp"], table["device_id"], table["session_id"],
            table["event_name"], table["service"], table["payload"],
            events_per_message=PER_MESSAGE[shape], out=room,
        )  # fmt: skip
        return int(table.num_rows)

    return encode


def _row(variant: str, path: Callable[[int], int], batches: list[Batch]) -> Row:
    path_s, copy_s, rows = [], [], 0
    target = np.empty(max(len(batch.records) for batch in batches), np.uint8)
    for turn in range(TURNS + BATCHES):
        batch = batches[turn % BATCHES]
        copied = memcpy_s(batch.records, target[: len(batch.records)])
        began = time.perf_counter()
        rows = path((turn + BATCHES // 2) % BATCHES)
        taken = time.perf_counter() - began
        if turn >= BATCHES:
            path_s.append(taken)
            copy_s.append(copied)
    ratios = sorted(p / c for p, c in zip(path_s, copy_s, strict=True))
    record_bytes = len(batches[0].records)
    limit_bytes_per_s = record_bytes / median(copy_s)
    return Row(
        "kernels",
        variant,
        BATCH_EVENTS,
        rows,
        BATCH_EVENTS / median(path_s),
        record_bytes / median(path_s),
        "memcpy",
        limit_bytes_per_s,
        median(ratios),
        ratios[len(ratios) // 10],
        ratios[-1 - len(ratios) // 10],
        suspect=limit_bytes_per_s < SUSPECT_BELOW * REFERENCE_LIMITS["memcpy"],
        ns_per_event=median(path_s) / BATCH_EVENTS * 1e9,
    )
