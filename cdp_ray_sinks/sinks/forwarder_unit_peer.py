"""A connection to a receiver in ack mode: units go out, answers come back in the same order."""

from __future__ import annotations

import ssl
from collections import deque
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sinks.forwarder_peer import Peer, PeerOptions
from cdp_ray_sinks.writers.ack_units import (
    ANSWER_BYTES,
    ANSWERS,
    SETTLED,
    UnitHead,
    decode_answer,
    encode_preamble,
    encode_unit_head,
)
from cdp_ray_sinks.writers.forward_frames import Wrapped

_READ_BYTES: Final = 4096


class PlainReceiverError(ConfigError):
    """The other side closes when it is greeted in ack mode: it has none."""


class UnitPeer:
    """Batches that it has sent wait in `unsettled`; raises TransientError that names the target."""

    def __init__(self, target: str, options: PeerOptions, tls: ssl.SSLContext | None) -> None:
        """Connect and greet. Raises PlainReceiverError if the other side closes at that."""
        self.target = target
        self.unsettled: deque[Batch] = deque()
        self._peer = Peer(target, options, tls)
        self._stream: tuple[bytes, int] = bytes(16), 0
        self._settled = 0
        self._answers = b""
        try:
            self._greet(options)
        except BaseException:
            self._peer.close()
            raise

    def _greet(self, options: PeerOptions) -> None:
        self._peer.send([memoryview(encode_preamble(*self._stream))])
        while len(self._answers) < ANSWER_BYTES:
            said = self._peer.receive(_READ_BYTES, options.connect_timeout_s)
            if said is None:
                raise TransientError(f"{self.target}: does not answer")
            if not said:
                raise PlainReceiverError(
                    f"{self.target}: the receiver closes when it is greeted in ack mode; it has "
                    "to be one of ours with ack = true, or ack = false here"
                )
            self._answers += said
        self._take_answers()

    def send(self, batch: Batch, wrapped: Wrapped, low: int) -> None:
        """Send one batch as a unit; what it says of those before is taken meanwhile."""
        header = batch.header
        head = UnitHead(
            header.sequence, low, header.received_at_ms, wrapped.frame_bytes, wrapped.frame_count
        )
        first = encode_unit_head(head)
        if self._stream != (header.producer, header.epoch):
            self._stream = header.producer, header.epoch
            first = encode_preamble(*self._stream) + first
        self.unsettled.append(batch)
        self._peer.send([memoryview(first), *wrapped.pieces])

    @property
    def is_sliceable(self) -> bool:
        """Whether many pieces can be sent at once."""
        return self._peer.is_sliceable

    def take_settled(self, wait_s: float) -> list[Batch]:
        """Those that are settled over there, since this was asked last."""
        said = self._peer.receive(_READ_BYTES, wait_s)
        if said is None:
            return []
        if not said:
            raise TransientError(f"{self.target}: closed by the receiver")
        self._answers += said
        return self._take_answers()

    def _take_answers(self) -> list[Batch]:
        done: list[Batch] = []
        while len(self._answers) >= ANSWER_BYTES:
            code, count = decode_answer(self._answers[:ANSWER_BYTES])
            self._answers = self._answers[ANSWER_BYTES:]
            if not 0 <= count - self._settled <= len(self.unsettled):
                raise TransientError(f"{self.target}: answers for units that it was not sent")
            done += [self.unsettled.popleft() for _ in range(count - self._settled)]
            self._settled = count
            if code != SETTLED:
                reason = ANSWERS.get(code, f"code {code}")
                # What was settled before is known when it is sent again.
                raise TransientError(f"{self.target}: refused: {reason}")
        return done

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        self._peer.close()
