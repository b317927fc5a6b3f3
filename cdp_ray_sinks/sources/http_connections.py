"""Who is connected over HTTP: how many from where, and who is too slow with a request's head.

aiohttp bounds each header, and closes what is idle between requests. What it leaves open is
bounded here: connections in all and from one network, and how long and how large a head of
which the end has not come may be.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from cdp_ray_sinks.sources.address import ip_bytes
from cdp_ray_sinks.sources.connections import network_of
from cdp_ray_sinks.sources.http import HttpConfig

_SILENT: Final = logging.getLogger(f"{__name__}.silent")
"""aiohttp logs what it can't read, and that may hold a key."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_FIELD_BYTES_MAX: Final = 8190
_HEADER_COUNT_MAX: Final = 64
_LINGER_S: Final = 5


class HttpConnections(web.Server):
    """The open connections of one source. Used by its event loop."""

    def __init__(self, config: HttpConfig, handler: Any, counters: dict[str, int]) -> None:
        field_bytes = min(_FIELD_BYTES_MAX, config.head_bytes_max)
        super().__init__(
            handler,
            keepalive_timeout=config.idle_timeout_s,
            access_log=None,
            logger=_SILENT,
            max_line_size=field_bytes,
            max_field_size=field_bytes,
            max_headers=_HEADER_COUNT_MAX,
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )
        self.config = config
        self.counters = counters
        self._per_network: Counter[bytes] = Counter()
        self._open: set[HttpConnection] = set()

    def __call__(self) -> RequestHandler:
        """The protocol of one more connection."""
        return HttpConnection(self, loop=self._loop, **self._kwargs)

    def has_room_for(self, network: bytes) -> bool:
        """Whether one more from this network is within the limits."""
        if len(self._open) >= self.config.connection_count_max:
            return False
        return self._per_network[network] < self.config.connection_count_per_network_max

    def add(self, connection: HttpConnection) -> None:
        """Count a connection in."""
        self._open.add(connection)
        self._per_network[connection.network] += 1
        self.counters["connections_active"] = len(self._open)

    def remove(self, connection: HttpConnection) -> None:
        """Count it out."""
        self._open.discard(connection)
        self._per_network[connection.network] -= 1
        if not self._per_network[connection.network]:
            del self._per_network[connection.network]
        self.counters["connections_active"] = len(self._open)

    def close_slow(self) -> None:
        """Answer 408 to those whose head has been on its way for too long."""
        until = self._loop.time() - self.config.head_timeout_s
        for connection in list(self._open):
            if connection.head_since is not None and connection.head_since < until:
                connection.refuse(b"408 Request Timeout")
                self.counters["connections_slow"] += 1

    def close_all(self) -> None:
        """Close every connection, whatever it does."""
        for connection in list(self._open):
            connection.force_close()


class HttpConnection(RequestHandler):
    """aiohttp's protocol with the limits that it lacks."""

    __slots__ = ("_guard", "_head_bytes", "head_since", "network")

    def __init__(self, guard: HttpConnections, **options: Any) -> None:
        super().__init__(guard, **options)
        self._guard = guard
        self._head_bytes = 0
        self.network = b""
        self.head_since: float | None = None
        """When the first byte of a request came of whose head the end has not come yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in, or close it at once."""
        guard = self._guard
        guard.counters["connections_total"] += 1
        peer = transport.get_extra_info("peername")
        network = network_of(ip_bytes(peer[0]).tobytes()) if peer else b""
        if not guard.has_room_for(network):
            guard.counters["connections_refused"] += 1
            self._force_close = True
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self.network = network
        guard.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it out."""
        if self.network:
            self._guard.remove(self)
            self.network = b""
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note how long the head of the next request has been coming."""
        if self._force_close:
            return
        requests_before = self._request_count
        is_idle = requests_before == 0 or (self._waiter is not None and not self._waiter.done())
        if is_idle and self.head_since is None and data:
            self.head_since, self._head_bytes = self._loop.time(), 0
        super().data_received(data)
        if self._request_count != requests_before:
            self.head_since = None
        elif self.head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self._guard.config.head_bytes_max:
                self.refuse(b"431 Request Header Fields Too Large")
                self._guard.counters["requests_bad"] += 1

    def refuse(self, status: bytes) -> None:
        """Answer a request whose head is not whole, and close."""
        self.head_since = None
        if self.transport is not None:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Say that it was wrong, not what it was: that may hold a key."""
        if status < 500:
            self._guard.counters["requests_bad"] += 1
        else:
            self._guard.counters["requests_failed"] += 1
        if isinstance(exc, LineTooLong):
            status = 431
        response = web.json_response({"error": _ERRORS.get(status, "failed")}, status=status)
        response.force_close()
        return response


_ERRORS: Final = {400: "not a valid HTTP request", 431: "a header is too large"}
