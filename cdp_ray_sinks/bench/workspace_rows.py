"""Many workspaces against one: the same events, in the batches a source makes of them.

Each repetition writes one new workspace, then 5,000 new ones (their directories and files
are made in the time that counts), then as much again into the 5,000, whose files are open.
The new ones are compared, too, with the bare system calls that make the same files.
On ext4 a name is not made quickly where one was removed within the last five minutes, so
nothing is removed before the end, and a run soon after another one is slower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.limits import file_system_of, prime
from cdp_ray_sinks.bench.material import moved, spread_batches, synthetic_batches
from cdp_ray_sinks.bench.private_memory import private_bytes
from cdp_ray_sinks.bench.read_back import numbers_found_in
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.files.file_system import LocalFileSystem
from cdp_ray_sinks.pipeline import Pipeline

WORKSPACES: Final = 5_000
ONE_BATCH_EVENTS: Final = 50_000
PACK_BYTES: Final = 4 * 1024 * 1024
GIB: Final = 1024 * 1024 * 1024
WARM_WORKSPACES: Final = range(4_000_000, 4_000_008)
ONE_WORKSPACE: Final = 3_000_000
DRAIN_S: Final = 600
ONE: Final = "one workspace"
BARE: Final = "bare mkdir, open, write"
HEAD_BYTES: Final = 32
INDEX_BYTES: Final = 368


def workspace_rows(settings: Settings) -> Iterator[Row]:
    """`many_workspaces`, `…_open` and `…_files`, with what memory it took."""
    file_system = file_system_of(settings.directory, Path("/proc/mounts").read_text())
    directory = settings.directory / "workspaces"
    config = PipelineConfig(
        pipeline={"name": "bench-workspaces"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={"disk": {"type": "disk_binary", "path": str(directory), "max_in_flight_bytes": GIB}},
        delivery={"window_bytes": GIB // 2, "drain_deadline_s": DRAIN_S},
    )  # fmt: skip
    settings.say(f"disk_binary, {WORKSPACES:,} workspaces against one")
    with Pipeline(config, settings.say) as pipeline:
        producer = pipeline.producer("workspaces")
        laps = _Laps(settings, producer, directory)
        for number in range(settings.repeat):
            laps.run(number)
        laps.forget_material()
        held_bytes = private_bytes()
        for row in laps.rows(file_system):
            yield replace(row, private_bytes=held_bytes)


class _Laps:
    """The repetitions of both rows."""

    def __init__(self, settings: Settings, producer: Producer, directory: Path) -> None:
        self._settings = settings
        self._producer = producer
        self._directory = directory
        events = settings.events
        self._one = synthetic_batches(events, settings.shape, ONE_BATCH_EVENTS)
        self._many = spread_batches(events, settings.shape, WORKSPACES)
        self._later = spread_batches(events, settings.shape, WORKSPACES, first_number=events)
        self._record_bytes = sum(batch.header.record_bytes for batch in self._many)
        self._laps: tuple[list[Lap], list[Lap], list[Lap]] = ([], [], [])
        self._read_back = events
        for workspace in WARM_WORKSPACES:  # every chain has mapped the store once
            self._time_s([batch] for batch in moved(self._one, workspace))

    def run(self, number: int) -> None:
        """One workspace, many new ones, the same ones again; what of it can be read."""
        first = 1 + number * WORKSPACES
        one = ONE_WORKSPACE + number
        one_s = self._time_s([batch] for batch in moved(self._one, one))
        new_s = self._time_s(packs_of(_shifted(self._many, first - 1)))
        open_s = self._time_s(packs_of(_shifted(self._later, first - 1)))
        self._laps[0].append(Lap(new_s, one_s))
        self._laps[1].append(Lap(open_s, one_s))
        bare = self._settings.directory / f"bare-{number}"
        self._laps[2].append(Lap(new_s, bare_files_s(bare, self._many)))
        events = self._settings.events
        many = range(first, first + WORKSPACES)
        found = [
            numbers_found_in(self._directory, [one], events),
            numbers_found_in(self._directory, many, 2 * events) // 2,
        ]
        self._read_back = min(self._read_back, *found)

    def forget_material(self) -> None:
        """Let go of the batches that were built beforehand."""
        self._one, self._many, self._later = [], [], []

    def rows(self, file_system: str) -> Iterator[Row]:
        """New workspaces, those that are there, and the new ones beside bare files."""
        variants = (
            ("many_workspaces", ONE),
            ("many_workspaces_open", ONE),
            ("many_workspaces_files", BARE),
        )
        for (variant, limit), laps in zip(variants, self._laps, strict=True):
            yield rate_row(
                "disk_binary",
                variant,
                laps,
                events=self._settings.events,
                record_bytes=self._record_bytes,
                read_back=self._read_back,
                limit=limit,
                file_system=file_system,
            )

    def _time_s(self, groups: Iterable[Sequence[Batch]]) -> float:
        prime(self._settings.directory, sum(b.header.record_bytes for b in self._one))
        began = time.perf_counter()
        for group in groups:
            self._producer.submit_packed(group)
        self._producer.flush(DRAIN_S)
        return time.perf_counter() - began


def bare_files_s(base: Path, batches: Sequence[Batch]) -> float:
    """Seconds to make the directories and files of one batch each, and sync them together.

    What a workspace's chain makes: its own folder and those of lane, day and hour, a file of
    the epoch, a mark, data and index.
    """
    began = time.perf_counter()
    base.mkdir()
    for number, batch in enumerate(batches):
        own = base / str(number)
        lane, hour = own / ".lane", own / "2026-01-01" / "00"
        for directory in (own, lane, hour.parent, hour):
            directory.mkdir()
        (lane / "epoch-1").write_bytes(bytes(HEAD_BYTES))
        (lane / "mark").touch()
        (hour / "data.bin").write_bytes(batch.records.data)
        (hour / "data.bin.idx").write_bytes(bytes(INDEX_BYTES))
    fd = os.open(base, os.O_RDONLY)
    try:
        LocalFileSystem().sync_all(fd)
    finally:
        os.close(fd)
    return time.perf_counter() - began


def packs_of(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Small batches together, as a source hands them over."""
    pack: list[Batch] = []
    held_bytes = 0
    for batch in batches:
        pack.append(batch)
        held_bytes += batch.header.record_bytes
        if held_bytes >= PACK_BYTES:
            yield pack
            pack, held_bytes = [], 0
    if pack:
        yield pack


def _shifted(batches: Sequence[Batch], by: int) -> Iterator[Batch]:
    """The same batches for other workspaces."""
    for batch in batches:
        header = batch.header._replace(workspace_id=batch.header.workspace_id + by)
        yield Batch(header, batch.records, batch.offsets, batch.pattern_ids)
