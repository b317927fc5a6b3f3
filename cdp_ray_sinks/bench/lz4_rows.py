"""LZ4 archives: written by one and two lanes beside the compressor alone; read by time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import lz4.frame
import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.bench.lanes import spread, submitted_s, workspaces_by_lane
from cdp_ray_sinks.bench.limits import file_system_of, joined, prime
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.files.archive_reading import ALL, read_batches
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.testing import RECEIVED_AT_MS, FakeClock

BATCH_EVENTS = 50_000
COMMIT_BATCHES = 8
GIB = 1024 * 1024 * 1024
ARCHIVE_BYTES = 1_000_000_000
ARCHIVE_BATCH_EVENTS = 20_000
ARCHIVE_HOURS = 24
LIMIT = "lz4.frame.compress"


def lz4_rows(settings: Settings, archive_bytes: int = ARCHIVE_BYTES) -> Iterator[Row]:
    """lz4, lz4_2lanes, and time_range_scan of an archive of so many bytes of records."""
    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    if file_system in ("tmpfs", "ramfs"):
        raise ConfigError(
            f"{settings.directory} is on {file_system}: durable rows need a real disk; "
            "choose another --directory"
        )
    for lanes in (1, 2):
        settings.say(f"disk_binary lz4, {lanes} lane{'s'[: lanes - 1]}")
        yield _written(settings, lanes, file_system)
    settings.say(f"time range of an LZ4 archive of {archive_bytes / 1e9:.1f} GB")
    yield _time_range_scan(settings, archive_bytes, file_system)


def _config(directory: Path, lanes: int) -> PipelineConfig:
    return PipelineConfig(
        pipeline={"name": f"bench-lz4-{lanes}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"disk": {"type": "disk_binary", "path": str(directory), "compression": "lz4",
                        "max_in_flight_bytes": GIB}},
        delivery={"window_bytes": GIB, "max_chain_actors": lanes},
    )  # fmt: skip


def _written(settings: Settings, lanes: int, file_system: str) -> Row:
    """Durable through the real pipeline, beside one core that only compresses the same bytes."""
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    material = joined([batch.records for batch in batches])
    directory = settings.directory / f"lz4-{lanes}"
    laps, read_back = [], settings.events
    with Pipeline(_config(directory, lanes), settings.say) as pipeline:
        producer = pipeline.producer("disk")
        workspaces = workspaces_by_lane(lanes)
        for number in range(settings.repeat + 1):
            own = next(workspaces)
            _open_chains(producer, batches[0], own)
            shared_out = spread(batches, own)
            prime(settings.directory, len(material))
            path_s = submitted_s(producer, shared_out)
            prime(settings.directory, len(material))
            limit_s = _compress_s(material, len(batches))
            if number:  # the first lap warms both sides
                laps.append(Lap(path_s, limit_s))
                read_back = min(read_back, _numbers_found(directory, own, settings.events))
    return rate_row(
        "disk_binary",
        "lz4" if lanes == 1 else f"lz4_{lanes}lanes",
        laps,
        events=settings.events,
        record_bytes=len(material),
        read_back=read_back,
        limit=LIMIT,
        file_system=file_system,
    )


def _open_chains(producer: Producer, batch: Batch, workspaces: Sequence[int]) -> None:
    """Let the chains create their files: one message that holds no running number."""
    end = int(batch.offsets[1])
    for workspace_id in workspaces:
        header = batch.header._replace(
            workspace_id=workspace_id, message_count=1, record_bytes=end, event_count=0,
            schema_type=0, checksum=xxh3(batch.records[:end]),
        )  # fmt: skip
        producer.submit(Batch(header, batch.records[:end], batch.offsets[:2])).result(60)


def _compress_s(material: Bytes, batch_count: int) -> float:
    """Seconds that one core takes to compress the same bytes with the same settings."""
    view = memoryview(material.data)
    step = len(view) * COMMIT_BATCHES // batch_count
    began = time.perf_counter()
    for start in range(0, len(view), step):
        lz4.frame.compress(
            view[start : start + step],
            block_size=lz4.frame.BLOCKSIZE_MAX4MB,
            block_linked=False,
        )
    return time.perf_counter() - began


def _numbers_found(base: Path, workspaces: Sequence[int], events: int) -> int:
    """How many of the running numbers are in the archive exactly once."""
    numbers = RunningNumbers(events)
    selection = Selection(workspaces=frozenset(workspaces), schema_types=frozenset({1}))
    for _, batch in read_batches([base], _fail, selection):
        numbers.add(decode_events(batch).table.column("payload"))
    return events - numbers.missing - numbers.duplicated


def _fail(damage: CdpError) -> None:
    raise damage


def _time_range_scan(settings: Settings, archive_bytes: int, file_system: str) -> Row:
    """One part in a hundred of a day, decoded, beside decoding the whole day."""
    directory = settings.directory / "time_range"
    step_ms, batch_count, record_bytes = _make_archive(settings, directory, archive_bytes)
    span_ms = step_ms * batch_count
    start_ms = RECEIVED_AT_MS + int(span_ms * 0.6137)
    selection = Selection(start_ms, start_ms + span_ms // 100 - 1)
    buffers = DecodeBuffers()

    def scan_s(wanted: Selection) -> tuple[float, int]:
        began = time.perf_counter()
        events = sum(
            decode_events(batch, buffers=buffers).table.num_rows
            for _, batch in read_batches([directory], _fail, wanted)
        )
        return time.perf_counter() - began, events

    scan_s(ALL)
    laps, found, whole = [], 0, 0
    for _ in range(settings.repeat):
        range_s, found = scan_s(selection)
        full_s, whole = scan_s(ALL)
        laps.append(Lap(range_s, full_s))
    expected = _expected(settings, selection, step_ms, batch_count)
    ratios = [lap.limit_s / lap.path_s for lap in laps]
    path_s = median(lap.path_s for lap in laps)
    is_whole = whole == batch_count * ARCHIVE_BATCH_EVENTS
    return Row(
        "disk_binary", "time_range_scan", expected, found if is_whole else 0, found / path_s,
        record_bytes * found / max(1, whole) / path_s, "full scan",
        record_bytes / median(lap.limit_s for lap in laps), median(ratios), min(ratios),
        max(ratios), file_system,
    )  # fmt: skip


def _make_archive(settings: Settings, directory: Path, archive_bytes: int) -> tuple[int, int, int]:
    """A day of batches, each received over its step: (step in ms, batches, bytes of records)."""
    (material,) = synthetic_batches(ARCHIVE_BATCH_EVENTS, settings.shape, ARCHIVE_BATCH_EVENTS)
    batch_count = max(200, archive_bytes // len(material.records))
    step_ms = ARCHIVE_HOURS * 3_600_000 // batch_count
    clock = FakeClock(RECEIVED_AT_MS)
    config = DiskBinaryConfig(path=directory, compression="lz4", fsync="off")
    sink = config.build(SinkContext("bench", clock))
    sink.open()
    for number in range(batch_count):
        clock.sleep_ms(step_ms)
        sink.write(_received(material, number, step_ms))
        sink.flush()  # as a batch is committed that fills over minutes
    sink.close()
    return step_ms, batch_count, batch_count * len(material.records)


def _times(message_count: int, number: int, step_ms: int) -> Bytes:
    """When each message of a batch was received, as big-endian u64."""
    times = RECEIVED_AT_MS + number * step_ms + np.arange(message_count) * step_ms // message_count
    return times.astype(">u8").view(np.uint8).reshape(-1, 8)


def _received(batch: Batch, number: int, step_ms: int) -> Batch:
    """A copy of a batch as if its messages had come one after the other."""
    records = batch.records.copy()
    times = _times(len(batch.offsets) - 1, number, step_ms)
    records[batch.offsets[:-1, None].astype(np.int64) + np.arange(8)] = times
    header = batch.header._replace(
        sequence=number, epoch=1, producer=b"bench-time-range", checksum=xxh3(records),
        received_at_ms=RECEIVED_AT_MS + number * step_ms,
    )  # fmt: skip
    return Batch(header, records, batch.offsets)


def _expected(settings: Settings, wanted: Selection, step_ms: int, batch_count: int) -> int:
    """How many events the range holds, by the times alone."""
    (material,) = synthetic_batches(ARCHIVE_BATCH_EVENTS, settings.shape, ARCHIVE_BATCH_EVENTS)
    per_message = ARCHIVE_BATCH_EVENTS // (len(material.offsets) - 1)
    found = 0
    for number in range(batch_count):
        times = _times(len(material.offsets) - 1, number, step_ms).view(">u8").reshape(-1)
        found += sum(map(wanted.holds_time, times.tolist()))
    return found * per_message
