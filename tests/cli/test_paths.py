"""Commands pointed at text say so; and how far a reading has come is known for all files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from cdp_ray_sinks.cli.archive_reading import check_paths
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.cli.verify import verify_archive
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive_reading import read_located
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_plaintext import DiskPlaintextConfig
from cdp_ray_sinks.sinks.parquet import ParquetConfig
from cdp_ray_sinks.testing import FakeClock, numbered_batch, numbered_events


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[..., Path]:
    """Writes an archive of lines as the disk_plaintext sink does."""

    def write(**options: Any) -> Path:
        path = tmp_path / "text"
        sink = DiskPlaintextConfig(path=path, **options).build(SinkContext("text"))
        sink.open()
        for number in range(3):
            sink.write(numbered_batch(number))
        sink.flush()
        sink.close()
        return path

    return write


@pytest.mark.parametrize(
    ("options", "tool"), [({}, "tail -F"), ({"compression": "lz4"}, "lz4 -dc")]
)
def test_text_is_told_apart_from_records(
    write_text: Callable[..., Path], options: dict[str, Any], tool: str
) -> None:
    """A folder of it and a single file: what it is, and what reads it."""
    path = write_text(**options)
    (file,) = (found for found in path.rglob("*") if found.name.endswith((".log", ".log.lz4")))
    with pytest.raises(ConfigError, match=rf"{path}: an archive of text.*{tool} {file}"):
        check_paths([path])
    with pytest.raises(ConfigError, match=rf"{file}: lines of text.*{tool} {file}"):
        check_paths([file])
    for command in (["cat"], ["cat", "--follow"], ["scan"], ["send", "--to", "127.0.0.1:1"]):
        done = subprocess.run(
            [sys.executable, "-m", "cdp_ray_sinks", *command, str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert tool in done.stderr


def test_frames_are_told_apart_from_records(maker: Any, tmp_path: Path) -> None:
    """They are for `send`; a segment is not taken for them, nor is what is damaged."""
    path = tmp_path / "frames.bin"
    message = maker.message()
    path.write_bytes(len(message).to_bytes(4, "big") + message)
    with pytest.raises(ConfigError, match="frames as clients send them; send plays them"):
        check_paths([path])
    check_paths([path], takes_frames=True)
    path.write_bytes(maker.record(message, maker.start_ms))
    check_paths([path])
    path.write_bytes(b"neither of the two")
    check_paths([path])


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_verify_proves_text_too(
    write_text: Callable[..., Path], compression: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder and a file of it; a flipped byte is found."""
    path = write_text(compression=compression)
    assert verify_archive(path, as_json=False) == 0
    assert "ok, 1 segments, 3 messages" in capsys.readouterr().out
    (file,) = (found for found in path.rglob("*") if found.name.endswith((".log", ".log.lz4")))
    assert verify_archive(file, as_json=False) == 0
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert verify_archive(path, as_json=False) == 1
    assert f"damaged: {file}" in capsys.readouterr().out


def test_records_beside_text_are_read(maker: Any, tmp_path: Path) -> None:
    """Only a folder without any records is called text; an empty one is neither."""
    check_paths([tmp_path])
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "events.log").touch()
    with pytest.raises(ConfigError, match="an archive of text"):
        check_paths([tmp_path])
    maker.segment(tmp_path, [[maker.batch([maker.message()])]])
    check_paths([tmp_path])


@pytest.mark.parametrize("name", ["data.bin", "data.bin.lz4", "foreign.bin.lz4"])
@pytest.mark.parametrize("with_index", [True, False])
def test_how_far_a_reading_has_come_is_known(
    maker: Any, tmp_path: Path, name: str, with_index: bool
) -> None:
    """In bytes of the files as they are stored, rising to nearly all, whatever is left out."""
    for workspace_id in (1, 2):
        commits = [
            [maker.batch([maker.message(filler=b"%d" % n) for n in range(300)], sequence=place)]
            for place in range(10)
        ]
        path = maker.segment(tmp_path, commits, name=name, workspace_id=workspace_id)
        if name == "foreign.bin.lz4":
            content = lz4.frame.decompress(path.read_bytes())
            path.write_bytes(lz4.frame.compress(content, block_size=lz4.frame.BLOCKSIZE_MAX64KB))
        if not with_index or name == "foreign.bin.lz4":
            path.with_name(name + ".idx").unlink()
    sizes = [found.stat().st_size for found in sorted(tmp_path.rglob(name))]
    for selection in (Selection(), Selection(workspaces=frozenset({2}))):
        wanted_sizes = sizes if selection.workspaces is None else sizes[1:]
        seen = [found.read_bytes for found in read_located([tmp_path], print, selection)]
        assert seen == sorted(seen)
        assert 0.8 * sum(wanted_sizes) <= seen[-1] <= sum(wanted_sizes)
        has_places = with_index and name != "foreign.bin.lz4"
        assert len(set(seen)) == len(wanted_sizes) * (10 if has_places else 1)


def test_no_bar_where_nobody_sees_it() -> None:
    """Not into a file, nor beside JSON."""
    with byte_bar("scanning") as advance:
        assert advance is None
    with byte_bar("scanning", is_quiet=True) as advance:
        assert advance is None


def test_tables_are_verified_and_asked_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`cat` and `scan` name the command for them; `verify` proves file and journal."""
    sink = ParquetConfig(path=tmp_path).build(SinkContext("tables", FakeClock()))
    sink.open()
    sink.write(numbered_events(0, messages=3))
    sink.flush()
    for _ in range(2):
        with pytest.raises(ConfigError, match="cdp-sinks query"):
            check_paths([tmp_path])
        assert verify_archive(tmp_path, as_json=True) == 0
        assert json.loads(capsys.readouterr().out)["events"] == 3
        sink.close()
    (path,) = tmp_path.rglob("*.parquet")
    with pytest.raises(ConfigError, match="cdp-sinks query"):
        check_paths([path])
    path.write_bytes(path.read_bytes()[:-1])
    assert verify_archive(path, as_json=False) == 1
    assert "not a whole Parquet file" in capsys.readouterr().out
