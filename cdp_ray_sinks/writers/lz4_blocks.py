"""Compress one LZ4 block from a buffer into a buffer.

The `lz4` package returns new bytes for each block: memory that the system has to find and
clear again and again, and a copy under the interpreter's lock. The library it carries can
write into a buffer that is there already, which takes a quarter less of a processor's time,
so that is asked directly; where its functions can't be found the package's are used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

import lz4.block
import numpy as np

from cdp_ray_sinks.batch.batch import Bytes

CompressBlock: TypeAlias = Callable[[memoryview, Bytes], int]
"""Compresses a block into a buffer of at least `bound_bytes`; returns how many bytes it made."""

HC_LEVEL_MIN: Final = 3
_LIBRARY_MIN: Final = 10_700
"""From version 1.7 on all functions used here are in the library."""


def bound_bytes(block_bytes: int) -> int:
    """The most that a block of so many bytes can become."""
    return block_bytes + block_bytes // 255 + 16


def compress_block(level: int, library: Any | None = None) -> CompressBlock:
    """A function for one thread at a time; `level` as the lz4 tool's."""
    library = library or find_library()
    if library is None:
        return _by_package(level)
    is_high = level >= HC_LEVEL_MIN
    state_bytes = library.LZ4_sizeofStateHC() if is_high else library.LZ4_sizeofState()
    state = np.empty(state_bytes // 8 + 1, np.uint64)
    function = library.LZ4_compress_HC_extStateHC if is_high else library.LZ4_compress_fast_extState
    factor = level if is_high else max(1, 1 - level)

    def compress(block: memoryview, out: Bytes) -> int:
        if len(out) < bound_bytes(block.nbytes):
            raise ValueError(f"{len(out)} bytes are too few for a block of {block.nbytes}")
        source = np.frombuffer(block, np.uint8)
        made = function(
            state.ctypes.data,
            source.ctypes.data,
            out.ctypes.data,
            block.nbytes,
            len(out),
            factor,
        )
        if made <= 0:
            raise ValueError(f"LZ4 could not compress a block of {block.nbytes} bytes")
        return int(made)

    return compress


@cache
def find_library() -> Any | None:
    """The C library inside of, or linked to, the `lz4` package; None if it is out of reach."""
    found = find_spec("lz4.block._block")
    try:
        library = ctypes.CDLL(str(found.origin if found else None))
        if library.LZ4_versionNumber() < _LIBRARY_MIN:
            return None
        places = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 3
        library.LZ4_compress_fast_extState.argtypes = places
        library.LZ4_compress_HC_extStateHC.argtypes = places
        library.LZ4_sizeofState()
        library.LZ4_sizeofStateHC()
    except (OSError, AttributeError):
        return None
    return library


def _by_package(level: int) -> CompressBlock:
    options: dict[str, Any] = {"mode": "fast", "acceleration": max(1, 1 - level)}
    if level >= HC_LEVEL_MIN:
        options = {"mode": "high_compression", "compression": level}

    def compress(block: memoryview, out: Bytes) -> int:
        made = np.frombuffer(lz4.block.compress(block, store_size=False, **options), np.uint8)
        out[: len(made)] = made
        return len(made)

    return compress
