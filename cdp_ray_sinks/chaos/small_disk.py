"""Disks that fail: a small file system of our own, filled up, and folders nobody may write in."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_IMMUTABLE: Final = 0x10
_BALLAST: Final = ".ballast"


class SmallDisk:
    """A file system of its own mounted at `folder`: a file of ours on a loop device, or memory.

    Where neither may be mounted `is_mounted` is False, and the folder is a plain one.
    """

    def __init__(self, folder: Path, held_bytes: int) -> None:
        self.folder = folder
        self._image = folder.with_name(folder.name + ".img")
        folder.mkdir(parents=True)
        self.is_mounted = self._mount_image(held_bytes) or self._mount_memory(held_bytes)

    def _mount_image(self, held_bytes: int) -> bool:
        with self._image.open("wb") as image:
            image.truncate(held_bytes)
        made = _works(["mkfs.ext4", "-q", "-F", "-m", "0", str(self._image)])
        if made and _works(["mount", "-o", "loop", str(self._image), str(self.folder)]):
            return True
        self._image.unlink()
        return False

    def _mount_memory(self, held_bytes: int) -> bool:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if held_bytes > pages // 4:
            return False
        options = f"size={held_bytes}"
        return _works(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)])

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a block is free; then there is again what was."""
        ballast = self.folder / _BALLAST
        fd = os.open(ballast, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            held_bytes, step_bytes = 0, 1 << 30
            while step_bytes >= 4096:
                try:
                    os.posix_fallocate(fd, held_bytes, step_bytes)
                    held_bytes += step_bytes
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step_bytes //= 2
            yield
        finally:
            os.close(fd)
            ballast.unlink()

    def close(self, is_kept: bool) -> None:
        """Unmount; what it holds stays in the folder if it is to be kept."""
        if not self.is_mounted:
            return
        copy = self.folder.with_name(self.folder.name + ".kept")
        if is_kept:
            shutil.copytree(self.folder, copy, ignore=shutil.ignore_patterns("lost+found"))
        _works(["umount", "-l", str(self.folder)])
        self.is_mounted = False
        if is_kept:
            self.folder.rmdir()
            copy.rename(self.folder)
        self._image.unlink(missing_ok=True)


@contextmanager
def read_only(base: Path) -> Iterator[bool]:
    """No file is made in the folders below `base` nor taken away; False if that can't be had.

    By their mode, or for root, whom no mode stops, by making them immutable.
    """
    folders = [base, *(path for path in base.rglob("*") if path.is_dir())]
    before: dict[Path, int] = {}
    try:
        with suppress(OSError):
            for folder in folders:
                before[folder] = _forbid(folder)
        yield len(before) == len(folders)
    finally:
        for folder, was in before.items():
            _allow(folder, was)


def _forbid(folder: Path) -> int:
    """Make it so; what it was."""
    if os.geteuid():
        mode = folder.stat().st_mode & 0o7777
        folder.chmod(mode & ~0o222)
        return mode
    flags = _flags(folder)
    _set_flags(folder, flags | _IMMUTABLE)
    return flags


def _allow(folder: Path, before: int) -> None:
    if os.geteuid():
        folder.chmod(before)
    else:
        _set_flags(folder, before)


def _flags(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY)
    try:
        found: int = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0]
    finally:
        os.close(fd)
    return found


def _set_flags(folder: Path, flags: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags))
    finally:
        os.close(fd)


def _works(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, check=False, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
