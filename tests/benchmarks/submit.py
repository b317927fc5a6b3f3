"""How long one `AtomicRotationSink.submit` takes while files are written and rotated.

    python tests/benchmarks/submit.py [--submits N] [--work-us US] [--directory DIR] [--json]

Submits a 100 kB record buffer (500 events of 208 B) per call, one hour of received time
after the other, with the writer thread at work on a real directory, and is busy for
`--work-us` between two calls (not asleep: after a sleep even an empty call takes 0.4 us).
Times every call on its own; an empty call is timed the same way and printed beside.
Everything is read back and counted. Floors: p50 0.5 us, p99 25 us.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cdp_ray_sinks.errors import QueueFullError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.rotation import AtomicRotationSink, RotationConfig
from cdp_ray_sinks.writers.binary import BinaryWriter, MessageMetadata

HOUR_MS = 3_600_000
START_MS = 1_767_225_600_000
ROTATIONS = 8
MESSAGE_BYTES = 104_000


def record_of_hour(hour: int) -> np.ndarray:
    """One record received in that hour; its message is filler, the bytes are what counts."""
    metadata = MessageMetadata(START_MS + hour * HOUR_MS, bytes(16)).to_bytes()
    message = np.random.default_rng(hour).bytes(MESSAGE_BYTES)
    return np.frombuffer(metadata + MESSAGE_BYTES.to_bytes(4, "big") + message, np.uint8)


def work(duration_us: int) -> None:
    """Keep the processor busy, as a caller that makes records would."""
    end = time.perf_counter_ns() + 1000 * duration_us
    while time.perf_counter_ns() < end:
        pass


def empty_call_ns(calls: int, work_us: int) -> np.ndarray:
    """What a call that does nothing takes when timed like a submit."""

    def nothing(workspace: int, buffer: np.ndarray, count: int) -> None:
        """Take the same arguments."""

    took = np.empty(calls, np.int64)
    now = time.perf_counter_ns
    for place in range(calls):
        started = now()
        nothing(42, took, 1)
        took[place] = now() - started
        work(work_us)
    return took


def run(directory: Path, submits: int, work_us: int) -> dict[str, Any]:
    """Submit, time, stop, read back."""
    buffers = [record_of_hour(hour) for hour in range(ROTATIONS)]
    took = np.empty(submits, np.int64)
    refused = 0
    now = time.perf_counter_ns
    sink = AtomicRotationSink(RotationConfig(directory, queue_size=1000), BinaryWriter())
    started_s = time.perf_counter()
    for place in range(submits):
        buffer = buffers[place * ROTATIONS // submits]
        while True:
            started = now()
            try:
                sink.submit(42, buffer, 1)
            except QueueFullError:
                refused += 1
                time.sleep(0.001)
                continue
            took[place] = now() - started
            break
        work(work_us)
    submitted_s = time.perf_counter() - started_s
    sink.stop()
    metrics = sink.metrics()
    report = verify(directory)
    if not report.ok or report.messages != submits:
        raise SystemExit(f"read back {report.messages} of {submits}: {report.damaged[:3]}")
    p50, p99, p999 = np.percentile(took, [50, 99, 99.9]) / 1000
    return {
        "submits": submits,
        "work_us": work_us,
        "submit_s": round(submitted_s, 2),
        "p50_us": round(float(p50), 3),
        "p99_us": round(float(p99), 3),
        "p99_9_us": round(float(p999), 3),
        "max_us": round(float(took.max()) / 1000, 1),
        "empty_call_p50_us": round(float(np.median(empty_call_ns(2000, work_us))) / 1000, 3),
        "queue_full": refused,
        "rotations": metrics.rotations,
        "read_back": report.messages,
    }


def main() -> None:
    """Print one row, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submits", type=int, default=4000)
    parser.add_argument("--work-us", type=int, default=50)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        row = run(Path(directory), options.submits, options.work_us)
    print(json.dumps(row) if options.json else "  ".join(f"{k}={v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
