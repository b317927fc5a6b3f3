"""Files as mapped memory, and whether that memory can be touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from errno import EFAULT, EIO
from pathlib import Path
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.errors import CorruptSegmentError

_EHWPOISON: Final = 133
_MADV_POPULATE_READ: Final = 22
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_file(path: Path) -> Bytes:
    """A file's bytes, read-only and mapped; they stay mapped while an array shows them.

    Raises OSError, or CorruptSegmentError if it is no regular file.
    """
    # A pipe in the place of a file must not make the open wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptSegmentError(str(path), 0, "not a regular file")
        if found.st_size == 0:
            return np.empty(0, np.uint8)
        mapping = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    mapping.madvise(mmap.MADV_SEQUENTIAL)
    return np.frombuffer(mapping, np.uint8)


def is_readable(data: Bytes) -> bool:
    """Whether touching these bytes is safe: it would kill the process if they can't be read.

    That is so where the file has become shorter since it was mapped, and where the disk
    fails. A kernel that can't tell (before 5.14) is believed to have them.
    """
    if not len(data):
        return True
    start = data.ctypes.data
    first = start - start % mmap.PAGESIZE
    answer = _libc.madvise(first, start + len(data) - first, _MADV_POPULATE_READ)
    return answer == 0 or ctypes.get_errno() not in (EFAULT, EIO, _EHWPOISON)
