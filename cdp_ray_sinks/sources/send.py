"""Play a file of raw frames to a TCP source."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.frames import INDEX_FULL, INDEX_OVERSIZE, index_frames
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError, TransientError

_PIECE_BYTES: Final = 256 * 1024
_FRAMES_AT_ONCE: Final = 65_536


class Sent(NamedTuple):
    """What was sent. `is_taken`: the receiver closed after reading to the end."""

    frames: int
    bytes: int
    is_taken: bool


def check_frames(path: Path, content: Bytes) -> int:
    """How many frames the content of `path` holds; there must be nothing else in it.

    Raises CorruptSegmentError naming the offset of what is not a frame.
    """
    starts, lengths = np.empty(_FRAMES_AT_ONCE, np.int64), np.empty(_FRAMES_AT_ONCE, np.int64)
    content = readonly(content)
    total, position, status = 0, 0, INDEX_FULL
    while status == INDEX_FULL:
        count, position, status = index_frames(
            content, position, len(content), FRAME_BYTES_MAX, starts, lengths
        )
        total += int(count)
    if position < len(content):
        reason = "a frame cut off by the end of the file"
        if status == INDEX_OVERSIZE:
            reason = f"a length above {FRAME_BYTES_MAX} bytes: not a file of frames"
        raise CorruptSegmentError(str(path), int(position), reason)
    return total


def _content_of(path: Path) -> Bytes:
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None


def send_frames(
    path: Path,
    host: str,
    port: int,
    *,
    bytes_per_s_max: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float = 30,
    clock: Clock | None = None,
) -> Sent:
    """Send the file's frames as they are, keys included, over one connection.

    `progress` is told bytes sent and bytes in all. The protocol has no acknowledgement:
    on return the bytes have been read by the peer if `is_taken`, else perhaps not all.
    Raises ConfigError if the file can't be read, CorruptSegmentError if it is not frames,
    TransientError if the peer can't be reached or goes away.
    """
    clock = clock or SystemClock()
    content = _content_of(path)
    frame_count = check_frames(path, content)
    sent_bytes = 0
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as peer:
            started_ms = clock.monotonic_ms()
            while sent_bytes < len(content):
                piece = content[sent_bytes : sent_bytes + _PIECE_BYTES]
                peer.sendall(piece.data)
                sent_bytes += len(piece)
                if progress is not None:
                    progress(sent_bytes, len(content))
                if bytes_per_s_max is not None:
                    due_ms = started_ms + sent_bytes * 1000 // bytes_per_s_max
                    clock.sleep_ms(max(due_ms - clock.monotonic_ms(), 0))
            peer.shutdown(socket.SHUT_WR)
            is_taken = False
            with contextlib.suppress(TimeoutError):
                is_taken = peer.recv(1) == b""
    except OSError as error:
        done = f" after {sent_bytes} of {len(content)} bytes" if sent_bytes else ""
        raise TransientError(f"{host}:{port}: {error.strerror or error}{done}") from None
    return Sent(frame_count, sent_bytes, is_taken)
