"""The compiled kernels' rows: decode and encode beside a copy of the same bytes, one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.bench.limits import memcpy_s
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.rows import REFERENCE_LIMITS, SUSPECT_BELOW, Row
from cdp_ray_sinks.bench.settings import Settings

BATCH_EVENTS = 50_000
TURNS = 40
PER_MESSAGE = {"tell": 500, "small": 10, "single": 1}


def kernel_rows(settings: Settings) -> Iterator[Row]:
    """decode and encode for each shape; `ratio` is times the copy, lower is better."""
    for shape in sorted(PER_MESSAGE, key=lambda name: name != settings.shape):
        settings.say(f"kernels, {PER_MESSAGE[shape]} events per message")
        (batch,) = synthetic_batches(BATCH_EVENTS, shape, BATCH_EVENTS)
        suffix = "" if shape == settings.shape else f"_{PER_MESSAGE[shape]}_per_message"
        yield from _rows(batch, PER_MESSAGE[shape], suffix)


def _rows(batch: Batch, per_message: int, suffix: str) -> Iterator[Row]:
    buffers = DecodeBuffers()
    table = decode_events(batch, buffers=DecodeBuffers()).table
    room = np.empty(2 * len(batch.records) + (1 << 20), np.uint8)
    target = batch.records.copy()

    def encode() -> int:
        encode_events(
            table["event_type"], table["timestamp"], table["device_id"], table["session_id"],
            table["event_name"], table["service"], table["payload"],
            events_per_message=per_message, out=room,
        )  # fmt: skip
        return int(table.num_rows)

    def decode() -> int:
        return int(decode_events(batch, buffers=buffers).table.num_rows)

    for name, path in (("decode", decode), ("encode", encode)):
        yield _row(name + suffix, path, batch, target)


def _row(variant: str, path: Callable[[], int], batch: Batch, target: Bytes) -> Row:
    path_s, copy_s, rows = [], [], 0
    for turn in range(TURNS + 2):
        copied = memcpy_s(batch.records, target)
        began = time.perf_counter()
        rows = path()
        taken = time.perf_counter() - began
        if turn >= 2:
            path_s.append(taken)
            copy_s.append(copied)
    ratios = sorted(p / c for p, c in zip(path_s, copy_s, strict=True))
    limit_bytes_per_s = len(batch.records) / median(copy_s)
    return Row(
        "kernels", variant, BATCH_EVENTS, rows, BATCH_EVENTS / median(path_s),
        len(batch.records) / median(path_s), "memcpy", limit_bytes_per_s, median(ratios),
        ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10],
        suspect=limit_bytes_per_s < SUSPECT_BELOW * REFERENCE_LIMITS["memcpy"],
        ns_per_event=median(path_s) / BATCH_EVENTS * 1e9,
    )  # fmt: skip
