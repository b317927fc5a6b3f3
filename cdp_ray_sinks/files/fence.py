"""Who may write a workspace's files: one writer at a time, also after a kill or a move.

`{base}/{workspace}/.lane/` is locked (flock on the directory itself, held for the chain's
life) and has one `epoch-<n>` file per writer there has been, the newest two of which are
kept. A writer makes its epoch file before it reads any index. After each sync, and before
it acknowledges, it looks for a newer epoch file; finding one it acknowledges nothing.

On one host holding the lock proves that the last writer is gone. On a shared file system
the lock is not trusted: there a successor leaves the segments of older epochs as they are
until its own epoch file is `lease_s` old, or it is closed itself. It needs a file system on
which a new file is seen by all hosts at once (for NFS: mounted with `lookupcache=none`).
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from errno import EBADF, ENOLCK, ENOSYS, ENOTSUP
from functools import lru_cache
from pathlib import Path
from typing import Final

from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import FencedError, TransientError
from cdp_ray_sinks.files.file_system import (
    error_text,
    make_directories,
    make_one,
    sync_directory,
    transient,
)

LANE_DIRECTORY: Final = ".lane"
_EPOCH_PREFIX: Final = "epoch-"
_EPOCHS_KEPT: Final = 2


class Fence:
    """The right to write one workspace's files. Not thread-safe but for `check`."""

    def __init__(
        self, workspace_directory: Path, clock: Clock, *, shared: bool = False, lease_s: int = 30
    ) -> None:
        self._workspace = str(workspace_directory)  # text, because a Path costs more than a call
        self.directory = f"{workspace_directory}/{LANE_DIRECTORY}"
        self.epoch = 0
        self.is_first = False
        """Whether there was no writer before, and nothing in the workspace's directory."""
        self._clock = clock
        self.is_shared = shared
        self._lease_ms = 1000 * lease_s
        self._taken_at_ms = 0
        self._lock_fd = -1
        self._own = self._next = ""

    def take(self) -> int:
        """Become the writer; returns the new epoch, 1 or higher.

        Raises TransientError if another process of this host is the writer (it names the
        directory and the process), or if the directory can't be written.
        """
        with transient(f"can't take {self.directory}"):
            try:
                is_new = self._made(self._workspace)
            except FileNotFoundError:
                make_directories(Path(self._workspace).parent)
                is_new = self._made(self._workspace)
            self._made(self.directory)
            if not self.is_shared:
                self._lock()
            try:
                self._make_epoch(is_new)
            except OSError:
                self.give_up()
                raise
        self._taken_at_ms = self._clock.monotonic_ms()
        return self.epoch

    def check(self) -> None:
        """Raise FencedError if a newer writer has come, TransientError if it can't be told.

        The newer file is looked for first: it is removed only after this writer's own
        file has been, so that at least one of the two looks finds out.
        """
        try:
            if not _exists(self._next) and _exists(self._own):
                return
        except OSError as error:
            raise TransientError(f"can't look for a newer writer: {error_text(error)}") from error
        raise FencedError(f"{self.directory}: epoch {self.epoch} has a successor")

    def lease_is_over(self) -> bool:
        """Whether segments of older epochs may be cut and sealed."""
        if not self.is_shared:
            return True
        return self._clock.monotonic_ms() - self._taken_at_ms >= self._lease_ms

    def give_up(self) -> None:
        """Let go of the lock; the epoch file stays. Safe to call twice."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _lock(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            holder = holder_of(self.directory)
            raise TransientError(f"{self.directory} is held by process {holder}") from None
        except OSError as error:
            os.close(fd)
            if error.errno in (ENOLCK, ENOTSUP, ENOSYS, EBADF):
                raise TransientError(
                    f"{self.directory} can't be locked ({error_text(error)}); "
                    "on a shared file system set shared_file_system = true"
                ) from error
            raise
        self._lock_fd = fd

    def _make_epoch(self, is_new: bool) -> None:
        """Make this writer's file; in a new directory nobody else's has to be looked for.

        It counts only if it is the newest once it is there: whoever looked long ago may
        have made one that others have had and removed.
        """
        while True:
            epochs = [] if is_new else epochs_in(self.directory)
            epoch = max(epochs, default=0) + 1
            if self._write_epoch(epoch):
                is_alone = is_new and not self.is_shared  # who had been here would hold the lock
                if is_alone or max(epochs_in(self.directory), default=0) == epoch:
                    break
                _unlink(self._file_of(epoch))
            is_new = False
        self.epoch = epoch
        self.is_first = is_new
        self._own, self._next = self._file_of(epoch), self._file_of(epoch + 1)
        for old in sorted(epochs)[: 1 - _EPOCHS_KEPT]:
            _unlink(self._file_of(old))

    def _write_epoch(self, epoch: int) -> bool:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(self._file_of(epoch), flags, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(fd, _holder())
            if self.is_shared:  # on one host no writer outlives the page cache
                os.fsync(fd)
                sync_directory(self.directory)
        finally:
            os.close(fd)
        return True

    def _file_of(self, epoch: int) -> str:
        return f"{self.directory}/{_EPOCH_PREFIX}{epoch}"

    def _made(self, directory: str) -> bool:
        is_new = make_one(directory)
        if is_new and self.is_shared:
            sync_directory(Path(directory).parent)
        return is_new


def _exists(path: str) -> bool:
    """Unlike `os.path.exists`, does not take an unreachable disk for an absent file."""
    try:
        os.stat(path)  # noqa: PTH116 - twice per commit, so without a Path
    except FileNotFoundError:
        return False
    return True


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - the name is no Path


def epochs_in(lane_directory: Path | str) -> list[int]:
    """The epochs that have files there, in no order."""
    names = os.listdir(lane_directory)  # noqa: PTH208 - names are all we need
    ends = [n.removeprefix(_EPOCH_PREFIX) for n in names if n.startswith(_EPOCH_PREFIX)]
    return [int(end) for end in ends if end.isdecimal()]


def holder_of(lane_directory: str) -> str:
    """What the newest epoch's file says: the process and its host."""
    try:
        newest = max(epochs_in(lane_directory), default=0)
        path = Path(lane_directory) / f"{_EPOCH_PREFIX}{newest}"
        return path.read_bytes()[:200].decode(errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


@lru_cache(1)
def _host_name() -> str:
    return socket.gethostname()


def _holder() -> bytes:
    return f"{os.getpid()} on {_host_name()}\n".encode()
