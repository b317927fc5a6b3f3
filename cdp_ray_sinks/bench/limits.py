"""What the machine itself can do with the same bytes, in one process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes

WRITE_BYTES = 8 * 1024 * 1024


def prime(directory: Path, count_bytes: int) -> None:
    """Write and unlink a file of that size, so that the machine's memory is warm.

    Freed memory of a virtual machine goes back to its host within seconds and is slow when
    it is first used again; without this a timed write measures the host. Both sides of a
    comparison are primed right before they run.
    """
    path = directory / ".prime"
    block = bytes(WRITE_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, count_bytes, WRITE_BYTES):
            file.write(block)
    path.unlink()


def raw_write_s(directory: Path, material: Bytes, sync_bytes: int | None) -> float:
    """Seconds to write `material` from private memory in 8 MB writes.

    With `sync_bytes`, fdatasync after each so many bytes and at the end; without, none.
    """
    path = directory / ".raw"
    view = memoryview(material.data)
    began = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    unsynced = 0
    for start in range(0, len(view), WRITE_BYTES):
        unsynced += os.write(descriptor, view[start : start + WRITE_BYTES])
        if sync_bytes is not None and unsynced >= sync_bytes:
            os.fdatasync(descriptor)
            unsynced = 0
    if sync_bytes is not None and unsynced:
        os.fdatasync(descriptor)
    os.close(descriptor)
    elapsed_s = time.perf_counter() - began
    path.unlink()
    return elapsed_s


def memcpy_s(material: Bytes, target: Bytes) -> float:
    """Seconds to copy `material` to reused memory."""
    began = time.perf_counter()
    np.copyto(target, material)
    return time.perf_counter() - began


def file_system_of(directory: Path, mounts: str) -> str:
    """The type of the file system under a directory, from the text of /proc/mounts."""
    resolved = directory.resolve()
    best, found = -1, "unknown"
    for line in mounts.splitlines():
        _, mount_point, kind, *_ = line.split()
        is_under = resolved == Path(mount_point) or Path(mount_point) in resolved.parents
        if is_under and len(mount_point) >= best:
            best, found = len(mount_point), kind
    return found


def joined(parts: Sequence[Bytes]) -> Bytes:
    """The same bytes as the path's, in one private buffer, every page of it touched."""
    return np.concatenate(parts)
