"""Send frames in ack mode: in units, each sent again until the receiver has settled it."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sources.framing import FrameBlock
from cdp_ray_sinks.sources.send import Rate, Sent
from cdp_ray_sinks.writers.ack_units import (
    ANSWER_BYTES,
    ANSWERS,
    SETTLED,
    UnitHead,
    decode_answer,
    encode_preamble,
    encode_unit_head,
)

UNSETTLED_MAX: Final = 16
"""Units under way; a block has 4 MiB or one large frame, and copies are kept."""
_AGAIN_MS: Final = 500
_WAIT_MS: Final = 100


@dataclass(frozen=True, slots=True)
class _Unit:
    sequence: int
    content: bytes
    frames: int
    events: int
    frame_bytes: int
    read_bytes: int


def send_units(
    blocks: Iterable[FrameBlock],
    connect: Callable[[], socket.socket],
    *,
    rate: Rate | None = None,
    progress: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    timeout_s: float = 30,
    clock: Clock | None = None,
) -> Sent:
    """Send each block as a unit; counted is what the receiver has settled, `is_taken` if all is.

    A connection that breaks is made anew, and what was not answered is sent again under its
    sequence. Each block has to be of one workspace and schema. When `stop` is set, no more is
    sent. Raises ConfigError if the receiver has no ack mode, TransientError if it refuses a
    unit, or settles nothing for `timeout_s`.
    """
    sender = _UnitSender(connect, progress, stop or threading.Event(), timeout_s, clock)
    started_ms = sender.clock.monotonic_ms()
    is_whole, sent = True, 0
    for sequence, block in enumerate(blocks):
        if sender.stop.is_set():
            is_whole = False
            break
        unit = _unit_of(sequence, block, sender.clock.now_ms())
        sender.send(unit)
        if rate is not None:
            sent += unit.frame_bytes if rate.of == "bytes" else unit.events
            sender.wait_until_ms(started_ms + int(sent * 1000 // rate.per_s))
    sender.settle()
    return Sent(sender.frames, sender.events, sender.frame_bytes, is_whole)


def _unit_of(sequence: int, block: FrameBlock, now_ms: int) -> _Unit:
    end, frames = int(block.ends[-1]), len(block.ends)
    head = encode_unit_head(UnitHead(sequence, 0, now_ms, end, frames))
    content = head + block.content[:end].tobytes()
    return _Unit(sequence, content, frames, int(block.events.sum()), end, block.read_bytes)


class _UnitSender:
    """One connection at a time; units that are not answered for are kept."""

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        progress: Callable[[int], None] | None,
        stop: threading.Event,
        timeout_s: float,
        clock: Clock | None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.stop = stop
        self.frames = self.events = self.frame_bytes = 0
        self._connect = connect
        self._progress = progress
        self._timeout_ms = int(1000 * timeout_s)
        self._preamble = encode_preamble(os.urandom(16), self.clock.now_ms())
        self._unsettled: deque[_Unit] = deque()
        self._peer: socket.socket | None = None
        self._has_greeted = False
        self._answers = b""
        self._settled = 0
        self._moved_ms = self.clock.monotonic_ms()

    def send(self, unit: _Unit) -> None:
        """On return the socket has taken it, or is about to be made anew."""
        self._unsettled.append(unit)
        if self._peer is None:
            self._reconnect()
        else:
            try:
                self._peer.sendall(unit.content)
            except OSError:
                self._reconnect()
        while len(self._unsettled) > UNSETTLED_MAX:
            self._read(_WAIT_MS)
        self._read(0)

    def settle(self) -> None:
        """Wait until all that was sent is settled; let go of the connection."""
        while self._unsettled:
            self._read(_WAIT_MS)
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def wait_until_ms(self, due_ms: int) -> None:
        """Keep to a rate, and read answers meanwhile."""
        while not self.stop.is_set() and (early_ms := due_ms - self.clock.monotonic_ms()) > 0:
            self.clock.sleep_ms(min(early_ms, _WAIT_MS))
            self._read(0)

    def _reconnect(self) -> None:
        """Connect, greet, and send again what is not settled."""
        while True:
            if self._peer is not None:
                self._peer.close()
                self._peer = None
            try:
                self._peer = self._connect()
                self._greet(self._peer)
                for unit in self._unsettled:
                    self._peer.sendall(unit.content)
            except (OSError, TransientError) as error:
                self._check_time(str(error))
                self.clock.sleep_ms(_AGAIN_MS)
            else:
                return

    def _greet(self, peer: socket.socket) -> None:
        self._answers, self._settled = b"", 0
        peer.settimeout(self._timeout_ms / 1000)
        peer.sendall(self._preamble)
        said = peer.recv(ANSWER_BYTES)
        if not said and self._has_greeted:
            raise ConnectionError("closed by the receiver")
        if not said:
            raise ConfigError("the receiver has no ack mode: ack = true is missing at its source")
        self._has_greeted = True
        self._take(said)

    def _read(self, wait_ms: int) -> None:
        peer = self._peer
        if peer is None or not self._unsettled:
            return
        try:
            peer.settimeout(wait_ms / 1000)
            said = peer.recv(4096)
        except (TimeoutError, BlockingIOError):
            self._check_time("the receiver settles nothing")
            return
        except OSError as error:
            if "want" not in type(error).__name__.lower():
                self._reconnect()
            return
        finally:
            if self._peer is peer:
                peer.settimeout(self._timeout_ms / 1000)
        if said:
            self._take(said)
        else:
            self._reconnect()

    def _take(self, said: bytes) -> None:
        self._answers += said
        while len(self._answers) >= ANSWER_BYTES:
            code, count = decode_answer(self._answers[:ANSWER_BYTES])
            self._answers = self._answers[ANSWER_BYTES:]
            for _ in range(min(count - self._settled, len(self._unsettled))):
                unit = self._unsettled.popleft()
                self.frames += unit.frames
                self.events += unit.events
                self.frame_bytes += unit.frame_bytes
                self._moved_ms = self.clock.monotonic_ms()
                if self._progress is not None:
                    self._progress(unit.read_bytes)
            self._settled = count
            if code != SETTLED:
                self._refused(code)

    def _refused(self, code: int) -> None:
        reason = ANSWERS.get(code, f"code {code}")
        raise TransientError(f"the receiver refuses: {reason}, after {self.frames} frames settled")

    def _check_time(self, why: str) -> None:
        if self.stop.is_set() or self.clock.monotonic_ms() - self._moved_ms > self._timeout_ms:
            raise TransientError(f"{why}, after {self.frames} frames settled")
