"""Files on their way to be published: written where no reader looks, then moved there whole.

They lie in a directory of their own on the same file system. A new writer of the workspace
empties it first: a writer that was fenced while it slept then has nothing to move.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.files.file_system import FileSystem, make_directories
from cdp_ray_sinks.files.partition import segment_name
from cdp_ray_sinks.files.segment_path import SegmentName

BUFFER_BYTES: Final = 1024 * 1024
DIRECTORY: Final = ".in_progress"
SUFFIX: Final = ".inprogress"
PLACES_MAX: Final = 100_000


class _RawFile(io.RawIOBase):
    """Writes from the begin on, by the file system that may be one that fails."""

    def __init__(self, fs: FileSystem, fd: int) -> None:
        super().__init__()
        self._fs = fs
        self._fd = fd
        self._end = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._end

    def write(self, data: Any) -> int:
        written = self._fs.write_at(self._fd, [memoryview(data).cast("B")], self._end)
        self._end += written
        return written


class InProgressFile:
    """One file from made to published or removed. `out` is where its bytes are written."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        """Make the file and its directory; raises OSError."""
        make_directories(path.parent)
        self.path = path
        self.published_at: Path | None = None
        self._fs = fs
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o644)
        self.out = io.BufferedWriter(_RawFile(fs, self._fd), BUFFER_BYTES)

    def publish(
        self, targets: Iterator[Path], is_same: Callable[[Path], bool], check: Callable[[], None]
    ) -> tuple[Path, int]:
        """Sync it, move it to the first target that is free, sync that directory.

        Returns where it is and how many bytes it has. It is not moved if `is_same` says that a
        target in the way holds the same; that one is returned then. `check` is called before.
        Raises OSError and what `check` raises. If `published_at` is set then it is there already,
        and `settle` may be tried again; else the file is to be removed.
        """
        if not self.out.closed:
            self.out.flush()
        self._fs.sync(self._fd)
        written_bytes = os.fstat(self._fd).st_size
        for target in targets:
            make_directories(target.parent)
            check()
            try:
                self._fs.move_new(self.path, target)
            except FileExistsError:
                if not is_same(target):
                    continue
                self.path.unlink(missing_ok=True)
            self.published_at = target
            self.settle()
            return target, written_bytes
        raise FileExistsError(f"{self.path}: no free name to publish it under")

    def settle(self) -> None:
        """On return the name under which it is published is on the disk. Raises OSError."""
        assert self.published_at is not None
        self._fs.sync_directory(self.published_at.parent)
        self.close()

    def close(self) -> None:
        """Let go of the descriptor. Safe to call twice."""
        if self._fd >= 0:
            with suppress(OSError, ValueError):
                self.out.close()
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete it, as far as that goes; not what is published."""
        self.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def places(directory: Path, name: SegmentName, suffix: str) -> Iterator[Path]:
    """The names under which the segment of that name may be published, the wanted one first."""
    for place in range(name.place, name.place + PLACES_MAX):
        yield directory / segment_name(name.stream, place, suffix)


def remove_leftovers(directory: Path) -> int:
    """Remove what earlier writers left unfinished; returns how many. Raises OSError."""
    count = 0
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):  # noqa: PTH208 - names are all we need
            if name.endswith(SUFFIX):
                (directory / name).unlink(missing_ok=True)
                count += 1
    return count
