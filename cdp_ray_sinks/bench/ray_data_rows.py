"""Datasets into sinks beside what Ray Data writes itself: the same rows, in turn, on one cluster.

Laps are warm: the pipeline runs, its workspaces are open, workers have been used. Both sides
write the same blocks from the object store with as many tasks at once as they get.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from cdp_ray_sinks.actors.dataset_probe import dataset_of
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.lanes import spread, submitted_s, workspaces_by_lane
from cdp_ray_sinks.bench.limits import file_system_of, prime
from cdp_ray_sinks.bench.material import synthetic_batches, without_number
from cdp_ray_sinks.bench.parquet_material import ROW_BYTES_PRIMED, numbers_found
from cdp_ray_sinks.bench.ray_data_material import BLOCK_EVENTS, row_blocks
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.ray_data.batch_blocks import batch_blocks, send_blocks
from cdp_ray_sinks.ray_data.datasink import CdpDatasink

SINK: Final = "ray_data"
LIMIT: Final = "Dataset.write_parquet"
GIB: Final = 1024 * 1024 * 1024
LANES: Final = 2
TASKS: Final = os.cpu_count() or 1
"""Into so many tasks a write is cut: each waits once for sinks, and has several blocks."""
QUIET_S: Final = 0.5
QUIET_WITHIN_S: Final = 60.0

Journal: TypeAlias = Literal["commit", "off"]
COMMIT: Final[Journal] = "commit"
OFF: Final[Journal] = "off"


def ray_data_rows(settings: Settings) -> Iterator[Row]:
    """datasink_* and blocks_*, what archives are read with, ClickHouse as a peer."""
    from cdp_ray_sinks.bench.archive_read_rows import archive_read_rows

    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    batches = synthetic_batches(settings.events, settings.shape, BLOCK_EVENTS)
    yield from _parquet_rows(settings, batches, file_system)
    yield from archive_read_rows(settings, batches, file_system)
    if settings.has_peers:
        from cdp_ray_sinks.bench.ray_data_peers import clickhouse_row

        yield clickhouse_row(settings)


def _config(directory: Path, journal: Journal) -> PipelineConfig:
    return PipelineConfig(
        pipeline={"name": f"bench-ray-data-{journal}", "state_dir": directory / f"state-{journal}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"tables": {"type": "parquet", "path": directory / journal, "journal": journal,
                          "publish_age_s_max": 0, "max_in_flight_bytes": GIB}},
        delivery={"max_chain_actors": LANES, "window_bytes": GIB // 4},
    )  # fmt: skip


@dataclass(slots=True)
class _Way:
    """How a dataset gets into one of the two configurations, and the laps that were run."""

    variant: str
    write: Callable[[Any, str, int], object]
    journal: Journal
    pipeline: Pipeline
    laps: list[Lap] = field(default_factory=list)
    workspaces: list[Sequence[int]] = field(default_factory=list)


def _parquet_rows(settings: Settings, batches: Sequence[Batch], file_system: str) -> Iterator[Row]:
    """Durable in the journal when the write returns, and without one: files when it returns.

    Read back from published files, after the pipeline has ended.
    """
    base = settings.directory / "ray-data"
    record_bytes = sum(len(batch.records) for batch in batches)
    with (
        Pipeline(_config(base, "commit"), settings.say) as durable,
        Pipeline(_config(base, "off"), settings.say) as files,
    ):
        ways = [
            _Way(f"{name}_{kind}", write, journal, pipeline)
            for name, write in (("datasink", _by_datasink), ("blocks", _by_blocks))
            for kind, journal, pipeline in (("durable", COMMIT, durable), ("files", OFF, files))
        ]
        placed = workspaces_by_lane(LANES)
        for way in ways:
            settings.say(f"ray_data {way.variant} beside Dataset.write_parquet")
            _run_laps(settings, way, batches, placed)
    for way in ways:
        path = base / way.journal
        found = [
            numbers_found(
                [file for own in each for file in (path / str(own)).rglob("*.parquet")],
                settings.events,
            )
            for each in way.workspaces
        ]
        yield rate_row(
            SINK, way.variant, way.laps, events=settings.events, record_bytes=record_bytes,
            read_back=min(found), limit=LIMIT, file_system=file_system,
        )  # fmt: skip
    shutil.rmtree(base)


def _by_datasink(dataset: Any, name: str, events: int) -> None:
    dataset.write_datasink(CdpDatasink(name, rows_per_task_min=events // TASKS))


def _by_blocks(dataset: Any, name: str, events: int) -> None:
    send_blocks(batch_blocks(dataset), name)


def _run_laps(
    settings: Settings, way: _Way, batches: Sequence[Batch], placed: Iterator[Sequence[int]]
) -> None:
    opener, name = without_number(batches[0]), way.pipeline.config.pipeline.name
    producer, other = way.pipeline.producer(way.variant), settings.directory / "other"
    for lap in range(settings.repeat + 1):
        own = next(placed)
        submitted_s(producer, spread([opener] * LANES, own))
        with dataset_of(row_blocks(batches, own)) as dataset:
            prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
            own_s = timed(partial(way.write, dataset, name, settings.events))
            wait_until_quiet(way.pipeline)
            prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
            limit_s = timed(partial(dataset.write_parquet, str(other)))
            shutil.rmtree(other)
        if lap:  # the first lap warms both sides
            way.laps.append(Lap(own_s, limit_s))
            way.workspaces.append(own)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def wait_until_quiet(pipeline: Pipeline) -> None:
    """Until no lane has made rows for a while, so that nothing of one lap runs in the next."""
    until = time.monotonic() + QUIET_WITHIN_S
    before: object = None
    while time.monotonic() < until:
        reports = pipeline.status()["reports"]
        now = [each.get("counters") for _, each in sorted(reports.items())]
        if now == before:
            return
        before = now
        time.sleep(QUIET_S)
