"""The clients that are connected: how many from where, what they hold, who is silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from cdp_ray_sinks.sources.connection import Connection
from cdp_ray_sinks.sources.tcp import TcpConfig

_MAPPED: Final = bytes(10) + b"\xff\xff"


class Connections:
    """The open connections of one source, within its limits. Used by one thread."""

    def __init__(self, config: TcpConfig) -> None:
        self._count_max = config.connection_count_max
        self._per_network_max = config.connection_count_per_network_max
        self._buffer_bytes_max = config.connection_buffer_bytes_total_max
        self._idle_timeout_ms = 1000 * config.idle_timeout_s
        self._stalled_timeout_ms = 1000 * config.stalled_frame_timeout_s
        self._open: dict[int, Connection] = {}
        self._per_network: Counter[bytes] = Counter()
        self.buffer_bytes = 0
        """What the unfinished frames of all weigh; whoever changes one keeps it right."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """A snapshot, so that the loop may close what it gets."""
        return iter(list(self._open.values()))

    def __contains__(self, connection: Connection) -> bool:
        return self._open.get(connection.number) is connection

    def has_room_for(self, peer_ip: bytes) -> bool:
        """Whether one more from this address (16 B) is within the limits."""
        if len(self._open) >= self._count_max:
            return False
        return self._per_network[network_of(peer_ip)] < self._per_network_max

    def add(self, connection: Connection) -> None:
        """Count a connection in."""
        self._open[connection.number] = connection
        self._per_network[network_of(connection.peer_ip.tobytes())] += 1

    def remove(self, connection: Connection) -> None:
        """Count it out, with the buffer that it still holds."""
        self.buffer_bytes -= connection.held_bytes
        del self._open[connection.number]
        network = network_of(connection.peer_ip.tobytes())
        self._per_network[network] -= 1
        if not self._per_network[network]:
            del self._per_network[network]

    def one_too_many(self) -> Connection | None:
        """While the unfinished frames are above their bound: of those, the idlest."""
        if self.buffer_bytes <= self._buffer_bytes_max:
            return None
        holding = (c for c in self._open.values() if c.held_bytes)
        return min(holding, key=lambda c: c.received_at_monotonic_ms)

    def silent(self, monotonic_ms: int) -> Iterator[Connection]:
        """Those from which nothing was read for too long; a timeout of 0 is none."""
        for connection in self:
            timeout_ms = self._idle_timeout_ms
            if connection.unfinished_bytes and self._stalled_timeout_ms:
                timeout_ms = min(timeout_ms or self._stalled_timeout_ms, self._stalled_timeout_ms)
            if timeout_ms and monotonic_ms - connection.received_at_monotonic_ms >= timeout_ms:
                yield connection


def network_of(peer_ip: bytes) -> bytes:
    """What is counted as one client: an IPv4 address, or an IPv6 network of 64 bits."""
    return peer_ip if peer_ip.startswith(_MAPPED) else peer_ip[:8]
