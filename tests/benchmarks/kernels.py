"""Decode and encode against memcpy of the same frames: `python tests/benchmarks/kernels.py`.

One core, batches of 50k events of the `tell` shape. As in a stream each turn takes another
batch, of more than a cache holds together, and writes where the turn before wrote; memcpy
does the same. Path and limit take turns, so that a slow moment of the machine meets both;
medians, and the 10th and 90th percentile of each turn's ratio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.count import count_records

EVENTS = 50_000
BATCHES = 6
TURNS = 48
FLOORS = {"decode": 2.2, "encode": 1.4}


def columns() -> dict[str, pa.Array]:
    """50k events: 1000 devices, 25 names, unique payloads of some 86 bytes."""
    chance = np.random.default_rng(1)
    ids = [pa.array([chance.bytes(16) for _ in range(1000)], pa.binary(16)) for _ in range(2)]
    picked = chance.integers(0, 1000, EVENTS)
    names = pa.array([f"Page Viewed {n}"[: 8 + n % 7] + f" {n}" for n in range(25)])
    payloads = [
        b'{"n":%d,"url":"/products/%d","referrer":"search","screen":"1920x1080","value":%d}'
        % (number, number * 7919 % 100_000, number * 104_729 % 10 ** (4 + number % 6))
        for number in range(EVENTS)
    ]
    return {
        "event_types": pa.array(np.ones(EVENTS, np.uint8)),
        "timestamps": pa.array(1_700_000_000_000 + np.arange(EVENTS)),
        "device_ids": ids[0].take(pa.array(picked)),
        "session_ids": ids[1].take(pa.array(picked)),
        "names": pa.DictionaryArray.from_arrays(
            pa.array(chance.integers(0, 25, EVENTS), pa.int32()), names
        ),
        "payloads": pa.array(payloads, pa.binary()),
    }


def timed(run: Callable[..., object], *arguments: object) -> float:
    """Nanoseconds an event."""
    began = time.perf_counter_ns()
    run(*arguments)
    return (time.perf_counter_ns() - began) / EVENTS


def copied(array: pa.Array) -> pa.Array:
    """The same column in memory of its own; a dictionary's words stay shared."""
    if isinstance(array, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(copied(array.indices), array.dictionary)
    buffers = [b and pa.py_buffer(np.frombuffer(b, np.uint8).copy()) for b in array.buffers()]
    return pa.Array.from_buffers(array.type, len(array), buffers)


def measure(per_message: int) -> list[tuple[str, float, list[float]]]:
    """(name, median ns an event, ratios to the memcpy of the same turn)."""
    first = columns()
    given = [{name: copied(array) for name, array in first.items()} for _ in range(BATCHES)]
    batches = [batch_of(each, per_message) for each in given]
    records, offsets = batches[0].records, batches[0].offsets
    buffers = DecodeBuffers()
    room = np.zeros(2 * len(records) + 10**6, np.uint8)
    counted = np.zeros((len(offsets) - 1, 5), np.int64)
    decoded = decode_events(batches[0], buffers=buffers).table
    assert decoded.num_rows == EVENTS
    assert decoded["payload"].equals(given[0]["payloads"])
    paths: dict[str, Callable[[int], object]] = {
        "decode": lambda n: decode_events(batches[n], buffers=buffers),
        "encode": lambda n: encode_events(**given[n], events_per_message=per_message, out=room),
        "count": lambda n: count_records(
            readonly(batches[n].records), readonly(batches[n].offsets), 1, counted
        ),
    }
    outs = {name: records.copy() for name in paths}  # each as cold as its path's output
    times: dict[str, list[float]] = {name: [] for name in ("memcpy", *paths)}
    ratios: dict[str, list[float]] = {name: [] for name in times}
    for turn in range(TURNS + BATCHES):
        number = turn % BATCHES
        for name, path in paths.items():
            limit = timed(np.copyto, outs[name], batches[(number + 2) % BATCHES].records)
            taken = timed(path, number)
            if turn >= BATCHES:
                times["memcpy"].append(limit)
                times[name].append(taken)
                ratios[name].append(taken / limit)
    return [(name, float(np.median(times[name])), ratios[name]) for name in times]


def batch_of(given: dict[str, pa.Array], per_message: int) -> Batch:
    """Those columns as a batch."""
    made, offsets = encode_events(**given, events_per_message=per_message)
    records, count = made.copy(), len(offsets) - 1
    header = BatchHeader(NO_PRODUCER, 0, 0, 1, 2, 1, "", 0, count, EVENTS, len(records), 0)
    return Batch(header, records, offsets)


def main() -> int:
    """Print a row for each path; 1 if a floor is missed at 500 events a message."""
    missed = 0
    print("per message  path    ns/event  x memcpy  (p10-p90)")
    for per_message in (500, 10, 1):
        for name, median, ratios in measure(per_message):
            row = f"{per_message:>11}  {name:7} {median:8.1f}"
            if ratios:
                low, middle, high = np.percentile(ratios, (10, 50, 90))
                row += f"  {middle:8.2f}  ({low:.2f}-{high:.2f})"
                floor = FLOORS.get(name, np.inf) if per_message == 500 else np.inf
                if middle > floor:
                    row, missed = f"{row}  floor {floor} missed", missed + 1
            print(row, flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
