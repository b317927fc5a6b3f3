"""Text lines from messages, nanoseconds an event: `python tests/benchmarks/text.py`.

One core, 50k events; six batches take turns, so that their bytes come from memory. Lines go
into one buffer that is used again. Median, 10th and 90th percentile of the turns.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.text_lines import TextLines
from cdp_ray_sinks.writers.plaintext import BUFFER_BYTES

EVENTS = 50_000
BATCHES = 6
TURNS = 36
FLOOR_NS = 300

PAYLOADS = {
    "plain": b'{"n":%d,"url":"/products/%d","referrer":"search","screen":"1920x1080","value":%d}',
    "escaped": rb'{"n":%d,"text":"said \"no\" to C:\\%d and \"yes\" to all of the others %d"}',
    "accents": '{"n":%d,"name":"Zoë Müller-Peña","city":"Saint-Étienne, 東京","v":%d%d}'.encode(),
    "not text": b"\xff\xfe%d" + bytes(range(128, 190)) + b"%d%d",
}


def batch_of(kind: str, per_message: int, seed: int) -> Batch:
    """50k events of 1000 devices and 25 names, or log entries."""
    chance = np.random.default_rng(seed)
    ids = [pa.array([chance.bytes(16) for _ in range(1000)], pa.binary(16)) for _ in range(2)]
    picked = pa.array(chance.integers(0, 1000, EVENTS))
    names = pa.DictionaryArray.from_arrays(
        pa.array(chance.integers(0, 25, EVENTS), pa.int32()),
        pa.array([f"Page Viewed {number}" for number in range(25)]),
    )
    form = PAYLOADS.get(kind, PAYLOADS["plain"])
    bodies = pa.array(
        [form % (n, n * 7919 % 100_000, n * 104_729 % 10**6) for n in range(EVENTS)], pa.binary()
    )
    times = pa.array(1_700_000_000_000 + np.arange(EVENTS))
    ones = np.ones(EVENTS, np.uint8)
    if kind == "logs":
        given = (ones, 6 * ones, times, ids[0].take(picked), names, names, bodies)
        records, offsets = encode_logs(*given, events_per_message=per_message)
    else:
        devices, sessions = ids[0].take(picked), ids[1].take(picked)
        given = (ones, times, devices, sessions, names, None, bodies)
        records, offsets = encode_events(*given, events_per_message=per_message)
    schema_type = 2 if kind == "logs" else 1
    header = BatchHeader(
        NO_PRODUCER, 0, 0, schema_type, 2, 1, "", 0, len(offsets) - 1, EVENTS, len(records), 0
    )
    return Batch(header, records, offsets)


def main() -> int:
    """Print a line for each kind of message; 1 if one takes longer than FLOOR_NS."""
    lines, out = TextLines(), np.empty(BUFFER_BYTES, np.uint8)
    slow = []
    print(f"{'':10} per message  bytes in  bytes out  ns/event  (p10-p90)  MB/s of text")
    kinds = [("plain", 500), ("plain", 10), ("plain", 1), ("logs", 500)]
    kinds += [(kind, 500) for kind in PAYLOADS if kind != "plain"]
    for kind, per_message in kinds:
        batches = [batch_of(kind, per_message, seed) for seed in range(BATCHES)]
        times, line_count, text_bytes = [], 0, 0
        for turn in range(TURNS + BATCHES):
            lines.start(batches[turn % BATCHES])
            text_bytes = 0
            began = time.perf_counter_ns()
            while not lines.is_done:
                filled = lines.fill(out)
                text_bytes += filled
                if turn == 0:
                    line_count += int(np.count_nonzero(out[:filled] == ord("\n")))
            if turn >= BATCHES:
                times.append((time.perf_counter_ns() - began) / EVENTS)
        assert line_count == EVENTS
        low, middle, high = np.percentile(times, [10, 50, 90])
        sizes = f"{len(batches[0].records) / EVENTS:9.1f} {text_bytes / EVENTS:10.1f}"
        rate = text_bytes / EVENTS / middle * 1000
        print(
            f"{kind:10} {per_message:11} {sizes} {middle:9.1f}  ({low:.0f}-{high:.0f}) {rate:9.0f}"
        )
        slow += [kind] if middle > FLOOR_NS else []
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
