"""The disk_binary sink's rows: durable and not synced, against raw writes of the same bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.limits import file_system_of, joined, prime, raw_write_s
from cdp_ray_sinks.bench.material import moved, synthetic_batches
from cdp_ray_sinks.bench.read_back import numbers_found
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.pipeline import Pipeline

BATCH_EVENTS = 50_000
SYNC_BATCHES = 8
GIB = 1024 * 1024 * 1024
SUFFIXES = {"tell": "", "small": "_10_per_message", "single": "_1_per_message"}
SYNCS = {"durable": "commit", "no_sync": "off"}


def disk_config(directory: Path, fsync: str) -> PipelineConfig:
    """One chain actor, so that every repetition meets a warm process."""
    return PipelineConfig(
        pipeline={"name": f"bench-disk-{fsync}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"disk": {"type": "disk_binary", "path": str(directory), "fsync": fsync,
                        "max_in_flight_bytes": GIB}},
        delivery={"window_bytes": GIB // 2, "max_chain_actors": 1},
    )  # fmt: skip


def disk_rows(settings: Settings) -> Iterator[Row]:
    """durable and no_sync for the shape asked for, durable for the two others."""
    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    if file_system in ("tmpfs", "ramfs"):
        raise ConfigError(
            f"{settings.directory} is on {file_system}: durable rows need a real disk; "
            "choose another --directory"
        )
    others = [shape for shape in SUFFIXES if shape != settings.shape]
    wanted = {
        "durable": [settings.shape, *others],
        "no_sync": [settings.shape],
    }
    for variant, shapes in wanted.items():
        directory = settings.directory / variant
        config = disk_config(directory, SYNCS[variant])
        with Pipeline(config, settings.say) as pipeline:
            producer = pipeline.producer("disk")
            first_workspace = 1
            for shape in shapes:
                settings.say(f"disk_binary {variant}, {shape}")
                yield _row(
                    producer, settings, variant, shape, directory, first_workspace, file_system
                )
                first_workspace += settings.repeat + 1


def _row(
    producer: Producer,
    settings: Settings,
    variant: str,
    shape: str,
    directory: Path,
    first_workspace: int,
    file_system: str,
) -> Row:
    batches = synthetic_batches(settings.events, shape, BATCH_EVENTS)
    material = joined([batch.records for batch in batches])
    sync_bytes = len(material) * SYNC_BATCHES // len(batches) if variant == "durable" else None
    laps, read_back = [], settings.events
    for number in range(settings.repeat + 1):
        workspace = first_workspace + number
        _open_chain(producer, batches[0], workspace)
        prime(settings.directory, len(material))
        path_s = _path_s(producer, moved(batches, workspace))
        prime(settings.directory, len(material))
        limit_s = raw_write_s(settings.directory, material, sync_bytes)
        if number:  # the first lap warms both sides
            laps.append(Lap(path_s, limit_s))
            read_back = min(read_back, numbers_found(directory, workspace, settings.events))
    suffix = "" if shape == settings.shape else SUFFIXES[shape]
    return rate_row(
        "disk_binary",
        variant + suffix,
        laps,
        events=settings.events,
        record_bytes=len(material),
        read_back=read_back,
        limit="raw write + fdatasync" if variant == "durable" else "raw write",
        file_system=file_system,
    )


def _open_chain(producer: Producer, batch: Batch, workspace: int) -> None:
    """Let the chain create its files: one message of another running number range."""
    end = int(batch.offsets[1])
    header = batch.header._replace(
        workspace_id=workspace, message_count=1, record_bytes=end, event_count=0, schema_type=0
    )
    producer.submit(Batch(header, batch.records[:end], batch.offsets[:2])).result(60)


def _path_s(producer: Producer, batches: list[Batch]) -> float:
    began = time.perf_counter()
    for batch in batches:
        producer.submit(batch)
    producer.flush(600)
    return time.perf_counter() - began
