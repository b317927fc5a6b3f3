"""The disk_binary sink as its lane sees it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import ConfigError, PartialFlushError, TerminalError
from cdp_ray_sinks.sinks.base import KeepsLedger, SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig, DiskBinarySink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.writers.binary import BinaryReader

START_MS = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC."""


def batch_of(sequence: int, workspace_id: int = 1, hour: int = 0, filler_bytes: int = 10) -> Batch:
    """One record that says its sequence."""
    at_ms = START_MS + hour * 3_600_000
    message = b"%d:" % sequence + bytes(filler_bytes)
    record = at_ms.to_bytes(8, "big") + bytes(16) + len(message).to_bytes(4, "big") + message
    records = np.frombuffer(record, np.uint8)
    header = BatchHeader(
        b"p" * 16, 1, sequence, 1, 2, workspace_id, "test", at_ms, 1, 1, len(records),
        xxhash.xxh3_64_intdigest(records),
    )  # fmt: skip
    return Batch(header, records, np.array([0, len(records)], np.uint64))


def sink_at(path: Path, **options: Any) -> DiskBinarySink:
    """An open sink."""
    sink = DiskBinaryConfig(path=path, **options).build(SinkContext("archive"))
    sink.open()
    return sink


def test_what_is_flushed_can_be_read_back(tmp_path: Path) -> None:
    """Through the reader that users have; ids and all."""
    sink = sink_at(tmp_path)
    written = [batch_of(s, 1 + s % 2, s % 3) for s in range(12)]
    for batch in written:
        sink.write(batch)
    sink.flush()
    found = []
    for path in sorted(tmp_path.rglob("*.bin")):
        with BinaryReader.open(path) as reader:
            found += list(reader.batches())
            assert reader.damaged == []
    key = lambda batch: batch.header.sequence  # noqa: E731
    assert [b.records.tobytes() for b in sorted(found, key=key)] == [
        b.records.tobytes() for b in written
    ]
    sink.close()
    sink.close()


def test_paths_are_those_of_the_configuration(tmp_path: Path) -> None:
    """Hourly by default, without the hour when daily."""
    for rotation, name in [
        ("hourly", "1/2026-01-01/05/data.bin"),
        ("daily", "1/2026-01-01/data.bin"),
    ]:
        sink = sink_at(tmp_path / rotation, rotation=rotation)
        sink.write(batch_of(0, hour=5))
        sink.close()
        assert (tmp_path / rotation / name).exists()


def test_it_keeps_a_ledger_with_its_data(tmp_path: Path) -> None:
    """A restarted lane learns from the sink what is durable."""
    sink = sink_at(tmp_path)
    assert isinstance(sink, KeepsLedger)
    batch = batch_of(3)
    assert not sink.ledger_for(1).has(*batch.header.batch_id, batch.header.checksum)
    sink.write(batch)
    sink.flush()
    sink.close()
    sink = sink_at(tmp_path)
    assert sink.ledger_for(1).has(*batch.header.batch_id, batch.header.checksum)
    sink.close()


def test_a_workspace_can_be_handed_to_another_sink(tmp_path: Path) -> None:
    """Released, it is sealed and free."""
    first, second = sink_at(tmp_path), sink_at(tmp_path)
    first.write(batch_of(0))
    first.release(1)
    assert len(second.ledger_for(1).snapshot()) == 1
    first.close()
    second.close()


def test_batches_without_a_place_are_terminal(tmp_path: Path) -> None:
    """No workspace, or records that the header contradicts: for the dead letters."""
    sink = sink_at(tmp_path)
    batch = batch_of(0)
    with pytest.raises(TerminalError, match="workspace 0"):
        sink.write(batch_of(0, workspace_id=0))
    with pytest.raises(TerminalError, match="header says 7"):
        sink.write(Batch(batch.header._replace(record_bytes=7), batch.records, batch.offsets))
    sink.flush()
    assert list(tmp_path.rglob("*.bin")) == []
    sink.close()


def test_a_workspace_that_fails_is_named(tmp_path: Path) -> None:
    """The flush says which; reports and counters say what happened."""
    sink = sink_at(tmp_path)
    for workspace_id in (1, 2):
        sink.write(batch_of(0, workspace_id))
    (tmp_path / "2" / "2026-01-01").write_bytes(b"")
    with pytest.raises(PartialFlushError, match="workspace 2"):
        sink.flush()
    assert sink.counters()["batches"] == 1
    assert sink.counters()["write_failures"] == 1
    (tmp_path / "2" / "2026-01-01").unlink()
    sink.flush()
    assert sink.counters()["batches"] == 2
    assert sink.recovery_reports() == {}
    sink.close()


def test_damage_found_at_the_start_is_reported_by_workspace(tmp_path: Path) -> None:
    """The sink opens all the same."""
    sink = sink_at(tmp_path)
    sink.write(batch_of(0))
    sink.flush()
    path = tmp_path / "1" / "2026-01-01" / "00" / "data.bin"
    index = Path(f"{path}.idx").read_bytes()
    sink.close()
    Path(f"{path}.idx").write_bytes(index)  # as if it had not been sealed
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    sink = sink_at(tmp_path)
    assert sink.ledger_for(1).snapshot() == []
    ((damage,),) = sink.recovery_reports().values()
    assert (damage.path, damage.offset) == (str(path), 0)
    sink.close()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "path"),
        ({"path": " "}, "must name a directory"),
        ({"path": "x", "rotation": "weekly"}, "rotation = 'weekly'"),
        ({"path": "x", "compression": "zstd"}, "compression = 'zstd'"),
        ({"path": "x", "lz4_preset": "slow"}, "lz4_preset = 'slow'"),
        ({"path": "x", "lz4_level": 13}, "lz4_level = 13"),
        ({"path": "x", "fsync": "sometimes"}, "fsync = 'sometimes'"),
        ({"path": "x", "segment_bytes_max": 0}, "segment_bytes_max = 0"),
        ({"path": "x", "buffer_size": 1}, "buffer_size"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], part: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError) as caught:
        load_config("disk_binary", options)
    assert part in str(caught.value)


def test_a_path_that_is_a_file_is_a_config_error(tmp_path: Path) -> None:
    """Known at the start, so said at the start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        sink_at(tmp_path / "file")


def test_rotation_holds_up_no_write(tmp_path: Path) -> None:
    """Sealing is the background's work; a tick and a write beside it stay quick."""
    sink = sink_at(tmp_path, fsync="off", segment_bytes_max=4096)
    slowest_s = 0.0
    for sequence in range(300):
        began = time.perf_counter()
        sink.write(batch_of(sequence, filler_bytes=1000))
        slowest_s = max(slowest_s, time.perf_counter() - began)
        sink.flush()
        sink.tick(SystemClock().now_ms())
    sink.close()
    assert slowest_s < 10
    assert len(list(tmp_path.rglob("*.bin"))) > 50


@pytest.mark.parametrize("workspaces", [1, 40])
def test_frames_are_made_in_buffers_that_are_at_hand(tmp_path: Path, workspaces: int) -> None:
    """Commit after commit, of one workspace or many at once: no buffer is made anew."""
    sink = sink_at(tmp_path, compression="lz4")
    before = sink.counters()
    for sequence in range(20):
        for workspace_id in range(1, workspaces + 1):
            sink.write(batch_of(sequence, workspace_id, filler_bytes=20_000))
        sink.flush()
    after = sink.counters()
    assert after["workspaces"] == workspaces
    assert after["pool_hits"] - before["pool_hits"] >= 20 * workspaces
    assert after["pool_misses"] == before["pool_misses"]
    sink.close()
    assert "pool_hits" not in sink_at(tmp_path / "plain").counters()
