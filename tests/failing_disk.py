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


class UnsyncedDisk(FailingFileSystem):
    """The real disk, and what of it is left when the power goes: what was synced.

    What a failed sync should have written is not written by a later one, as on Linux.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, bytearray] = {}
        self._dirty: dict[int, list[tuple[int, int]]] = {}
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()

    def write_at(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        written = super().write_at(fd, buffers, offset)
        self._note(fd, offset, written)
        return written

    def append(self, fd: int, data: memoryview) -> int:
        written = super().append(fd, data)
        self._note(fd, os.fstat(fd).st_size - written, written)
        return written

    def truncate(self, fd: int, offset: int) -> None:
        super().truncate(fd, offset)
        with self._lock:
            del self._kept.get(os.fstat(fd).st_ino, bytearray())[offset:]

    def sync(self, fd: int) -> None:
        file = os.fstat(fd).st_ino
        try:
            super().sync(fd)
        finally:
            with self._lock:
                ranges = self._dirty.pop(file, [])
        with self._lock:
            kept = self._kept.setdefault(file, bytearray())
            for start, end in ranges:
                kept.extend(bytes(max(0, end - len(kept))))
                kept[start:end] = os.pread(self._held[file], end - start, start)

    def cut_power(self, directory: Path, *, but: str = "\0") -> None:
        """Leave of the files there what was synced; all of those whose names end with `but`."""
        for path in directory.rglob("*"):
            file = path.stat().st_ino
            if file in self._held and not path.name.endswith(but):
                path.write_bytes(self._kept.get(file, b""))
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _note(self, fd: int, offset: int, written: int) -> None:
        file = os.fstat(fd).st_ino
        with self._lock:
            if file not in self._held:  # so that no other file gets its number
                self._held[file] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            self._dirty.setdefault(file, []).append((offset, offset + written))
