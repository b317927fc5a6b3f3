"""The node's object store as this process maps it."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

POPULATE_BYTES_MAX = 8 * 1024 * 1024 * 1024
"""A larger store is left to fault page by page: populating also allocates it."""

_MADV_POPULATE_READ = 22


def store_mappings(maps: str) -> list[tuple[int, int]]:
    """(address, bytes) of the store's mappings, from the text of /proc/PID/maps."""
    found = []
    for line in maps.splitlines():
        if "/dev/shm/plasma" in line or "/plasma" in line.rsplit(maxsplit=1)[-1]:
            start, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
            found.append((start, end - start))
    return found


def populate_mapping() -> float:
    """Fault the store's mapping in at once; returns the seconds it took.

    Pages that fault one by one during a write halve its speed. Does nothing where the
    kernel or the mapping does not allow it.
    """
    began = time.monotonic()
    libc = ctypes.CDLL(None, use_errno=True)
    for address, mapped_bytes in store_mappings(Path("/proc/self/maps").read_text()):
        if mapped_bytes <= POPULATE_BYTES_MAX:
            libc.madvise(
                ctypes.c_void_p(address), ctypes.c_size_t(mapped_bytes), _MADV_POPULATE_READ
            )
    return time.monotonic() - began
