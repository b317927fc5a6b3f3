"""Counting by commit indexes: what is there, whose it is, and which of the wanted ones."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.files.landed import Landed, Origin, count_segments, wanted_of
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sinks.disk_plaintext import DiskPlaintextConfig
from cdp_ray_sinks.testing import RECEIVED_AT_MS, numbered_events

HOUR_MS = 3_600_000
HOUR = RECEIVED_AT_MS // HOUR_MS
CONFIGS = [
    DiskBinaryConfig,
    DiskPlaintextConfig,
]


def made(number: int, workspace_id: int, hour: int, producer: int = 0) -> Batch:
    at_ms = RECEIVED_AT_MS + hour * HOUR_MS + number
    batch = numbered_events(number, workspace_id, messages=1 + number % 3, received_at_ms=at_ms)
    header = batch.header._replace(producer=bytes([producer, *bytes(15)]), epoch=2**63 + producer)
    return Batch(header, batch.records, batch.offsets)


def write(config: DiskBinaryConfig | DiskPlaintextConfig, batches: list[Batch]) -> None:
    sink = config.build(SinkContext("s"))
    sink.open()
    for place, batch in enumerate(batches):
        sink.write(batch)
        if place % 4 == 3:
            sink.flush()
    sink.close()


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("rotation", ["hourly", "daily"])
def test_counts_are_those_of_what_was_written(
    config_class: type[DiskBinaryConfig], compression: str, rotation: str, tmp_path: Path
) -> None:
    """By producer, epoch, workspace and hour, however the files are cut."""
    rng = random.Random(7)
    batches = [made(n, rng.randrange(1, 4), rng.randrange(3), rng.randrange(2)) for n in range(60)]
    write(config_class(path=tmp_path, compression=compression, rotation=rotation), batches)
    expected: Counter[tuple[Origin, str]] = Counter()
    for header in (batch.header for batch in batches):
        hour = header.received_at_ms // HOUR_MS
        origin = Origin(header.producer, header.epoch, header.workspace_id, hour)
        expected[origin, "batches"] += 1
        expected[origin, "messages"] += header.message_count
        expected[origin, "events"] += header.event_count
    some = [batch.header.batch_id for batch in batches[::7]]
    absent = BatchId(*batches[0].header.batch_id[:2], 10_000)
    landed = count_segments(tmp_path, wanted_of([*some, absent]))
    found = {
        (origin, name): getattr(count, name)
        for origin, count in landed.counts.items()
        for name in ("batches", "messages", "events")
    }
    assert found == expected
    assert landed.found == set(some)
    assert landed.problems == []


def test_batches_that_the_file_is_too_short_for_are_not_counted(tmp_path: Path) -> None:
    """And the file is named; so are one that is gone and one without an index."""
    write(DiskBinaryConfig(path=tmp_path), [made(n, 1, n // 10) for n in range(30)])
    files = sorted(tmp_path.rglob("data.bin"))
    whole = files[0].stat().st_size
    with files[0].open("r+b") as file:
        file.truncate(whole - 1)
    files[1].unlink()
    files[2].with_name("data.bin.idx").unlink()
    landed = count_segments(tmp_path, {})
    counts = {origin.hour - HOUR: count.batches for origin, count in landed.counts.items()}
    assert counts == {0: 9}
    said = sorted(landed.problems)
    assert len(said) == 3
    assert "1 committed bytes are missing" in said[0]
    assert str(files[1]) in said[1]
    assert "has no index" in said[2]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    """An empty one neither."""
    assert count_segments(tmp_path / "none", {}) == Landed() == count_segments(tmp_path, {})
