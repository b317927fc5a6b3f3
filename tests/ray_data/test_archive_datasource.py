"""Archives as Datasets: every row once, and no more read than is asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks import CdpDatasink, read_archive
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive_reading import read_batches, read_located
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper

EVENTS = 20_000
LOGS = 2_000


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same events and log entries of three workspaces, plain and compressed."""
    config = load_source_config(
        "synthetic",
        {"events": EVENTS, "shape": "tell", "batch_events": 1000, "log_share": 0.1,
         "workspaces": 3},
    )  # fmt: skip
    keeper = BatchKeeper()
    config.build(SourceContext("made")).run(keeper, threading.Event())
    found = {}
    for compression in ("none", "lz4"):
        found[compression] = tmp_path_factory.mktemp(compression)
        options: Any = {"path": str(found[compression]), "compression": compression}
        sink = DiskBinaryConfig(type="disk_binary", **options).build(SinkContext("archive"))
        sink.open()
        for place, batch in enumerate(keeper.batches):
            sink.write(batch)
            if place % 4 == 3:
                sink.flush()
        sink.close()
    return found


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_all_rows_are_there_once(
    archives: dict[str, Path], compression: str, quiet_ray_data: None
) -> None:
    """Events and log entries together carry each running number once."""
    numbers = RunningNumbers(EVENTS)
    for rows in ("events", "logs"):
        options: Any = {"rows": rows, "columns": ["payload"]}
        found = read_archive(archives[compression], **options)
        for batch in found.iter_batches(batch_format="pyarrow", batch_size=None):
            assert batch.column_names == ["payload"]
            numbers.add(batch["payload"])
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (0, 0, 0)


def test_what_is_asked_for_is_all_that_is_read(
    archives: dict[str, Path], quiet_ray_data: None
) -> None:
    """Workspaces, times, columns and a limit; the rest is not even opened."""
    path = archives["none"]
    everything = read_archive(path).to_pandas()
    assert len(everything) == EVENTS - LOGS
    first = everything["timestamp"].min()
    middle = everything["timestamp"].median()
    part = read_archive(path, start=first.to_pydatetime(), end=middle.isoformat(), time="event")
    assert part.count() == (everything["timestamp"] <= middle.floor("ms")).sum()
    two = read_archive(path, workspaces=[2]).select_columns(["workspace_id", "event_name"])
    frame = two.to_pandas()
    assert list(frame.columns) == ["workspace_id", "event_name"]
    assert set(frame["workspace_id"]) == {2}
    assert len(frame) == (everything["workspace_id"] == 2).sum()
    assert read_archive(path).limit(17).count() == 17
    nothing = read_archive(path, end="2001-01-01")
    assert nothing.count() == 0


def test_rows_go_back_as_they_came(
    archives: dict[str, Path], make_config: Any, tmp_path: Path
) -> None:
    """What is read can be written: with its workspace, time and address."""
    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "a"}})
    made = read_archive(archives["lz4"])
    with Pipeline(config):
        made.write_datasink(CdpDatasink(config.pipeline.name))
    columns = ["workspace_id", "timestamp", "received_at_ms", "source_ip", "payload"]
    before = made.select_columns(columns).to_pandas().sort_values("payload", ignore_index=True)
    again = read_archive(tmp_path / "a", columns=columns).to_pandas()
    again = again.sort_values("payload", ignore_index=True)
    assert before.equals(again[columns])
    assert sum(1 for _ in read_batches([tmp_path / "a"], pytest.fail)) >= 3


def test_damage_ends_a_read_or_is_passed_over(
    archives: dict[str, Path], tmp_path: Path, quiet_ray_data: None
) -> None:
    """By default nothing is left out silently."""
    source = next(archives["none"].rglob("data.bin"))
    content = bytearray(source.read_bytes())
    place = next(
        found.offset + len(found.batch.records) // 2
        for found in read_located([source], pytest.fail)
        if found.batch.header.schema_type == SchemaType.EVENT
    )
    content[place] ^= 1
    (tmp_path / "data.bin").write_bytes(bytes(content))
    (tmp_path / "data.bin.idx").write_bytes(source.with_name("data.bin.idx").read_bytes())
    with pytest.raises(Exception, match="checksum does not hold"):
        read_archive(tmp_path / "data.bin").count()
    left = read_archive(tmp_path / "data.bin", on_damage="skip").count()
    whole = read_archive(source).count()
    assert whole - 1000 <= left < whole


def test_what_cant_be_read_is_said_at_once(archives: dict[str, Path]) -> None:
    """Names and times that mean nothing, and a folder that is not there."""
    with pytest.raises(ConfigError, match="'body' is none of workspace_id"):
        read_archive(archives["none"], columns=["body"])
    with pytest.raises(ConfigError, match="'soon' is no time"):
        read_archive(archives["none"], start="soon")
    with pytest.raises(FileNotFoundError):
        read_archive(archives["none"] / "nowhere")
