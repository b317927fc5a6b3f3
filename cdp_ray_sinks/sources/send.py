"""Send frames to a TCP source over one connection, at a rate if one is given.

The protocol has no acknowledgement: that the peer has read to the end is all it tells.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

import numpy as np

from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.sources.address import address_text
from cdp_ray_sinks.sources.framing import FrameBlock, Places

_TURNS_A_SECOND: Final = 20
"""How finely a rate is kept."""
_WAIT_MS: Final = 100
"""How soon a stop is seen."""
_LEAVE_MS: Final = 2000
"""How long a stop waits for the peer to take the rest of a frame."""


class Rate(NamedTuple):
    """At most so many bytes or events a second."""

    per_s: float
    of: Literal["bytes", "events"]


class Sent(NamedTuple):
    """What was sent. `is_taken`: the receiver closed after reading to the end."""

    frames: int
    events: int
    bytes: int
    is_taken: bool


def connect(host: str, port: int, timeout_s: float = 30) -> socket.socket:
    """A connection to a receiver. Raises TransientError that names it."""
    try:
        return socket.create_connection((host, port), timeout=timeout_s)
    except OSError as error:
        raise TransientError(f"{host}:{port}: {error.strerror or error}") from None


def send_blocks(
    blocks: Iterable[FrameBlock],
    peer: socket.socket,
    *,
    rate: Rate | None = None,
    progress: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    timeout_s: float = 30,
    clock: Clock | None = None,
) -> Sent:
    """Send the blocks' frames; on return the bytes have been read by the peer if `is_taken`.

    `progress` is told each block's `read_bytes` once it is sent. When `stop` is set, sending
    ends with a whole frame, unless the peer does not even take that. Raises TransientError
    if the peer goes away, or takes nothing for `timeout_s`.
    """
    clock = clock or SystemClock()
    connection = _Connection(peer, rate, stop or threading.Event(), timeout_s, clock)
    where = address_text(peer.getpeername())
    try:
        for block in blocks:
            if not connection.send(block):
                break
            if progress is not None:
                progress(block.read_bytes)
        return connection.finish()
    except OSError as error:
        done = f"after {connection.frames} frames of {connection.bytes} bytes"
        raise TransientError(f"{where}: {error.strerror or error} {done}") from None


class _Connection:
    """Counts what the peer's socket took; frames and events only of frames taken whole."""

    def __init__(
        self,
        peer: socket.socket,
        rate: Rate | None,
        stop: threading.Event,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        self._peer = peer
        self._rate = rate
        self._stop = stop
        self._timeout_ms = timeout_s * 1000
        self._clock = clock
        self._started_ms = clock.monotonic_ms()
        self.frames = self.events = self.bytes = 0
        peer.settimeout(_WAIT_MS / 1000)

    def send(self, block: FrameBlock) -> bool:
        """Whether all of it was sent, which is not so after a stop."""
        ends, events = block.ends, np.cumsum(block.events)
        first = 0
        while first < len(ends):
            last = self._piece_end(ends, events, first)
            start = int(ends[first - 1]) if first else 0
            position = self._send_bytes(block.content.data, ends, start, int(ends[last - 1]))
            whole = int(np.searchsorted(ends, position, "right"))
            self.bytes += position - start
            if whole > first:
                self.frames += whole - first
                self.events += int(events[whole - 1] - (events[first - 1] if first else 0))
            self._keep_to_rate()
            if self._stop.is_set():
                return whole == len(ends)
            first = last
        return True

    def finish(self) -> Sent:
        """Say that nothing more comes, and wait for the peer to have read it."""
        if not isinstance(self._peer, ssl.SSLSocket):
            self._peer.shutdown(socket.SHUT_WR)
        self._peer.settimeout(_LEAVE_MS / 1000 if self._stop.is_set() else self._timeout_ms / 1000)
        is_taken = False
        with contextlib.suppress(TimeoutError):
            if isinstance(self._peer, ssl.SSLSocket):
                with contextlib.suppress(ssl.SSLEOFError):  # it closes at our end, as is its right
                    self._peer.unwrap()
                is_taken = True
            else:
                is_taken = self._peer.recv(1) == b""
        return Sent(self.frames, self.events, self.bytes, is_taken)

    def _piece_end(self, ends: Places, events: Places, first: int) -> int:
        """Up to which frame to send before looking at the rate; at least one."""
        if self._rate is None:
            return len(ends)
        done = ends if self._rate.of == "bytes" else events
        before = int(done[first - 1]) if first else 0
        turn = before + self._rate.per_s / _TURNS_A_SECOND
        return max(first + 1, int(np.searchsorted(done, turn, "right")))

    def _send_bytes(self, content: memoryview, ends: Places, position: int, end: int) -> int:
        """Send content[position:end]; how far it came, which is less only after a stop."""
        quiet_since_ms = self._clock.monotonic_ms()
        while position < end:
            quiet_ms = self._clock.monotonic_ms() - quiet_since_ms
            if self._stop.is_set():
                begun = int(np.searchsorted(ends, position))
                is_between = position == 0 or int(ends[begun]) == position
                end = position if is_between else int(ends[begun])
                if is_between or quiet_ms > _LEAVE_MS:
                    break
            try:
                position += self._peer.send(content[position:end])
            except TimeoutError:
                if quiet_ms > self._timeout_ms:
                    raise TimeoutError("the receiver takes nothing") from None
                continue
            quiet_since_ms = self._clock.monotonic_ms()
        return position

    def _keep_to_rate(self) -> None:
        if self._rate is None:
            return
        done = self.bytes if self._rate.of == "bytes" else self.events
        due_ms = self._started_ms + int(done * 1000 // self._rate.per_s)
        while not self._stop.is_set():
            early_ms = due_ms - self._clock.monotonic_ms()
            if early_ms <= 0:
                return
            self._clock.sleep_ms(min(early_ms, _WAIT_MS))
