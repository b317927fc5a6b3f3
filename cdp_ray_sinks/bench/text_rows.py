"""The disk_plaintext sink's rows: durable against its kernel and the write, and the kernel alone.

The limit of `durable` is the slower of formatting all lines into one reused buffer and writing
the same text with raw writes and fdatasync: overlapped, a path can be no faster than that.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.text_lines import TextLines
from cdp_ray_sinks.bench.limits import file_system_of, memcpy_s, prime, raw_write_s
from cdp_ray_sinks.bench.material import moved, synthetic_batches
from cdp_ray_sinks.bench.rows import REFERENCE_LIMITS, SUSPECT_BELOW, Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive import segments
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_batch
from cdp_ray_sinks.writers.plaintext import BUFFER_BYTES

BATCH_EVENTS = 50_000
SYNC_BATCHES = 8
KERNEL_BATCHES = 6
KERNEL_TURNS = 36
GIB = 1024 * 1024 * 1024
WRITE = "raw write + fdatasync"
KERNEL = "text kernel"
_NUMBER = re.compile(rb' payload=\{"n":(\d+)[,}]')


def text_config(directory: Path) -> PipelineConfig:
    """One chain actor, so that every repetition meets a warm process."""
    return PipelineConfig(
        pipeline={"name": "bench-text"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"text": {"type": "disk_plaintext", "path": str(directory),
                        "max_in_flight_bytes": GIB}},
        delivery={"window_bytes": GIB // 2, "max_chain_actors": 1},
    )  # fmt: skip


def text_rows(settings: Settings) -> Iterator[Row]:
    """text_kernel and durable, for the shape asked for."""
    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    if file_system in ("tmpfs", "ramfs"):
        raise ConfigError(
            f"{settings.directory} is on {file_system}: durable rows need a real disk; "
            "choose another --directory"
        )
    settings.say("text kernel")
    yield _kernel_row(settings.shape)
    settings.say("disk_plaintext durable")
    directory = settings.directory / "text"
    with Pipeline(text_config(directory), settings.say) as pipeline:
        yield _durable_row(pipeline.producer("text"), settings, directory, file_system)


def _kernel_row(shape: str) -> Row:
    """Nanoseconds an event; `ratio` is times a copy of the messages' bytes, lower is better.

    Six batches take turns, so that their bytes come from memory and not from a cache.
    """
    batches = synthetic_batches(KERNEL_BATCHES * BATCH_EVENTS, shape, BATCH_EVENTS)
    out = np.empty(BUFFER_BYTES, np.uint8)
    target = np.empty(max(len(batch.records) for batch in batches), np.uint8)
    path_s, copy_s, lines = [], [], BATCH_EVENTS
    for turn in range(KERNEL_TURNS + KERNEL_BATCHES):
        copied = batches[turn % KERNEL_BATCHES].records
        limit_s = memcpy_s(copied, target[: len(copied)])
        batch = batches[(turn + KERNEL_BATCHES // 2) % KERNEL_BATCHES]
        began = time.perf_counter()
        _format([batch], out)
        taken_s = time.perf_counter() - began
        if turn >= KERNEL_BATCHES:
            path_s.append(taken_s)
            copy_s.append(limit_s)
        else:
            lines = min(lines, int(np.count_nonzero(_text_of([batch]) == ord("\n"))))
    ratios = sorted(path / copy for path, copy in zip(path_s, copy_s, strict=True))
    record_bytes = len(batches[0].records)
    limit_bytes_per_s = record_bytes / median(copy_s)
    return Row(
        "disk_plaintext",
        "text_kernel",
        BATCH_EVENTS,
        lines,
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


def _durable_row(producer: Producer, settings: Settings, directory: Path, file_system: str) -> Row:
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    text = _text_of(batches)
    sync_bytes = len(text) * SYNC_BATCHES // len(batches)
    out = np.empty(BUFFER_BYTES, np.uint8)
    laps, read_back = [], settings.events
    writes_s, kernels_s = [], []
    for workspace in range(1, settings.repeat + 2):
        # Let the chain create its files: one raw line.
        producer.submit(numbered_batch(workspace, workspace, 64)).result(60)
        prime(settings.directory, len(text))
        path_s = _path_s(producer, moved(batches, workspace))
        prime(settings.directory, len(text))
        write_s = raw_write_s(settings.directory, text, sync_bytes)
        began = time.perf_counter()
        _format(batches, out)
        kernel_s = time.perf_counter() - began
        if workspace > 1:  # the first lap warms both sides
            laps.append(Lap(path_s, max(write_s, kernel_s)))
            writes_s.append(write_s)
            kernels_s.append(kernel_s)
            read_back = min(read_back, _numbers_found(directory, workspace, settings.events))
    return rate_row(
        "disk_plaintext",
        "durable",
        laps,
        events=settings.events,
        record_bytes=len(text),
        read_back=read_back,
        limit=WRITE if median(writes_s) >= median(kernels_s) else KERNEL,
        file_system=file_system,
    )


def _format(batches: Sequence[Batch], out: Bytes) -> None:
    """Format all lines into one buffer, again and again."""
    lines = TextLines()
    for batch in batches:
        lines.start(batch)
        while not lines.is_done:
            lines.fill(out)


def _text_of(batches: Sequence[Batch]) -> Bytes:
    """All lines, in one private buffer."""
    lines, parts = TextLines(), []
    out = np.empty(BUFFER_BYTES, np.uint8)
    for batch in batches:
        lines.start(batch)
        while not lines.is_done:
            parts.append(out[: lines.fill(out)].copy())
    return np.concatenate(parts)


def _path_s(producer: Producer, batches: list[Batch]) -> float:
    began = time.perf_counter()
    for batch in batches:
        producer.submit(batch)
    producer.flush(600)
    return time.perf_counter() - began


def _numbers_found(base: Path, workspace_id: int, count: int) -> int:
    """How many of the running numbers 0 to count - 1 are in a workspace's lines, each once."""
    found = [
        np.array(_NUMBER.findall(segment.path.read_bytes()), np.int64)
        for segment in segments(base, workspace_id)
    ]
    seen = np.bincount(np.concatenate(found), minlength=count)
    return int(np.count_nonzero(seen[:count] == 1)) - int(seen[count:].sum())
