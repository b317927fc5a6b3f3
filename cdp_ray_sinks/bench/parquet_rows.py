"""The parquet sink's rows: its writer alone, and through the real pipeline.

All are compared with `pq.write_table` of the ready table on one core, with the same settings:
rows that need no decoding, sorting, moving or syncing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from cdp_ray_sinks.actors.dataset_probe import dataset_written_s
from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers
from cdp_ray_sinks.bench.lanes import spread, submitted_s, workspaces_by_lane
from cdp_ray_sinks.bench.limits import file_system_of, prime
from cdp_ray_sinks.bench.material import synthetic_batches, without_number
from cdp_ray_sinks.bench.parquet_material import (
    BATCH_EVENTS,
    GROUP_ROWS,
    ROW_BYTES_PRIMED,
    encoded_s,
    numbers_found,
    options_of,
    ready_table,
    table_written_s,
)
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.writers.parquet import ParquetSettings, read_footer

LIMIT: Final = "pq.write_table"
DATASET: Final = "Dataset.write_parquet"
GIB: Final = 1024 * 1024 * 1024
POLL_S: Final = 0.005
PUBLISHED_WITHIN_S: Final = 300


class Lane(NamedTuple):
    """One way through the pipeline."""

    variant: str
    compression: Literal["snappy", "zstd"]
    journal: Literal["off", "commit"]
    lanes: int


LANES: Final = (
    Lane("snappy", "snappy", "off", 1),
    Lane("zstd", "zstd", "off", 1),
    Lane("snappy_journal", "snappy", "commit", 1),
    Lane("zstd_journal", "zstd", "commit", 1),
    Lane("snappy_2lanes", "snappy", "off", 2),
)


def parquet_rows(settings: Settings) -> Iterator[Row]:
    """encode_* and size_* of the writer alone, the lanes, dataset, and peers if asked for."""
    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    if file_system in ("tmpfs", "ramfs"):
        raise ConfigError(
            f"{settings.directory} is on {file_system}: durable rows need a real disk; "
            "choose another --directory"
        )
    yield from writer_rows(settings, file_system)
    for lane in LANES:
        settings.say(f"parquet {lane.variant}")
        yield from _lane_rows(settings, lane, file_system)
    if settings.has_peers:
        from cdp_ray_sinks.bench.parquet_peers import peer_rows

        yield from peer_rows(settings, file_system)


def writer_rows(settings: Settings, file_system: str) -> Iterator[Row]:
    """encode_snappy, encode_zstd, size_snappy, size_zstd: one file, in this process."""
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    table = ready_table(batches, settings.directory)
    for compression in ("snappy", "zstd"):
        settings.say(f"parquet encode, {compression}")
        chosen = ParquetSettings(compression)
        yield _encode_row(settings, batches, table, chosen, file_system)
        yield _size_row(settings, batches, table, chosen, file_system)


def _encode_row(
    settings: Settings,
    batches: list[Batch],
    table: pa.Table,
    chosen: ParquetSettings,
    file_system: str,
) -> Row:
    own, other = settings.directory / "own.parquet", settings.directory / "other.parquet"
    options, buffers = options_of(chosen, table), DecodeBuffers()
    laps, read_back = [], settings.events
    for number in range(settings.repeat + 1):
        prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
        path_s = encoded_s(batches, own, chosen, buffers)
        prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
        limit_s = table_written_s(table, other, options)
        if number:  # the first lap warms both sides
            laps.append(Lap(path_s, limit_s))
            read_back = min(read_back, numbers_found([own], settings.events))
        own.unlink()
        other.unlink()
    return rate_row(
        "parquet",
        f"encode_{chosen.compression}",
        laps,
        events=settings.events,
        record_bytes=_record_bytes(batches),
        read_back=read_back,
        limit=LIMIT,
        file_system=file_system,
    )


def _size_row(
    settings: Settings,
    batches: list[Batch],
    table: pa.Table,
    chosen: ParquetSettings,
    file_system: str,
) -> Row:
    """Bytes a row beside the fewest that `pq.write_table` makes of the same sorted rows.

    With our settings or its own at the same level, in row groups of 100,000.
    """
    own, other = settings.directory / "own.parquet", settings.directory / "other.parquet"
    encoded_s(batches, own, chosen, DecodeBuffers())
    options = options_of(chosen, table)
    plain = {name: options[name] for name in ("compression", "compression_level")}
    sizes = []
    for each in (options, plain):
        table_written_s(table, other, each)
        sizes.append(other.stat().st_size / settings.events)
    own_bytes = own.stat().st_size / settings.events
    read_back = numbers_found([own], settings.events)
    own.unlink()
    other.unlink()
    return Row(
        "parquet", f"size_{chosen.compression}", settings.events, read_back, limit=LIMIT,
        ratio=own_bytes / min(sizes), file_system=file_system, bytes_per_event=own_bytes,
        limit_bytes_per_event=min(sizes),
    )  # fmt: skip


def _config(directory: Path, lane: Lane, segment_bytes_max: int) -> PipelineConfig:
    return PipelineConfig(
        pipeline={"name": f"bench-parquet-{lane.variant.replace('_', '-')}"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"tables": {"type": "parquet", "path": str(directory), "journal": lane.journal,
                          "compression": lane.compression, "publish_age_s_max": 0,
                          "segment_bytes_max": segment_bytes_max,
                          "max_in_flight_bytes": GIB}},
        delivery={"window_bytes": GIB, "max_chain_actors": lane.lanes},
    )  # fmt: skip


def _lane_rows(settings: Settings, lane: Lane, file_system: str) -> Iterator[Row]:
    """A lane, from submitting to published files; Ray Data is beside all lanes at once."""
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    table = ready_table(batches, settings.directory)
    directory = settings.directory / lane.variant
    options = options_of(ParquetSettings(lane.compression), table)
    opener = without_number(batches[0])
    # A workspace's share of a lap and the message before it fill a segment.
    share = _record_bytes(batches[:: lane.lanes]) + len(opener.records)
    laps, dataset_laps, read_back = [], [], settings.events
    is_whole_sink = lane is LANES[-1]
    with Pipeline(_config(directory, lane, share), settings.say) as pipeline:
        producer, workspaces = pipeline.producer("bench"), workspaces_by_lane(lane.lanes)
        for number in range(settings.repeat + 1):
            own = next(workspaces)
            submitted_s(producer, spread([opener] * lane.lanes, own))
            shared_out = spread(batches, own)
            prime(settings.directory, _record_bytes(batches))
            path_s = _published_s(producer, shared_out, opener, directory, settings.events, lane)
            prime(settings.directory, _record_bytes(batches))
            limit_s = table_written_s(table, settings.directory / "other.parquet", options)
            dataset_s = _dataset_s(settings, table, options) if is_whole_sink else 0.0
            if number:  # the first lap warms both sides
                laps.append(Lap(path_s, limit_s))
                dataset_laps.append(Lap(path_s, dataset_s))
                found = numbers_found(_files(directory, own), settings.events)
                read_back = min(read_back, found)
    for variant, limit, each in (
        (lane.variant, LIMIT, laps),
        ("dataset", DATASET, dataset_laps if is_whole_sink else []),
    ):
        if each:
            yield rate_row(
                "parquet", variant, each, events=settings.events,
                record_bytes=_record_bytes(batches), read_back=read_back, limit=limit,
                file_system=file_system,
            )  # fmt: skip


def _published_s(
    producer: Producer,
    batches: Sequence[Batch],
    opener: Batch,
    directory: Path,
    events: int,
    lane: Lane,
) -> float:
    """Seconds until published files hold all events; with a journal one more batch ends them."""
    began = time.perf_counter()
    taken_s = submitted_s(producer, batches)
    if lane.journal == "off":
        return taken_s
    own = sorted({batch.header.workspace_id for batch in batches})
    last = opener.header._replace(sequence=1)
    again = Batch(last, opener.records, opener.offsets)
    submitted_s(producer, spread([again] * lane.lanes, own))
    deadline = began + PUBLISHED_WITHIN_S
    known: dict[Path, int] = {}
    while sum(known.values()) < events:
        if time.perf_counter() > deadline:
            raise ConfigError(f"{directory}: not published within {PUBLISHED_WITHIN_S} s")
        time.sleep(POLL_S)
        for path in _files(directory, own):
            if path not in known:
                known[path] = read_footer(path).rows
    return time.perf_counter() - began


def _dataset_s(settings: Settings, table: pa.Table, options: dict[str, Any]) -> float:
    """Seconds of Ray Data for the same rows, a block for each row group, on the same cluster."""
    prime(settings.directory, ROW_BYTES_PRIMED * settings.events)
    starts = range(0, table.num_rows, GROUP_ROWS)
    blocks = [table.slice(start, GROUP_ROWS).combine_chunks() for start in starts]
    return dataset_written_s(blocks, settings.directory / "dataset", options)


def _files(directory: Path, workspaces: Sequence[int]) -> list[Path]:
    return [
        path
        for workspace_id in workspaces
        for path in sorted((directory / str(workspace_id)).rglob("*.parquet"))
    ]


def _record_bytes(batches: Sequence[Batch]) -> int:
    return sum(len(batch.records) for batch in batches)
