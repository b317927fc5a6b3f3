"""Rows that are times: a submit inside the process, a lone event over TCP until durable."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from cdp_ray_sinks.batch.enums import LENGTH_BYTES
from cdp_ray_sinks.bench.rows import Row, percentile
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.rotation import AtomicRotationSink, RotationConfig, RotationInterval
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sources.synthetic import SyntheticConfig, synthetic_frames
from cdp_ray_sinks.testing import numbered_batch
from cdp_ray_sinks.writers.binary import BinaryWriter

KEY = bytes(range(16))
WAIT_S_MAX = 10.0


def latency_rows(settings: Settings) -> Iterator[Row]:
    """chain_submit and tcp_lone_event."""
    settings.say("in-process chain, submit")
    yield _chain_submit(settings)
    settings.say("a lone event over TCP until durable")
    yield _tcp_lone_event(settings)


def _chain_submit(settings: Settings) -> Row:
    """`AtomicRotationSink.submit` of 2 kB buffers, called as fast as the queue allows."""
    directory = settings.directory / "chain_submit"
    config = RotationConfig(
        base_path=directory, rotation_interval=RotationInterval.HOURLY, queue_size=10_000
    )
    sink = AtomicRotationSink(config, BinaryWriter())
    records = numbered_batch(1, record_bytes=2_000).records
    times = np.empty(20_000, np.int64)
    clock = time.perf_counter_ns
    for number in range(len(times)):
        if number % 1_000 == 0:
            sink.flush(60)
        began = clock()
        sink.submit(1, records, 1)
        times[number] = clock() - began
    sink.flush(60)
    sink.stop()
    report = verify(directory)
    values = (times / 1e3).tolist()
    return Row(
        "disk_binary", "chain_submit", len(values), report.messages,
        p50_us=median(values), p99_us=percentile(values, 0.99),
    )  # fmt: skip


def _tcp_lone_event(settings: Settings) -> Row:
    """One frame at a time over a socket; the time until the archive's index has its commit."""
    directory = settings.directory / "tcp_lone_event"
    directory.mkdir(parents=True)
    keys = directory / "api_keys"
    keys.write_text(f"{KEY.hex()}:1\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = PipelineConfig(
        pipeline={"name": "bench-tcp"},
        sources={"tcp": {"type": "tcp", "listen": f"127.0.0.1:{port}", "api_keys": keys}},
        sinks={"disk": {"type": "disk_binary", "path": directory / "archive"}},
    )
    warm, calls = 10, max(20, settings.calls // 3)
    made = SyntheticConfig(events=warm + calls, shape="single")
    frames = _single_frames(made)
    times = []
    with Pipeline(config, settings.say), socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for frame in frames:
            before = _index_bytes(directory)
            began = time.perf_counter()
            client.sendall(frame)
            while _index_bytes(directory) == before:
                if time.perf_counter() - began > WAIT_S_MAX:
                    raise CdpError(f"an event was not durable after {WAIT_S_MAX} s")
                time.sleep(0.0005)
            times.append((time.perf_counter() - began) * 1e6)
    report = verify(directory / "archive")
    return Row(
        "disk_binary", "tcp_lone_event", calls, report.events - warm,
        p50_us=median(times[warm:]), p99_us=percentile(times[warm:], 0.99),
    )  # fmt: skip


def _single_frames(config: SyntheticConfig) -> Iterator[bytes]:
    """The synthetic source's frames, one at a time."""
    for run in synthetic_frames(config, KEY, SystemClock().now_ms()):
        data, start = bytes(run), 0
        while start < len(data):
            end = start + LENGTH_BYTES + int.from_bytes(data[start : start + LENGTH_BYTES], "big")
            yield data[start:end]
            start = end


def _index_bytes(directory: Path) -> int:
    """The bytes of all commit indexes: they grow with each commit."""
    return sum(path.stat().st_size for path in directory.rglob("*.idx"))
