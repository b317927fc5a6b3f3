"""The TCP source at work: takes length-prefixed messages from many clients.

One thread. A read, whatever it brings, costs a few kernel calls: index the frames, check
the envelopes, copy the good ones into the open batch of their workspace and schema. When
the taker blocks, the thread does, the sockets fill up and TCP holds the clients back.
The protocol has no acknowledgement: what a client sent may be lost with this process.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.kernels.frames import INDEX_FULL, INDEX_OVERSIZE
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.sources.address import address_text, ip_bytes, open_listener
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import BatchTaker, SourceContext
from cdp_ray_sinks.sources.collector import BatchCollector
from cdp_ray_sinks.sources.connection import Connection
from cdp_ray_sinks.sources.connections import Connections
from cdp_ray_sinks.sources.key_watch import KeyFileWatch
from cdp_ray_sinks.sources.tcp import TcpConfig

_BACKLOG: Final = 1024
_STOP_CHECK_MS: Final = 50
_ACCEPTS_PER_TURN_MAX: Final = 64
_ACCEPT_PAUSE_MS: Final = 500
_SILENCE_CHECK_MS: Final = 1000
_COUNTERS: Final = (
    "events", "messages", "bytes", "errors", "batches", "messages_malformed",
    "messages_undecodable", "auth_failures", "frames_oversize", "frames_torn",
    "connections_active", "connections_total", "connections_refused", "connections_evicted",
    "connections_broken", "connections_cut", "connections_silent", "accept_errors",
)  # fmt: skip
_ERRORS: Final = (
    "messages_malformed", "auth_failures", "frames_oversize", "frames_torn",
    "connections_refused", "connections_evicted", "connections_cut", "accept_errors",
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

        The key file is read again when it changes: a key that is no longer in it is refused
        from the next frame on, on every connection. Raises ConfigError for a bad key file
        or an address that can't be listened on.
        """
        config = self._config
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
            finally:
                self._counters["batches"] = collector.batches
                for connection in self._connections:
                    self._close(selector, connection)

    def _wait_ms(self, collector: BatchCollector) -> int:
        due_in_ms = collector.due_in_ms()
        return _STOP_CHECK_MS if due_in_ms is None else min(due_in_ms, _STOP_CHECK_MS)

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
        ready = selector.select(wait_ms / 1000)
        for key, _ in ready:
            if key.data is None:
                self._accept(selector, listener)
                continue
            connection: Connection = key.data
            # Otherwise reading another one has just evicted it, for memory.
            if connection in self._connections:
                self._read(selector, connection, collector)
                collector.hand_over_due()
        collector.hand_over_due()
        self._counters["batches"] = collector.batches
        self._close_silent(selector)
        return len(ready)

    def _take_what_arrived(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        collector: BatchCollector,
    ) -> None:
        """Accept and read what the kernel already holds, for a bounded time."""
        until_ms = self._clock.monotonic_ms() + self._config.stop_read_ms_max
        while self._turn(selector, listener, collector, 0):
            if self._clock.monotonic_ms() >= until_ms:
                return

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
            now_ms = self._clock.monotonic_ms()
            connection = Connection(client, peer_ip, client.fileno(), now_ms)
            self._connections.add(connection)
            selector.register(client, selectors.EVENT_READ, connection)
            self._counters["connections_active"] = len(self._connections)

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
            return
        except OSError:  # reset by the peer, or timed out by keep-alive
            self._counters["connections_broken"] += 1
            received = filled = 0
        self._connections.buffer_bytes += connection.held_bytes - held_before
        if received == 0:
            self._close(selector, connection)
            return
        self._counters["bytes"] += received
        connection.received_at_monotonic_ms = self._clock.monotonic_ms()
        held_before = connection.held_bytes
        finished = connection.take_finished()
        position = 0
        if finished is not None:
            position = self._take(finished, len(finished), connection, collector)
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
                collector.take(run, connection.peer_ip, self._config.forwarding)
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
        connection.forget()
        with contextlib.suppress(KeyError, ValueError):
            selector.unregister(connection.socket)
        connection.socket.close()
        self._counters["connections_active"] = len(self._connections)
