"""The disk_plaintext sink as its lane sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import ConfigError, PartialFlushError, TerminalError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.sinks.base import KeepsLedger, SinkContext
from cdp_ray_sinks.sinks.disk_plaintext import DiskPlaintextConfig, DiskPlaintextSink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.writers.plaintext import BUFFERS

HOUR_MS = 3_600_000
SUFFIXES = {"none": ".log", "lz4": ".log.lz4"}


def sink_at(path: Path, **options: Any) -> DiskPlaintextSink:
    """An open sink."""
    sink = DiskPlaintextConfig(path=path, **options).build(SinkContext("text"))
    sink.open()
    return sink


def content(path: Path) -> bytes:
    """A file's text."""
    with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
        text: bytes = file.read()
    return text


def of_schema(batch: Batch, schema_type: int) -> Batch:
    return Batch(batch.header._replace(schema_type=schema_type), batch.records, batch.offsets)


def with_events(maker: Any, count: int, sequence: int, **options: Any) -> Batch:
    """One message of `count` events whose payloads say the sequence."""
    message = maker.message(count, filler=b'{"s":%d}' % sequence)
    batch: Batch = maker.batch([message], sequence=sequence, event_count=count, **options)
    return batch


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_each_kind_has_its_file(
    maker: Any, line_parser: Any, tmp_path: Path, compression: str
) -> None:
    """By workspace, date, hour and schema; made when first needed."""
    sink = sink_at(tmp_path, compression=compression)
    names = {1: "events", 2: "logs", 3: "metrics", 4: "traces", 5: "snapshots", 0: "raw"}
    for schema_type in names:
        message = maker.message(2, schema_type=schema_type)
        batch = maker.batch([message], sequence=schema_type, received_at_ms=maker.start_ms)
        sink.write(of_schema(batch, schema_type))
    sink.write(with_events(maker, 1, 100, received_at_ms=maker.start_ms + 5 * HOUR_MS))
    sink.write(with_events(maker, 1, 101, workspace_id=7))
    sink.close()
    suffix = SUFFIXES[compression]
    found = {
        str(path.relative_to(tmp_path)): [
            line_parser.parse(line)["kind"] for line in line_parser.lines(content(path))
        ]
        for path in tmp_path.rglob(f"*{suffix}")
    }
    assert found == {
        f"42/2026-01-01/00/events{suffix}": ["TRACK"] * 2,
        f"42/2026-01-01/00/logs{suffix}": ["INFO"] * 2,
        f"42/2026-01-01/00/metrics{suffix}": ["METRIC"],
        f"42/2026-01-01/00/traces{suffix}": ["TRACE"],
        f"42/2026-01-01/00/snapshots{suffix}": ["SNAPSHOT"],
        f"42/2026-01-01/00/raw{suffix}": ["RAW"],
        f"42/2026-01-01/05/events{suffix}": ["TRACK"],
        f"7/2026-01-01/00/events{suffix}": ["TRACK"],
    }


def test_what_does_not_decode_is_raw_in_its_place(
    maker: Any, line_parser: Any, tmp_path: Path
) -> None:
    """Between its neighbours, in their file: a commit is whole there."""
    sink = sink_at(tmp_path)
    sink.write(maker.batch([maker.message(), b"no message", maker.message(2)]))
    sink.close()
    (path,) = tmp_path.rglob("*.log")
    assert path.name == "events.log"
    lines = [line_parser.parse(line) for line in line_parser.lines(path.read_bytes())]
    assert [line["kind"] for line in lines] == ["TRACK", "RAW", "TRACK", "TRACK"]
    assert lines[1]["payload"] == b"no message"


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_every_byte_is_proven(maker: Any, tmp_path: Path, compression: str) -> None:
    """Counts come from the commits; a flipped bit or a missing end is found."""
    sink = sink_at(tmp_path, compression=compression, rotation="daily")
    for sequence in range(6):
        sink.write(with_events(maker, 5, sequence))
        sink.flush()
    log = maker.batch([maker.message(3, schema_type=2)] * 2, sequence=9, event_count=6)
    sink.write(of_schema(log, 2))
    sink.close()
    report = verify(tmp_path)
    assert (report.ok, report.segments, report.events, report.messages) == (True, 2, 36, 8)
    path = tmp_path / "42" / "2026-01-01" / f"events{SUFFIXES[compression]}"
    good = path.read_bytes()
    for place in range(0, len(good), len(good) // 7):
        bad = bytearray(good)
        bad[place] ^= 4
        path.write_bytes(bad)
        report = verify(tmp_path)
        assert (report.damaged_count, report.events) == (1, 31)
        assert "checksum" in report.damaged[0].reason
    path.write_bytes(good[:-10])
    assert not verify(tmp_path).ok


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_restarted_sink_knows_what_it_has(maker: Any, tmp_path: Path, compression: str) -> None:
    """The ledger is kept with the lines; a file goes on in the next."""
    sink = sink_at(tmp_path, compression=compression)
    assert isinstance(sink, KeepsLedger)
    first, second = with_events(maker, 3, 0), with_events(maker, 4, 1)
    sink.write(first)
    sink.flush()
    sink.close()
    sink = sink_at(tmp_path, compression=compression)
    ledger = sink.ledger_for(42)
    assert ledger.has(*first.header.batch_id, first.header.checksum)
    assert not ledger.has(*second.header.batch_id, second.header.checksum)
    sink.write(second)
    sink.close()
    names = sorted(path.name for path in tmp_path.rglob(f"*{SUFFIXES[compression]}"))
    assert names == [f"events-1{SUFFIXES[compression]}", f"events{SUFFIXES[compression]}"]
    assert verify(tmp_path).events == 7


def test_lines_that_were_not_acknowledged_are_cut(maker: Any, tmp_path: Path) -> None:
    """What a crash left behind the last commit is gone, not a torn line."""
    sink = sink_at(tmp_path)
    sink.write(with_events(maker, 3, 0))
    sink.flush()
    (path,) = tmp_path.rglob("events.log")
    good, index = path.read_bytes(), Path(f"{path}.idx").read_bytes()
    sink.close()
    path.write_bytes(good + b"[2026-01-01T00:00:00.000Z] [TRACK] device_id=")
    Path(f"{path}.idx").write_bytes(index)  # as if it had not been sealed
    sink = sink_at(tmp_path)
    sink.ledger_for(42)
    sink.close()
    assert path.read_bytes() == good


def test_text_is_many_times_its_buffers_and_misses_none(maker: Any, tmp_path: Path) -> None:
    """A few buffers, whatever comes, long lines too."""
    sink = sink_at(tmp_path, buffer_bytes=65_536)
    for sequence in range(100):
        sink.write(with_events(maker, 300, sequence))
        sink.write(maker.batch([maker.message(filler=b"\n" * 200_000)], sequence=1000 + sequence))
        sink.flush()
    counters = sink.counters()
    assert counters["pool_misses"] == 0
    assert counters["pool_hits"] == 100 * BUFFERS
    assert counters["events"] == 100 * 300 + 100
    assert counters["written_bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.log"))
    sink.close()


def test_batches_without_a_place_are_terminal(maker: Any, tmp_path: Path) -> None:
    """No workspace, or offsets that do not cut the records: for the dead letters."""
    sink = sink_at(tmp_path)
    batch = maker.batch([maker.message(), maker.message()])
    with pytest.raises(TerminalError, match="workspace 0"):
        sink.write(Batch(batch.header._replace(workspace_id=0), batch.records, batch.offsets))
    end = len(batch.records)
    for offsets in ([0, end], [0, 10, end], [0, end + 1, end], [5, 100, end], [0, 2**64 - 9, end]):
        with pytest.raises(TerminalError, match="offsets"):
            sink.write(Batch(batch.header, batch.records, np.array(offsets, np.uint64)))
    sink.flush()
    assert list(tmp_path.rglob("*.log")) == []
    sink.close()


def test_a_workspace_that_fails_is_named_and_tried_again(maker: Any, tmp_path: Path) -> None:
    """The others are durable; the same lines are written when it works."""
    sink = sink_at(tmp_path)
    for workspace_id in (1, 2):
        sink.write(with_events(maker, 2, 0, workspace_id=workspace_id))
    (tmp_path / "2" / "2026-01-01").write_bytes(b"")
    with pytest.raises(PartialFlushError, match="workspace 2"):
        sink.flush()
    (tmp_path / "2" / "2026-01-01").unlink()
    sink.flush()
    sink.close()
    one, two = (tmp_path / w / "2026-01-01" / "00" / "events.log" for w in ("1", "2"))
    assert one.read_bytes() == two.read_bytes() != b""


def test_a_large_segment_gives_way_to_the_next(maker: Any, tmp_path: Path) -> None:
    """By the size of the text that is in it."""
    sink = sink_at(tmp_path, segment_bytes_max=10_000)
    for sequence in range(20):
        sink.write(with_events(maker, 10, sequence))
        sink.flush()
    sink.close()
    sizes = [path.stat().st_size for path in tmp_path.rglob("events*.log")]
    assert len(sizes) > 2
    assert max(sizes) < 12_000
    assert verify(tmp_path).events == 200


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "path"),
        ({"path": "x", "compression": "zstd"}, "compression = 'zstd'"),
        ({"path": "x", "rotation": "weekly"}, "rotation = 'weekly'"),
        ({"path": "x", "buffer_bytes": 100}, "buffer_bytes = 100"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], part: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError) as caught:
        load_config("disk_plaintext", options)
    assert part in str(caught.value)
