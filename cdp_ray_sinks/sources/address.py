"""Where a source listens, and the 16-byte form of who talks to it."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_network
from typing import Any, Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.errors import ConfigError

_LISTEN: Final = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_MAPPED: Final = bytes(10) + b"\xff\xff"


def parse_listen(listen: str) -> tuple[str, int]:
    """Host and port of `host:port`; IPv6 in brackets, empty or `*` for every address.

    Raises ValueError saying what is expected.
    """
    match = _LISTEN.fullmatch(listen.strip())
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{listen!r} is not an address; expected host:port, [ipv6]:port or *:port")
    host = match["six"] if match["six"] is not None else match["host"]
    return ("" if host == "*" else host), int(match["port"])


def open_listener(listen: str, backlog: int) -> socket.socket:
    """A listening, non-blocking socket; ConfigError names the address and the reason.

    The wildcard takes IPv4 and IPv6 where the machine has both.
    """
    host, port = parse_listen(listen)
    is_dual = host in ("", "::") and socket.has_dualstack_ipv6()
    try:
        if is_dual:
            family, address = socket.AF_INET6, ("::", port)
        else:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, address = found[0][0], found[0][4]  # type: ignore[assignment]
        listener = socket.create_server(
            address[:2], family=family, backlog=backlog, dualstack_ipv6=is_dual
        )
    except OSError as error:
        raise ConfigError(f"can't listen on {listen}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def address_text(name: Any) -> str:
    """`host:port` of a socket's name, IPv6 in brackets."""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def ip_bytes(host: str) -> Bytes:
    """The 16 bytes of an address: IPv6, or IPv4 as ::ffff:a.b.c.d; a read-only array."""
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host.split("%", 1)[0])
    else:
        packed = _MAPPED + socket.inet_pton(socket.AF_INET, host)
    return np.frombuffer(packed, np.uint8)


class TrustedPeers:
    """Whose messages' own addresses are believed: those in `networks`; everybody's if that is
    empty, nobody's if it is None."""

    def __init__(self, networks: Sequence[str] | None) -> None:
        self._is_anyone = networks is not None and not networks
        self._networks = [ip_network(text) for text in networks or ()]

    def includes(self, peer_ip: Bytes) -> bool:
        """Whether an address of 16 bytes is one of them."""
        if self._is_anyone or not self._networks:
            return self._is_anyone
        six = IPv6Address(peer_ip.tobytes())
        address = six.ipv4_mapped or six
        return any(address in network for network in self._networks)
