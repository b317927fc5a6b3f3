"""The forwarder sink: sends messages on to another collector, under that one's key.

To a collector of the plain protocol, which acknowledges nothing: durable is what the other
machine has acknowledged on the TCP level; what its process then makes of it, nobody tells.
With `ack` it is what the other pipeline says is settled there: `forwarder_acked`.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import PartialWriteError, TerminalError, TransientError
from cdp_ray_sinks.sinks.base import Sink, SinkConfig, SinkContext
from cdp_ray_sinks.sinks.forwarder_peer import Peer, PeerOptions, TlsOptions, parse_target
from cdp_ray_sinks.sinks.forwarder_targets import Targets
from cdp_ray_sinks.writers.forward_frames import FrameWrapper

_KEY_BYTES: Final = 16


class ForwarderConfig(SinkConfig):
    """Where to send to, under which key, and how.

    One `target`, or several `targets` of which `balance` picks. `tls` verifies the other side
    by the machine's authorities or `ca_cert`, and shows it `client_cert`. With `ack` the
    receiver is one of ours with `ack`, and each batch lands there once.
    """

    reads_bytes: ClassVar[bool] = True

    type: Literal["forwarder"] = "forwarder"
    on_full: Literal["block", "spool", "drop"] = "spool"
    target: str | None = None
    targets: list[str] = Field(default_factory=list, max_length=64)
    balance: Literal["failover", "round_robin"] = "failover"
    api_key: SecretStr
    ack: bool = False
    connect_timeout_s: int = Field(default=10, ge=1, le=600)
    write_timeout_s: int = Field(default=30, ge=1, le=3600)
    keepalive_s: int = Field(default=30, ge=1, le=3600)
    tls: bool = False
    verify: bool = True
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    server_name: str = ""

    @field_validator("target")
    @classmethod
    def _is_address(cls, target: str | None) -> str | None:
        if target is not None and "${" not in target:
            parse_target(target)
        return target

    @field_validator("targets")
    @classmethod
    def _are_addresses(cls, targets: list[str]) -> list[str]:
        for target in targets:
            cls._is_address(target)
        return targets

    @field_validator("api_key")
    @classmethod
    def _is_key(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if "${" not in text:
            try:
                is_key = len(bytes.fromhex(text)) == _KEY_BYTES
            except ValueError:
                is_key = False
            if not is_key:  # the text is not shown: it may be most of a key
                raise ValueError("not an api key; expected 32 hexadecimal digits")
        return key

    @model_validator(mode="after")
    def _fits_together(self) -> ForwarderConfig:
        if bool(self.targets) == (self.target is not None):
            raise ValueError("write either target or targets")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key: it is of no use without client_cert")
        if not self.tls and any((self.ca_cert, self.client_cert, self.server_name)):
            raise ValueError("ca_cert, client_cert and server_name need tls = true")
        return self

    def warnings(self) -> list[str]:
        """What is told by `validate`."""
        found = []
        if not self.tls:
            found.append("tls = false: the api key and all events go over the network in clear")
        if self.tls and not self.verify:
            found.append("verify = false: whoever is on the way may say that it is the receiver")
        return found

    def place(self) -> str:
        """The addresses."""
        return ", ".join(self.names())

    def names(self) -> list[str]:
        """All targets."""
        return self.targets or [self.target or ""]

    def key(self) -> bytes:
        """The 16 bytes of the key."""
        return bytes.fromhex(self.api_key.get_secret_value())

    def peer_options(self) -> PeerOptions:
        """Of each connection."""
        tls = TlsOptions(
            self.verify, self.ca_cert, self.client_cert, self.client_key, self.server_name
        )
        return PeerOptions(
            self.connect_timeout_s,
            self.write_timeout_s,
            self.keepalive_s,
            tls if self.tls else None,
        )

    def build(self, context: SinkContext) -> Sink:
        """The sink; nothing is connected yet."""
        if self.ack:
            from cdp_ray_sinks.sinks.forwarder_acked import AckedForwarderSink

            return AckedForwarderSink(self, context)
        return ForwarderSink(self, context)


class ForwarderSink:
    """Sends each batch when it is written; a flush waits for the other machine's TCP.

    What a broken connection leaves in doubt since the last flush is sent again, whole.
    """

    def __init__(self, config: ForwarderConfig, context: SinkContext) -> None:
        self._config = config
        self._options = config.peer_options()
        self._tls: ssl.SSLContext | None = None
        self._targets = Targets(
            config.names(), config.balance, self._connect, context.clock, random.random
        )
        self._wrapper: FrameWrapper | None = None
        self._unsettled: dict[Peer, list[Batch]] = {}
        self._again: list[Batch] = []
        self._counters: Counter[str] = Counter()

    def open(self) -> None:
        """Look at key and certificates; connections are made when there is something to send."""
        self._wrapper = FrameWrapper(self._config.key())
        self._tls = self._options.tls.context() if self._options.tls else None

    def _connect(self, target: str) -> Peer:
        return Peer(target, self._options, self._tls)

    def write(self, batch: Batch) -> None:
        """Send it. Raises TransientError while no target takes it, TerminalError if its offsets
        don't fit, PartialWriteError that names messages which can't be sent."""
        if self._wrapper is None:
            raise TerminalError("the sink is not open")
        if not batch.offsets_fit():
            raise TerminalError(f"batch {batch.header.batch_id}: its offsets do not fit its bytes")
        self._resend()
        refused = self._send(batch)
        if refused:
            places, reasons = zip(*refused, strict=True)
            raise PartialWriteError(batch.header.batch_id, places, reasons)

    def _send(self, batch: Batch) -> list[tuple[int, str]]:
        """Send one batch to a target; the messages of it that can't be."""
        assert self._wrapper is not None
        peer = self._targets.pick()
        wrapped = self._wrapper.wrap(batch, is_sliceable=peer.is_sliceable)
        try:
            if peer not in self._unsettled:
                peer.check()  # it may have left while nothing was sent
            peer.send(wrapped.pieces)
        except TransientError as error:
            self._lost(peer, error)
            raise
        self._unsettled.setdefault(peer, []).append(batch)
        self._counters["messages_forwarded"] += wrapped.frame_count
        self._counters["bytes_sent"] += wrapped.frame_bytes
        return list(wrapped.refused)

    def _lost(self, peer: Peer, error: TransientError) -> None:
        self._again = [*self._unsettled.pop(peer, []), *self._again]
        self._targets.failed(peer, error)
        self._counters["connections_lost"] += 1

    def _resend(self) -> None:
        while self._again:
            self._send(self._again[0])
            self._again.pop(0)
            self._counters["batches_sent_again"] += 1

    def flush(self) -> None:
        """On return the machine of a target has acknowledged every byte.

        Raises TransientError when a connection broke before that; the next flush sends again
        what had gone through it.
        """
        self._resend()
        for peer in list(self._unsettled):
            try:
                peer.settle()
            except TransientError as error:
                self._lost(peer, error)
                raise
            self._targets.succeeded(peer)
            del self._unsettled[peer]

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Nothing depends on time."""

    def counters(self) -> dict[str, int]:
        """What was sent, and how often a connection was made or lost."""
        return dict(self._counters, connects=self._targets.connects)

    def close(self) -> None:
        """Flush, disconnect. Safe to call twice."""
        try:
            if self._wrapper is not None:
                self.flush()
        finally:
            self._wrapper = None
            self._targets.close()
