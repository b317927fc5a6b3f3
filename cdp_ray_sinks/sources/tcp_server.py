"""The TCP source at work: takes length-prefixed messages from many clients.

One thread. A read, whatever it brings, costs a few kernel calls: index the frames, check
the envelopes, copy the good ones into the open batch of their workspace and schema. When
the taker blocks, the thread does, the sockets fill up and TCP holds the clients back.
The protocol has no acknowledgement: what a client sent may be lost with this process, unless
it uses ack mode, see `unit_taker`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.kernels.frames import INDEX_FULL, INDEX_OVERSIZE
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.sources.acked_connections import AckedConnections
from cdp_ray_sinks.sources.address import TrustedPeers, address_text, ip_bytes, open_listener
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import BatchTaker, SourceContext, TakesNamed
from cdp_ray_sinks.sources.collector import BatchCollector
from cdp_ray_sinks.sources.connection import Connection, Spare
from cdp_ray_sinks.sources.connections import Connections
from cdp_ray_sinks.sources.key_watch import KeyFileWatch
from cdp_ray_sinks.sources.tcp import TcpConfig
from cdp_ray_sinks.sources.tls_connection import TlsConnection, server_context
from cdp_ray_sinks.sources.unit_taker import UnitTaker
from cdp_ray_sinks.writers.ack_units import MAGIC

_BACKLOG: Final = 1024
_STOP_CHECK_MS: Final = 50
_ACCEPTS_PER_TURN_MAX: Final = 64
_ACCEPT_PAUSE_MS: Final = 500
_SILENCE_CHECK_MS: Final = 1000
_ANSWER_CHECK_MS: Final = 2
"""How soon a forwarder in ack mode is told that its units are settled."""
_LEAVE_CHECK_MS: Final = 20
_QUIET_MS: Final = 200
_COUNTERS: Final = (
    "events", "messages", "bytes", "errors", "batches", "messages_malformed",
    "messages_undecodable", "auth_failures", "frames_oversize", "frames_torn",
    "connections_active", "connections_total", "connections_refused", "connections_evicted",
    "connections_broken", "connections_cut", "connections_silent", "accept_errors",
    "tls_errors", "units", "units_refused",
)  # fmt: skip
_ERRORS: Final = (
    "messages_malformed", "auth_failures", "frames_oversize", "frames_torn",
    "connections_refused", "connections_evicted", "connections_cut", "accept_errors",
    "tls_errors", "units_refused",
)  # fmt: skip


class TcpSource:
    """Listens from `run` on until `stop`; `ready` is set once clients can connect."""

    def __init__(self, config: TcpConfig, context: SourceContext) -> None:
        self._config = config
        self._clock = context.clock
        self._name = context.name
        self._keys: ApiKeys | None = None
        self._key_watch: KeyFileWatch | None = None
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._read_buffer: Bytes = np.empty(config.read_buffer_bytes, np.uint8)
        self._shared = self._read_buffer.data
        self._run = MessageRun(4096)
        self._connections = Connections(config)
        self._trusted = TrustedPeers(config.forwarding_peers if config.forwarding else None)
        self._tls: ssl.SSLContext | None = None
        self._acked: AckedConnections | None = None
        self._spare = Spare()
        self._buffered: set[Connection] = set()
        self._silence_checked_at_ms = context.clock.monotonic_ms()
        self._is_accepting_paused = False
        self._accept_again_at_ms = 0
        self.ready = threading.Event()
        self.address = ""
        """`host:port` that is listened on, known once `ready` is set."""

    def counters(self) -> dict[str, int]:
        """What happened so far; `errors` sums what was refused or lost."""
        counters = dict(self._counters)
        counters["errors"] = sum(counters[name] for name in _ERRORS)
        counters["port"] = int(self.address.rpartition(":")[2] or 0)
        watch = self._key_watch
        counters["api_key_reloads"] = watch.reloads if watch else 0
        counters["api_key_reload_errors"] = watch.reload_errors if watch else 0
        counters["errors"] += counters["api_key_reload_errors"]
        return counters

    def problem(self) -> str:
        """What is wrong with the key file; empty while all is well."""
        return self._key_watch.problem if self._key_watch else ""

    def progress(self) -> tuple[int, int | None]:
        """Events taken; how many will come nobody knows."""
        return self._counters["events"], None

    def reload_api_keys(self) -> None:
        """Read the key file again, from any thread; ConfigError keeps the old keys."""
        if self._keys is not None:
            self._keys.reload()

    def run(self, taker: BatchTaker, stop: threading.Event) -> None:
        """Listen until `stop` is set; then take what has arrived, hand it over, close.

        Who is connected then is told that nothing more is taken, and what was on its way is.

        The key file is read again when it changes: a key that is no longer in it is refused
        from the next frame on, on every connection. Raises ConfigError for a bad key file
        or an address that can't be listened on.
        """
        config = self._config
        if config.tls_cert is not None:
            self._tls = server_context(config.tls_cert, config.tls_key, config.tls_client_ca)
        self._keys = ApiKeys.load(config.api_keys)
        self._key_watch = KeyFileWatch(self._keys, config.api_keys_check_ms)
        listener = open_listener(config.listen, _BACKLOG)
        collector = BatchCollector(
            taker,
            self._name,
            self._clock,
            batch_bytes_max=config.batch_bytes_max,
            batch_age_ms=config.batch_age_ms,
            builder_bytes_total_max=config.builder_bytes_total_max,
        )
        if config.ack and isinstance(taker, TakesNamed):
            units = UnitTaker(taker, self._name, self._clock, self._keys, config.frame_bytes_max)
            self._acked = AckedConnections(units, self._counters)
        with (
            contextlib.closing(listener),
            selectors.DefaultSelector() as selector,
            self._key_watch,
        ):
            selector.register(listener, selectors.EVENT_READ)
            self.address = address_text(listener.getsockname())
            self.ready.set()
            try:
                while not stop.is_set():
                    self._turn(selector, listener, collector, self._wait_ms(collector))
                self._take_what_arrived(selector, listener, collector)
                collector.flush()
                self._answer_last(selector)
            finally:
                self._counters["batches"] = collector.batches + self._counters["units"]
                for connection in self._connections:
                    self._close(selector, connection)

    def _wait_ms(self, collector: BatchCollector) -> int:
        if self._buffered:
            return 0
        due_in_ms = collector.due_in_ms()
        most_ms = _ANSWER_CHECK_MS if self._acked else _STOP_CHECK_MS
        return most_ms if due_in_ms is None else min(due_in_ms, most_ms)

    def _turn(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        collector: BatchCollector,
        wait_ms: int,
    ) -> int:
        """Wait, read each socket that has something once; returns how many had."""
        if self._is_accepting_paused and self._clock.monotonic_ms() >= self._accept_again_at_ms:
            self._is_accepting_paused = False
            selector.register(listener, selectors.EVENT_READ)
        selected = [key.data for key, _ in selector.select(wait_ms / 1000)]
        ready: list[Connection | None] = [*selected, *(self._buffered - set(selected))]
        for connection in ready:
            if connection is None:
                self._accept(selector, listener)
            # Otherwise reading another one has just evicted it, for memory.
            elif connection in self._connections:
                self._read(selector, connection, collector)
                collector.hand_over_due()
        collector.hand_over_due()
        self._counters["batches"] = collector.batches + self._counters["units"]
        self._answer(selector)
        self._close_silent(selector)
        return len(ready)

    def _answer(self, selector: selectors.BaseSelector) -> None:
        """Tell who uses ack mode what is settled by now."""
        for connection in self._acked.settle() if self._acked else ():
            self._close(selector, connection)

    def _answer_last(self, selector: selectors.BaseSelector) -> None:
        """Wait a moment for what is under way in ack mode; the rest will be sent again."""
        until_ms = self._clock.monotonic_ms() + self._config.stop_read_ms_max
        while self._acked and self._clock.monotonic_ms() < until_ms:
            self._answer(selector)
            time.sleep(_ANSWER_CHECK_MS / 1000)

    def _take_what_arrived(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        collector: BatchCollector,
    ) -> None:
        """Read what the kernel holds and what was under way, for a bounded time.

        Clients are told that we are leaving, as far as they look; what comes until they close,
        or are quiet for a moment between two frames, is taken.
        """
        until_ms = self._clock.monotonic_ms() + self._config.stop_read_ms_max
        while self._turn(selector, listener, collector, 0):
            if self._clock.monotonic_ms() >= until_ms:
                return
        with contextlib.suppress(KeyError, ValueError):
            selector.unregister(listener)
        listener.close()
        self._is_accepting_paused = False
        for connection in self._connections:
            if connection.acked is None:
                connection.say_goodbye()
        quiet_ms = self._clock.monotonic_ms() + min(_QUIET_MS, self._config.stop_read_ms_max)
        while len(self._connections) and (now_ms := self._clock.monotonic_ms()) < until_ms:
            is_torn = any(connection.unfinished_bytes for connection in self._connections)
            if now_ms >= quiet_ms and not is_torn:
                return
            if self._turn(selector, listener, collector, _LEAVE_CHECK_MS):
                quiet_ms = self._clock.monotonic_ms() + _QUIET_MS

    def _accept(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN_MAX):
            try:
                client, name = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # out of descriptors, or the client is gone: try again later
                self._counters["accept_errors"] += 1
                self._accept_again_at_ms = self._clock.monotonic_ms() + _ACCEPT_PAUSE_MS
                self._is_accepting_paused = True
                selector.unregister(listener)
                return
            self._counters["connections_total"] += 1
            peer_ip = ip_bytes(name[0])
            if not self._connections.has_room_for(peer_ip.tobytes()):
                self._counters["connections_refused"] += 1
                client.close()
                continue
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = self._connection(client, peer_ip)
            self._connections.add(connection)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._counters["connections_active"] = len(self._connections)

    def _connection(self, client: socket.socket, peer_ip: Bytes) -> Connection:
        number, now_ms = client.fileno(), self._clock.monotonic_ms()
        if self._tls is None:
            made = Connection(client, peer_ip, number, now_ms)
        else:
            made = TlsConnection(client, peer_ip, number, now_ms, self._tls)
        made.spare = self._spare
        made.is_trusted = self._trusted.includes(peer_ip)
        return made

    def _read(
        self,
        selector: selectors.BaseSelector,
        connection: Connection,
        collector: BatchCollector,
    ) -> None:
        """Take the frames that one read brings; closes the connection at its end."""
        held_before = connection.held_bytes
        try:
            received, filled = connection.receive_into(self._shared)
        except (BlockingIOError, InterruptedError):
            self._buffered.discard(connection)
            return
        except OSError as error:  # reset by the peer, or timed out by keep-alive, or not TLS
            is_tls = isinstance(error, ssl.SSLError) and not connection.received_any
            self._counters["tls_errors" if is_tls else "connections_broken"] += 1
            received = filled = 0
        self._connections.buffer_bytes += connection.held_bytes - held_before
        if received == 0:
            self._close(selector, connection)
            return
        self._counters["bytes"] += received
        connection.received_any = True
        (self._buffered.add if connection.has_buffered else self._buffered.discard)(connection)
        connection.received_at_monotonic_ms = self._clock.monotonic_ms()
        held_before = connection.held_bytes
        finished = connection.take_finished()
        position = 0
        if finished is not None:
            position = self._take(finished, len(finished), connection, collector)
            if connection.acked is not None:
                self._spare.give(finished)
        if position >= 0:
            position = self._take(self._read_buffer, filled, connection, collector)
        if position < 0:
            connection.forget()
            self._connections.buffer_bytes -= held_before
            self._close(selector, connection)
            return
        if position < filled:
            connection.keep(self._read_buffer[position:filled])
        self._connections.buffer_bytes += connection.held_bytes - held_before
        self._bound_partials(selector)

    def _take(
        self, buffer: Bytes, end: int, connection: Connection, collector: BatchCollector
    ) -> int:
        """Take every whole frame of buffer[:end]; where the rest begins.

        -1 if the connection is to be closed: the next length is oversize, or too many
        frames were bad, and those behind them are not looked at.
        """
        if self._acked is not None:
            if end >= len(MAGIC):
                connection.begin(is_acked=buffer[: len(MAGIC)].tobytes() == MAGIC)
            if connection.acked is not None:
                return self._acked.take(buffer, end, connection, connection.acked)
        run, counters = self._run, self._counters
        assert self._keys is not None
        position, status = 0, INDEX_FULL
        while status == INDEX_FULL:
            position, status = run.index(buffer, position, end, self._config.frame_bytes_max)
            if run.count == 0:
                break
            run.check(self._keys.key_table)
            counters["messages_malformed"] += run.malformed_count
            counters["auth_failures"] += run.unknown_key_count
            counters["messages_undecodable"] += run.undecodable_count
            if run.ok_count:
                collector.take(run, connection.peer_ip, connection.is_trusted)
                counters["messages"] += run.ok_count
                counters["events"] += run.event_count
            bad = connection.bad_frames + run.count - 2 * run.ok_count
            connection.bad_frames = max(bad, 0)
            if bad > self._config.bad_frame_count_max:
                counters["connections_cut"] += 1
                return -1
        if status == INDEX_OVERSIZE:
            counters["frames_oversize"] += 1
            return -1
        return position

    def _bound_partials(self, selector: selectors.BaseSelector) -> None:
        """Close the connections that were silent longest until unfinished frames fit."""
        while (connection := self._connections.one_too_many()) is not None:
            self._counters["connections_evicted"] += 1
            self._close(selector, connection)

    def _close_silent(self, selector: selectors.BaseSelector) -> None:
        """Now and then: close whom nothing was heard of for too long.

        Not one whose bytes lie unread, which happens while the taker blocks.
        """
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._silence_checked_at_ms < _SILENCE_CHECK_MS:
            return
        self._silence_checked_at_ms = now_ms
        for connection in self._connections.silent(now_ms):
            if not connection.has_something_to_say():
                self._counters["connections_silent"] += 1
                self._close(selector, connection)

    def _close(self, selector: selectors.BaseSelector, connection: Connection) -> None:
        if connection.unfinished_bytes:
            self._counters["frames_torn"] += 1
        self._connections.remove(connection)
        if self._acked is not None:
            self._acked.forget(connection)
        self._buffered.discard(connection)
        connection.forget()
        with contextlib.suppress(KeyError, ValueError):
            selector.unregister(connection.socket)
        self._counters["connections_active"] = len(self._connections)
        connection.socket.close()
