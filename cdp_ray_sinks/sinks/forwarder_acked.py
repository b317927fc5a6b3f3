"""The forwarder in ack mode: a batch is durable when the other pipeline has settled it.

Nothing has to be remembered here: a unit goes under the id of its batch, so one that is sent
again, on another connection or by another process, is known over there.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import Sequence
from typing import Final

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.batch.enums import METADATA_BYTES
from cdp_ray_sinks.errors import PartialWriteError, TerminalError, TransientError
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.forwarder import ForwarderConfig
from cdp_ray_sinks.sinks.forwarder_targets import Targets
from cdp_ray_sinks.sinks.forwarder_unit_peer import PlainReceiverError, UnitPeer
from cdp_ray_sinks.writers.ack_units import UNIT_BYTES_MAX
from cdp_ray_sinks.writers.forward_frames import FrameWrapper, Wrapped

_LOOK_MS: Final = 2
_LOOK_MS_MAX: Final = 20
_SOON_MS: Final = 100
_FLUSH_LOOK_S: Final = 0.05


class AckedForwarderSink:
    """Sends each batch when it is written; what is settled is asked for between writes."""

    def __init__(self, config: ForwarderConfig, context: SinkContext) -> None:
        self._config = config
        self._clock = context.clock
        self._options = config.peer_options()
        self._tls: ssl.SSLContext | None = None
        self._targets = Targets(
            config.names(), config.balance, self._connect, context.clock, random.random
        )
        self._wrapper: FrameWrapper | None = None
        self._ledger = Ledger()
        self._again: list[Batch] = []
        self._done: list[BatchId] = []
        self._is_opening = False
        self._moved_at_ms = 0
        self._counters: Counter[str] = Counter()
        self.notes: Sequence[str] = ()
        """Which targets could not be had when it was opened."""

    # -- life -------------------------------------------------------------------------

    def open(self) -> None:
        """Look at key and certificates, and greet a target.

        Raises ConfigError if that has no ack mode. One that is away is tried again later.
        """
        self._wrapper = FrameWrapper(self._config.key())
        self._tls = self._options.tls.context() if self._options.tls else None
        self._is_opening = True
        try:
            self._targets.pick()
        except PlainReceiverError:
            self._targets.close()
            raise
        except TransientError as error:
            self.notes = [f"not to be had yet: {error}"]
        finally:
            self._is_opening = False

    def _connect(self, target: str) -> UnitPeer:
        try:
            return UnitPeer(target, self._options, self._tls)
        except PlainReceiverError as error:
            if self._is_opening:
                raise
            raise TransientError(str(error)) from None

    def close(self) -> None:
        """Flush, disconnect. Safe to call twice."""
        try:
            if self._wrapper is not None:
                self.flush()
        finally:
            self._wrapper = None
            self._targets.close()

    # -- data -------------------------------------------------------------------------

    def ledger_for(self, workspace_id: int) -> Ledger:
        """What is settled over there, as far as this process knows."""
        return self._ledger

    def write(self, batch: Batch) -> None:
        """Send it. Raises TransientError while no target takes it, TerminalError for what can't
        be a unit, PartialWriteError that names messages which can't be sent."""
        if self._wrapper is None:
            raise TerminalError("the sink is not open")
        header = batch.header
        if not batch.offsets_fit():
            raise TerminalError(f"batch {header.batch_id}: its offsets do not fit its bytes")
        if header.record_bytes + 3 * METADATA_BYTES * header.message_count > UNIT_BYTES_MAX:
            raise TerminalError(f"batch {header.batch_id}: larger than a unit of ack mode may be")
        self._resend()
        refused = self._send(batch)
        if refused:
            places, reasons = zip(*refused, strict=True)
            raise PartialWriteError(header.batch_id, places, reasons)

    def _send(self, batch: Batch) -> Sequence[tuple[int, str]]:
        """Send one batch to a target; the messages of it that can't be."""
        peer = self._targets.pick()
        assert self._wrapper is not None
        wrapped = self._wrapper.wrap(batch, is_sliceable=peer.is_sliceable)
        if wrapped.frame_count:
            self._send_to(peer, batch, wrapped)
        else:
            self._settled([batch])
        return wrapped.refused

    def _send_to(self, peer: UnitPeer, batch: Batch, wrapped: Wrapped) -> None:
        header = batch.header
        if not self._in_flight():
            self._moved_at_ms = self._clock.monotonic_ms()
        try:
            self._settled(peer.take_settled(0))
            low = min(self._ledger.low_of(header.producer, header.epoch), header.sequence)
            peer.send(batch, wrapped, low)
        except TransientError as error:
            if peer.unsettled and peer.unsettled[-1] is batch:
                peer.unsettled.pop()
            self._lost(peer, error)
            raise
        self._counters["messages_forwarded"] += wrapped.frame_count
        self._counters["bytes_sent"] += wrapped.frame_bytes

    def _lost(self, peer: UnitPeer, error: TransientError) -> None:
        self._again = [*peer.unsettled, *self._again]
        peer.unsettled.clear()
        self._targets.failed(peer, error)
        self._counters["connections_lost"] += 1

    def _resend(self) -> None:
        while self._again:
            self._send(self._again[0])
            self._again.pop(0)
            self._counters["batches_sent_again"] += 1

    def _settled(self, batches: Sequence[Batch]) -> None:
        now_ms = self._clock.now_ms()
        for batch in batches:
            h = batch.header
            self._ledger.add(h.producer, h.epoch, h.sequence, h.checksum, now_ms)
            self._done.append(h.batch_id)
        if batches:
            self._moved_at_ms = self._clock.monotonic_ms()

    def _look(self, wait_s: float) -> None:
        """Take what the targets say. Raises TransientError when one is lost, or stands still."""
        still_ms = self._clock.monotonic_ms() - self._moved_at_ms
        for peer in self._targets.connected():
            try:
                self._settled(peer.take_settled(wait_s if peer.unsettled else 0))
                if peer.unsettled and still_ms > 1000 * self._config.write_timeout_s:
                    seconds = self._config.write_timeout_s
                    raise TransientError(f"{peer.target}: settles nothing for {seconds} s")
            except TransientError as error:
                self._lost(peer, error)
                raise
            self._targets.succeeded(peer)

    def _in_flight(self) -> int:
        return sum(len(peer.unsettled) for peer in self._targets.connected())

    def committed(self) -> Sequence[BatchId]:
        """What is settled over there by now; raises TransientError when a connection is lost."""
        self._look(0)
        self._resend()
        done, self._done = self._done, []
        return done

    def flush(self) -> None:
        """On return all accepted batches are settled over there.

        Raises TransientError when a connection is lost before that; the next flush sends again
        what it had not answered for.
        """
        self._resend()
        while self._in_flight():
            self._look(_FLUSH_LOOK_S)
        self._done.clear()

    def due_in_ms(self, now_ms: int) -> int:
        """Puts a flush off while answers come: batches are settled without it."""
        if self._again or not self._in_flight():
            return 0
        is_soon = self._clock.monotonic_ms() - self._moved_at_ms < _SOON_MS
        return _LOOK_MS if is_soon else _LOOK_MS_MAX

    def tick(self, now_ms: int) -> None:
        """Notice when a connection that waits is closed: the next batch meets a new one."""
        if not self._in_flight():
            try:
                self._look(0)
            except TransientError:
                self._counters["connections_lost_idle"] += 1

    def counters(self) -> dict[str, int]:
        """What was sent, and how often a connection was made or lost."""
        return dict(self._counters, connects=self._targets.connects, unsettled=self._in_flight())
