"""The few system calls whose failure decides what may be acknowledged.

They are a protocol, so that a test hands in a disk that fails where it wants.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EINVAL, EIO, ENOSYS, errorcode
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from cdp_ray_sinks.errors import TransientError

Buffer: TypeAlias = memoryview
IOV_MAX: Final = 1024
STEP_BYTES: Final = 8 * 1024 * 1024
"""What a large commit is written by, so that the disk works while the next step is copied.

On the reference machine a 64 MiB commit and its sync: 2.4 GB/s in steps, 1.6 in one piece.
"""
NEW_SUFFIX: Final = ".new"
"""Of a file that does not have its name yet."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


class FileSystem(Protocol):
    """System calls on open descriptors; each raises OSError as the system does."""

    def write_at(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write at most IOV_MAX buffers from `offset` on; returns how many bytes it took."""
        ...

    def append(self, fd: int, data: Buffer) -> int:
        """Write at the end of a file opened with O_APPEND; returns how many bytes it took."""
        ...

    def start_sync(self, fd: int, offset: int, written_bytes: int) -> None:
        """A hint that these bytes will be synced soon; promises nothing, never fails."""
        ...

    def truncate(self, fd: int, offset: int) -> None:
        """Cut the file there."""
        ...

    def sync(self, fd: int) -> None:
        """On return the file's bytes are on the disk."""
        ...

    def sync_all(self, fd: int) -> None:
        """On return all bytes of the file system that holds the file are on the disk."""
        ...

    def sync_directory(self, directory: Path) -> None:
        """On return the names in the directory are on the disk."""
        ...

    def move_new(self, source: Path, target: Path) -> None:
        """Give a file another name, at once; FileExistsError if that is taken."""
        ...


class LocalFileSystem:
    """The system calls themselves."""

    def write_at(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """pwritev(2)."""
        return os.pwritev(fd, buffers, offset)

    def append(self, fd: int, data: Buffer) -> int:
        """write(2)."""
        return os.write(fd, data)

    def start_sync(self, fd: int, offset: int, written_bytes: int) -> None:
        """sync_file_range(2), which takes no error away from the sync that follows."""
        _libc.sync_file_range(
            fd, ctypes.c_int64(offset), ctypes.c_int64(written_bytes), _SYNC_FILE_RANGE_WRITE
        )

    def truncate(self, fd: int, offset: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, offset)

    def sync(self, fd: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(fd)

    def sync_all(self, fd: int) -> None:
        """syncfs(2)."""
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def sync_directory(self, directory: Path) -> None:
        """fsync(2) of a directory."""
        sync_directory(directory)

    def move_new(self, source: Path, target: Path) -> None:
        """renameat2(2); where the file system can't do that, link(2) and unlink(2)."""
        names = os.fsencode(source), os.fsencode(target)
        if _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (EINVAL, ENOSYS):
            raise OSError(number, os.strerror(number), str(source), None, str(target))
        os.link(source, target)
        source.unlink()


def write_fully(
    fs: FileSystem, fd: int, buffers: Sequence[Buffer], offset: int, *, will_sync: bool = False
) -> int:
    """Write all bytes of `buffers` from `offset` on, over short writes; returns the end.

    With `will_sync` the disk is told to begin after each step. Raises OSError; then any
    part of the bytes may be in the file.
    """
    left = deque(view for view in buffers if view.nbytes)
    while left:
        step: list[Buffer] = []
        step_bytes = 0
        while left and len(step) < IOV_MAX and step_bytes < STEP_BYTES:
            view = left.popleft()
            taken = view[: STEP_BYTES - step_bytes]
            if taken.nbytes < view.nbytes:
                left.appendleft(view[taken.nbytes :])
            step.append(taken)
            step_bytes += taken.nbytes
        written = fs.write_at(fd, step, offset)
        if written <= 0:
            raise OSError(EIO, "write took no bytes")
        if will_sync and step_bytes >= STEP_BYTES:
            fs.start_sync(fd, offset, written)
        offset += written
        left.extendleft(reversed(_behind(step, written)))
    return offset


def _behind(views: Sequence[Buffer], taken_bytes: int) -> list[Buffer]:
    """What is left of views of which the first so many bytes are taken."""
    for place, view in enumerate(views):
        if taken_bytes < view.nbytes:
            return [view[taken_bytes:], *views[place + 1 :]]
        taken_bytes -= view.nbytes
    return []


def append_fully(fs: FileSystem, fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the end of the file; raises OSError."""
    left = memoryview(data)
    while left.nbytes:
        taken = fs.append(fd, left)
        if taken <= 0:
            raise OSError(EIO, "write took no bytes")
        left = left[taken:]


def replace_file(fs: FileSystem, path: Path, pieces: Sequence[memoryview]) -> None:
    """Write a file as a whole: it has its name only once it is on the disk. Raises OSError."""
    new = path.with_name(f"{path.name}{NEW_SUFFIX}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = write_fully(fs, fd, pieces, 0)
        if os.fstat(fd).st_size > end:
            fs.truncate(fd, end)
        fs.sync(fd)
    finally:
        os.close(fd)
    new.rename(path)
    fs.sync_directory(path.parent)


def sync_directory(directory: Path | str) -> None:
    """On return the names in the directory are on the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(directory: Path | str, *, sync: bool = True) -> bool:
    """Create a directory and those above it; whether it was not there before.

    The parents of new ones are synced. Raises OSError, also if the name is a file's.
    """
    try:
        os.mkdir(directory)  # noqa: PTH102 - asking first would cost as much as making it
    except FileExistsError:
        if not Path(directory).is_dir():
            raise
        return False
    except FileNotFoundError:
        make_directories(Path(directory).parent, sync=sync)
        return make_directories(directory, sync=sync)
    if sync:
        sync_directory(Path(directory).parent)
    return True


def make_one(directory: str) -> bool:
    """Create a directory; whether it was not there before. Raises OSError; nothing is synced."""
    try:
        os.mkdir(directory)  # noqa: PTH102 - the name is no Path
    except FileExistsError:
        return False
    return True


def make_below(directory: str, path: str) -> bool:
    """Create `path` below a directory, from above, because mostly all of it is missing.

    Whether its last part was not there before. Raises OSError; nothing is synced.
    """
    is_new, made = False, directory
    try:
        for name in path.split("/"):
            made = f"{made}/{name}"
            is_new = make_one(made)
    except FileNotFoundError:  # someone removed what it is to be in
        return make_directories(f"{directory}/{path}", sync=False)
    return is_new


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of an existing file for the block; raises OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def error_text(error: OSError) -> str:
    """A short text with the error's symbolic name, such as `ENOSPC: No space left...`."""
    name = errorcode.get(error.errno or 0, "OSError")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{name}: {error.strerror or error}"


@contextmanager
def transient(what: str) -> Iterator[None]:
    """Turn an OSError of the block into a TransientError that says what was being done."""
    try:
        yield
    except OSError as error:
        raise TransientError(f"{what}: {error_text(error)}") from error
