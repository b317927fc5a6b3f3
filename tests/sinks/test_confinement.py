"""Whatever clients send, files land below the sink's directory and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.builder import batch_of_messages
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.batch.enums import RECORD_PREFIX_BYTES, EventType
from cdp_ray_sinks.errors import ConfigError, PartialWriteError, TerminalError
from cdp_ray_sinks.files.partition import partition_of
from cdp_ray_sinks.placeholders import resolved
from cdp_ray_sinks.sinks.base import Sink, SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import RECEIVED_AT_MS, TEST_PRODUCER, numbered_batch

HOSTILE = ["../../../out", "/etc/passwd", "..", "a\0b", "x\n../y", "${HOME}", "~", "C:\\x", "-"]
WORKSPACES = (1, 7, 2**32 - 1)
PLACE = re.compile(
    r"(\.journal/)?(1|7|4294967295)/"
    r"(\.lane/.*|2026-01-01/00/(data|events|logs|metrics|traces|snapshots|raw)[-0-9]*\.[a-z0-9.]+)"
)


def hostile_batches() -> list[Batch]:
    """Names and payloads like paths, noise, and numbers of schemas that there are not."""
    random = np.random.default_rng(6)
    records, offsets = encode_events(
        [EventType.TRACK] * len(HOSTILE),
        [RECEIVED_AT_MS] * len(HOSTILE),
        names=pa.array(HOSTILE),
        payloads=pa.array([text.encode() for text in HOSTILE]),
        events_per_message=1,
    )
    cuts = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    valid = [records[start + RECORD_PREFIX_BYTES : end].tobytes() for start, end in cuts]
    noise = [text.encode() for text in HOSTILE] + [random.bytes(100) for _ in range(5)]
    return [
        batch_of_messages(
            [*valid, *noise],
            workspace_id=workspace_id,
            schema_type=schema_type,
            received_at_ms=RECEIVED_AT_MS,
            source_id="../../source",
        )
        for workspace_id in WORKSPACES
        for schema_type in (1, 2, 3, 4, 5, 0, 6, 255)
    ]


def written(sink: Sink, batches: list[Batch]) -> None:
    """Open, write, close; messages that a sink refuses are refused."""
    sink.open()
    for sequence, batch in enumerate(batches):
        header = batch.header._replace(producer=TEST_PRODUCER, epoch=1, sequence=sequence)
        try:
            sink.write(Batch(header, batch.records, batch.offsets))
        except PartialWriteError:
            continue
        except TerminalError:
            continue
    sink.flush()
    sink.close()


@pytest.mark.parametrize(
    "options",
    [
        {"type": "disk_binary"},
        {"type": "disk_binary", "compression": "lz4"},
        {"type": "disk_plaintext"},
        {"type": "parquet"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_no_content_of_a_message_decides_a_path(options: Mapping[str, str], tmp_path: Path) -> None:
    """Hostile names, payloads, sources and schemas: only numbers and dates are in paths."""
    base = tmp_path / "above" / "base"
    config = load_config(options["type"], {**options, "path": base})
    written(config.build(SinkContext("kept")), hostile_batches())
    files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert len(files) >= 2 * len(WORKSPACES)
    for path in files:
        assert PLACE.fullmatch(str(path.relative_to(base))), path


@given(
    st.integers(-(2**65), 2**65), st.integers(-(2**63), 2**63), st.sampled_from(["hourly", "daily"])
)
def test_a_partition_is_below_its_base_or_refused(
    workspace_id: int, received_at_ms: int, rotation: str
) -> None:
    """For any numbers: digits, a date, maybe an hour."""
    base = Path("/base")
    try:
        partition = partition_of(workspace_id, received_at_ms, rotation)  # type: ignore[arg-type]
    except TerminalError:
        return
    parts = partition.directory(base).relative_to(base).parts
    assert re.fullmatch(r"[1-9]\d{0,9}/\d{4}-\d\d-\d\d(/\d\d)?", "/".join(parts))


@pytest.mark.parametrize("name", ["lock", "epoch-1"])
def test_a_link_in_the_place_of_a_lane_file_is_not_followed(name: str, tmp_path: Path) -> None:
    """What it leads to stays as it is, and is not made."""
    lane = tmp_path / "base" / "1" / ".lane"
    lane.mkdir(parents=True)
    for target in (tmp_path / "precious", tmp_path / "absent"):
        (tmp_path / "precious").write_text("precious")
        (lane / name).unlink(missing_ok=True)
        (lane / name).symlink_to(target)
        sink = DiskBinaryConfig(path=tmp_path / "base").build(SinkContext("kept"))
        written(sink, [numbered_batch(1)])
        assert (tmp_path / "precious").read_text() == "precious"
        assert not (tmp_path / "absent").exists()


def test_a_link_in_the_place_of_a_segment_is_not_followed(tmp_path: Path) -> None:
    """The next free name is taken."""
    folder = tmp_path / "base" / "1" / "2026-01-01" / "00"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (folder / "data.bin").symlink_to(tmp_path / "precious")
    (folder / "data.bin.idx").symlink_to(tmp_path / "absent")
    sink = DiskBinaryConfig(path=tmp_path / "base").build(SinkContext("kept"))
    written(sink, [numbered_batch(1)])
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "absent").exists()
    assert (folder / "data-1.bin").stat().st_size == 100_000


@pytest.mark.parametrize("value", ["..", "../other", "a/../../b", "a/.."])
def test_a_placeholder_can_not_lead_out_of_a_path(value: str, tmp_path: Path) -> None:
    """What a variable puts into a path has no `..` in it; the path itself may."""
    config = DiskBinaryConfig(path=f"{tmp_path}/x/${{PLACE}}/archive")
    with pytest.raises(ConfigError, match=r"sinks\.a\.path.*PLACE.*'\.\.'"):
        resolved(config, {"PLACE": value}, "sinks.a")
    assert str(resolved(config, {"PLACE": "eu..west"}, "sinks.a").path).endswith("eu..west/archive")
    own = DiskBinaryConfig(path=f"{tmp_path}/x/../${{PLACE}}")
    assert resolved(own, {"PLACE": "b"}, "sinks.a").path == f"{tmp_path}/x/../b"
