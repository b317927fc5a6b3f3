"""A disk that fails where a test says so, and one that ends the process in the middle."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from cdp_ray_sinks.files.file_system import LocalFileSystem, opened


class FailingFileSystem(LocalFileSystem):
    """The real disk, except where a test says so: by operation and file name."""

    def __init__(self) -> None:
        self.fails: Callable[[str, str], int] = lambda operation, name: 0
        self.calls: list[tuple[str, str]] = []
        self.bytes_at_once_max: int | None = None

    def _visit(self, operation: str, fd: int) -> None:
        self._meet(operation, Path(f"/proc/self/fd/{fd}").readlink().name)

    def _meet(self, operation: str, name: str) -> None:
        self.calls.append((operation, name))
        number = self.fails(operation, name)
        if number:
            raise OSError(number, os.strerror(number))

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._visit("write", fd)
        if self.bytes_at_once_max is not None:
            buffers = [memoryview(b"".join(buffers))[: self.bytes_at_once_max]]
        return super().write_at(fd, buffers, offset)

    def append(self, fd: int, data: memoryview) -> int:
        try:
            self._visit("append", fd)
        except OSError:
            super().append(fd, data[: len(data) // 2])  # as a disk that fills up would
            raise
        return super().append(fd, data[: self.bytes_at_once_max])

    def truncate(self, fd: int, offset: int) -> None:
        self._visit("truncate", fd)
        super().truncate(fd, offset)

    def sync(self, fd: int) -> None:
        self._visit("sync", fd)
        super().sync(fd)

    def sync_all(self, fd: int) -> None:
        self._visit("sync_all", fd)
        super().sync_all(fd)

    def sync_directory(self, directory: Path) -> None:
        with opened(directory) as fd:
            self._visit("sync_directory", fd)
        super().sync_directory(directory)

    def move_new(self, source: Path, target: Path) -> None:
        self._meet("move", target.name)
        super().move_new(source, target)

    def fail_once(self, operation: str, suffix: str, number: int = errno.EIO) -> None:
        """The next such call on a file whose name ends so fails."""
        left = [number]

        def fails(called: str, name: str) -> int:
            return left.pop() if left and called == operation and name.endswith(suffix) else 0

        self.fails = fails


class Crash(BaseException):
    """Where a process ends: nothing in it goes on."""


class CrashingFileSystem(FailingFileSystem):
    """Ends the process in its `crash_at`-th call, half of which may still be done.

    What the process has written is there afterwards, so nothing need be synced.
    """

    def __init__(self, crash_at: int | None) -> None:
        super().__init__()
        self.crashed = threading.Event()
        self._crash_at = crash_at
        self._lock = threading.Lock()

    def _meet(self, operation: str, name: str) -> None:
        with self._lock:
            self.calls.append((operation, name))
            if self.crashed.is_set() or len(self.calls) - 1 == self._crash_at:
                self.crashed.set()
                raise Crash(f"{operation} of {name}")

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        was_crashed = self.crashed.is_set()
        try:
            return super().write_at(fd, buffers, offset)
        except Crash:
            if not was_crashed:
                joined = b"".join(buffers)
                os.pwrite(fd, joined[: len(joined) // 2], offset)
            raise

    def append(self, fd: int, data: memoryview) -> int:
        was_crashed = self.crashed.is_set()
        try:
            return super().append(fd, data)
        except Crash:
            if not was_crashed:
                os.write(fd, data[: len(data) // 2])
            raise

    def sync(self, fd: int) -> None:
        self._visit("sync", fd)

    def sync_all(self, fd: int) -> None:
        self._visit("sync_all", fd)

    def sync_directory(self, directory: Path) -> None:
        self._meet("sync_directory", directory.name)
