"""One client's socket, and the beginning of a frame that has not wholly arrived.

Bytes are read into a buffer that all connections share. Only what is left of an unfinished
frame is kept, and its buffer grows with the bytes that arrive, not with the length that
the client claims.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import LENGTH_BYTES
from cdp_ray_sinks.sources.acked_stream import AckedStream
from cdp_ray_sinks.writers.ack_units import HEAD_BYTES, body_bytes

_PARTIAL_BYTES_FIRST: Final = 64 * 1024
_SPARE_BYTES_MAX: Final = 32 * 1024 * 1024


class Spare:
    """The buffer of the last finished unit, for the next: fresh memory is slow. One thread's."""

    def __init__(self) -> None:
        self._buffer: Bytes | None = None

    def take(self, count: int) -> Bytes | None:
        """A buffer of so many bytes, if it has one as large."""
        buffer = self._buffer
        if buffer is None or len(buffer) < count:
            return None
        self._buffer = None
        return buffer[:count]

    def give(self, buffer: Bytes) -> None:
        """Nobody reads it any more."""
        whole = buffer if buffer.base is None else buffer.base
        if isinstance(whole, np.ndarray) and whole.nbytes <= _SPARE_BYTES_MAX:
            self._buffer = whole


class Connection:
    """A non-blocking socket with the unfinished frame at the end of what it sent."""

    def __init__(
        self, client: socket.socket, peer_ip: Bytes, number: int, monotonic_ms: int
    ) -> None:
        self.socket = client
        self.peer_ip = peer_ip
        self.number = number
        self.received_at_monotonic_ms = monotonic_ms
        self.head_bytes = LENGTH_BYTES
        """What must be there of a frame, or of a unit, to know how long it is."""
        self.is_trusted = False
        """Whether the addresses in its messages are believed."""
        self.acked: AckedStream | None = None
        """Of a connection in ack mode."""
        self.spare: Spare | None = None
        self.received_any = False
        self._has_begun = False
        self.bad_frames = 0
        """How many more of its frames were bad than good, never below 0."""
        self._few = b""
        self._partial: Bytes = np.empty(0, np.uint8)
        self._partial_bytes = 0
        self._frame_bytes = 0

    @property
    def has_buffered(self) -> bool:
        """Whether bytes wait of which the selector knows nothing."""
        return False

    @property
    def unfinished_bytes(self) -> int:
        """Bytes received of a frame that is not whole."""
        return len(self._few) + self._partial_bytes

    @property
    def held_bytes(self) -> int:
        """What the connection's own buffer weighs."""
        return self._partial.nbytes

    def begin(self, *, is_acked: bool) -> None:
        """Its first bytes are here, and say whether it uses ack mode; later calls do nothing."""
        if not self._has_begun:
            self._has_begun = True
            if is_acked:
                self.acked = AckedStream(self.socket)
                self.head_bytes = HEAD_BYTES

    def say_goodbye(self) -> None:
        """Tell a client that looks for it that nothing more is taken; what is sent still is."""
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket, which forgets the keys: what comes is still read.
            socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def has_something_to_say(self) -> bool:
        """Whether bytes, the end of the stream or an error wait to be read."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True

    def receive_into(self, shared: memoryview) -> tuple[int, int]:
        """Read what has arrived, the open frame's bytes first.

        Returns (bytes received, bytes now in `shared`); 0 received is the end of the
        stream. Raises BlockingIOError or another OSError as the socket does. `shared`
        must hold more than `head_bytes`.
        """
        if self._frame_bytes == 0:
            count = len(self._few)
            shared[:count] = self._few
            received = self._receive(shared[count:])
            if received == 0:
                return 0, 0
            self._few = b""
            return received, count + received
        if self._partial_bytes == len(self._partial):
            self._grow()
        room = self._partial.data[self._partial_bytes :]
        is_last = len(self._partial) == self._frame_bytes
        received = self._receive_both(room, shared) if is_last else self._receive(room)
        in_partial = min(received, len(room))
        self._partial_bytes += in_partial
        return received, received - in_partial

    def _receive(self, view: memoryview) -> int:
        return self.socket.recv_into(view)

    def _receive_both(self, room: memoryview, shared: memoryview) -> int:
        """Into the first, and what has no room there into the second."""
        return self.socket.recvmsg_into([room, shared])[0]

    def _grow(self) -> None:
        grown = np.empty(min(self._frame_bytes, 4 * len(self._partial)), np.uint8)
        grown[: self._partial_bytes] = self._partial
        self._partial = grown

    def take_finished(self) -> Bytes | None:
        """The frame, with its length prefix, if the last bytes finished it; else None."""
        if self._frame_bytes == 0 or self._partial_bytes < self._frame_bytes:
            return None
        finished = self._partial
        self.forget()
        return finished

    def keep(self, unfinished: Bytes) -> None:
        """Remember the beginning of a frame; its length was checked before."""
        if len(unfinished) < self.head_bytes:
            self._few = unfinished.tobytes()
            return
        head = unfinished[: self.head_bytes].tobytes()
        following = int.from_bytes(head) if self.acked is None else body_bytes(head)
        self._frame_bytes = self.head_bytes + following
        capacity = min(self._frame_bytes, max(2 * len(unfinished), _PARTIAL_BYTES_FIRST))
        spare = self.spare.take(self._frame_bytes) if self.spare and self.acked else None
        self._partial = np.empty(capacity, np.uint8) if spare is None else spare
        self._partial[: len(unfinished)] = unfinished
        self._partial_bytes = len(unfinished)

    def forget(self) -> None:
        """Let go of the unfinished frame."""
        self._few = b""
        self._partial = np.empty(0, np.uint8)
        self._partial_bytes = self._frame_bytes = 0
