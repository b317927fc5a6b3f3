"""A disk that fills up under a running pipeline, and heals."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import DrainTimeoutError
from cdp_ray_sinks.files.archive import segments, verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import (
    numbered_batch,
    numbered_events,
    numbers_in,
    numbers_in_tables,
)
from cdp_ray_sinks.writers.binary import BinaryReader
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of our own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that are not there")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def numbers_committed(base: Path) -> list[int]:
    """The numbers that the commit indexes vouch for; a write under way is not looked at."""
    found = []
    for segment in segments(base):
        with BinaryReader.open(segment.path) as reader:
            for batch in reader.batches():
                found += [int.from_bytes(message[:8], "little") for message in batch.messages()]
    return found


def errors_of(pipeline: Pipeline) -> str:
    """What the sinks' lanes are being retried for, as `status` tells it."""
    reports = pipeline.status()["reports"].values()
    return " ".join(str(report.get("last_error")) for report in reports)


def test_a_full_disk_is_told_retried_and_heals(small_disk: Path, tmp_path: Path) -> None:
    """Nothing is acknowledged that is not there; with room again everything lands once.

    Another sink goes on meanwhile.
    """
    config = PipelineConfig(
        pipeline={"name": "full", "state_dir": tmp_path / "state"},
        ray={"object_store_bytes": 200 * 1024 * 1024},
        sinks={
            "full": {"type": "disk_binary", "path": small_disk / "a"},
            "other": {"type": "disk_binary", "path": tmp_path / "b"},
        },
        delivery={"window_bytes": 64 * 1024 * 1024, "populate_object_store": False},
    )
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(numbered_batch(n, record_bytes=1_000_000)) for n in range(20)]
        until = time.monotonic() + 30
        while (
            "No space left" not in errors_of(pipeline)
            or len(numbers_committed(tmp_path / "b")) < 20
        ):
            assert time.monotonic() < until, errors_of(pipeline)
            time.sleep(0.2)
        acknowledged = [n for n, ticket in enumerate(tickets) if ticket.done()]
        assert set(acknowledged) <= set(numbers_committed(small_disk / "a"))
        assert len(acknowledged) < 20
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        for ticket in tickets:
            assert ticket.result(30) == {"full": "durable", "other": "durable"}
    assert numbers_in(small_disk / "a") == list(range(20))
    assert verify(small_disk / "a").ok


def test_a_disk_that_stays_full_ends_the_drain_with_a_reason(
    small_disk: Path, tmp_path: Path
) -> None:
    """The deadline holds, the error says which sink and why, what is there is whole."""
    config = PipelineConfig(
        pipeline={"name": "full", "state_dir": tmp_path / "state"},
        ray={"object_store_bytes": 200 * 1024 * 1024},
        sinks={"full": {"type": "disk_binary", "path": small_disk / "a"}},
        delivery={"window_bytes": 64 * 1024 * 1024, "populate_object_store": False},
    )
    pipeline = Pipeline(config)
    pipeline.start()
    producer = pipeline.producer("mine")
    for number in range(20):
        producer.submit(numbered_batch(number, record_bytes=1_000_000))
    with pytest.raises(DrainTimeoutError, match="No space left") as error:
        pipeline.drain(3)
    pipeline.stop()
    assert error.value.unsettled >= 12
    assert verify(small_disk / "a").ok


def test_a_warehouse_on_a_full_disk_is_told_and_heals(small_disk: Path, tmp_path: Path) -> None:
    """Journal and files share the disk: with room again each number is published, once."""
    config = PipelineConfig(
        pipeline={"name": "full", "state_dir": tmp_path / "state"},
        ray={"object_store_bytes": 200 * 1024 * 1024},
        sinks={"tables": {"type": "parquet", "path": small_disk / "w", "compression": "none",
                          "segment_bytes_max": 1_500_000}},
        delivery={"window_bytes": 64 * 1024 * 1024, "populate_object_store": False},
    )  # fmt: skip
    batches = [numbered_events(n, record_bytes=100_000, messages=10) for n in range(20)]
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(batch) for batch in batches]
        until = time.monotonic() + 30
        while "No space left" not in errors_of(pipeline):
            assert time.monotonic() < until, errors_of(pipeline)
            time.sleep(0.2)
        assert not all(ticket.done() for ticket in tickets)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        for ticket in tickets:
            assert ticket.result(60) == {"tables": "durable"}
    assert sorted(numbers_in_tables(small_disk / "w")) == sorted([*range(20)] * 10)
    assert verify_warehouse(small_disk / "w").ok
