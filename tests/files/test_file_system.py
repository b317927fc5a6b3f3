"""Writing all of something over short writes, and making directories that last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files import file_system
from cdp_ray_sinks.files.file_system import (
    IOV_MAX,
    STEP_BYTES,
    LocalFileSystem,
    append_fully,
    make_below,
    make_directories,
    transient,
    write_fully,
)


class MeanFileSystem(LocalFileSystem):
    """Takes as few bytes at once as it is told to, into memory."""

    def __init__(self, takes: Sequence[int]) -> None:
        self.takes = list(takes)
        self.held = bytearray()
        self.started_bytes = 0

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        assert len(buffers) <= IOV_MAX
        assert offset == len(self.held)
        joined = b"".join(buffers)
        taken = joined[: self.takes.pop() if self.takes else None]
        self.held += taken
        return len(taken)

    def append(self, fd: int, data: memoryview) -> int:
        return self.write_at(fd, [data], len(self.held))

    def start_sync(self, fd: int, offset: int, written_bytes: int) -> None:
        self.started_bytes += written_bytes


@given(st.lists(st.binary(max_size=50), max_size=30), st.lists(st.integers(1, 60), max_size=40))
def test_short_writes_lose_and_repeat_nothing(parts: list[bytes], takes: list[int]) -> None:
    """Whatever a write takes, the file ends up with all bytes in their order."""
    fs = MeanFileSystem(takes)
    end = write_fully(fs, 0, [memoryview(part) for part in parts], 0)
    assert bytes(fs.held) == b"".join(parts)
    assert end == len(fs.held)
    fs = MeanFileSystem(takes)
    append_fully(fs, 0, b"".join(parts))
    assert bytes(fs.held) == b"".join(parts)


def test_more_buffers_than_one_call_takes_are_written() -> None:
    """The system's limit on gathered buffers is kept."""
    fs = MeanFileSystem([])
    write_fully(fs, 0, [memoryview(b"ab")] * (2 * IOV_MAX + 1), 0)
    assert bytes(fs.held) == b"ab" * (2 * IOV_MAX + 1)


def test_a_large_commit_tells_the_disk_to_begin() -> None:
    """Whole steps are announced to the disk, only where a sync will follow."""
    held = memoryview(bytes(2 * STEP_BYTES + 5))
    fs = MeanFileSystem([])
    write_fully(fs, 0, [held], 0, will_sync=True)
    assert fs.started_bytes == 2 * STEP_BYTES
    quiet = MeanFileSystem([])
    write_fully(quiet, 0, [held], 0)
    assert quiet.started_bytes == 0


def test_a_write_that_takes_nothing_is_an_error() -> None:
    """No endless loop on a device that takes no bytes."""
    with pytest.raises(OSError, match="no bytes"):
        write_fully(MeanFileSystem([0]), 0, [memoryview(b"x")], 0)


def test_the_local_system_calls_do_what_they_say(tmp_path: Path) -> None:
    """Write at an offset, append, cut, sync one file and all: on a real file."""
    fs = LocalFileSystem()
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        assert write_fully(fs, fd, [memoryview(b"hello"), memoryview(b" world")], 3) == 14
        fs.start_sync(fd, 0, 14)
        fs.truncate(fd, 8)
        fs.sync(fd)
        fs.sync_all(fd)
    finally:
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == b"\0\0\0hello"
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.sync_all(fd)


def test_directories_are_made_with_those_above(tmp_path: Path) -> None:
    """Missing parents too; again is no error; a file in the way is."""
    make_directories(tmp_path / "a" / "b" / "c")
    make_directories(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        make_directories(tmp_path / "file" / "d")


def test_an_error_says_what_was_done_to_which_path(tmp_path: Path) -> None:
    """System errors become TransientError with their symbolic name and the file."""
    with (
        pytest.raises(TransientError, match=r"can't look: .*absent: ENOENT"),
        transient("can't look"),
    ):
        os.stat(tmp_path / "absent")  # noqa: PTH116 - the call under the error
    assert file_system.error_text(OSError("odd")) == "OSError: odd"


def test_what_is_made_below_a_directory_heals_what_was_removed(tmp_path: Path) -> None:
    """Whether the last part is new is told; a file in the way is an error."""
    base = str(tmp_path / "7")
    assert make_below(base, "2026-01-01/07")
    assert not make_below(base, "2026-01-01/07")
    assert make_below(base, "2026-01-01/08")
    shutil.rmtree(base)
    assert make_below(base, "2026-01-01/08")
    assert (tmp_path / "7/2026-01-01/08").is_dir()
    (tmp_path / "7/2026-01-02").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_below(base, "2026-01-02/00")
