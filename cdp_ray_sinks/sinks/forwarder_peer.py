"""One connection to a collector: sends all of what it is given, or says why not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from termios import TIOCOUTQ
from typing import Final

from cdp_ray_sinks.errors import ConfigError, TransientError

_IOV_MAX: Final = 1024
_TARGET: Final = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_LOOK_S: Final = 0.0002
_LOOK_S_MAX: Final = 0.02


def parse_target(target: str) -> tuple[str, int]:
    """Host and port of `host:port`, IPv6 in brackets. Raises ValueError saying what is expected."""
    match = _TARGET.fullmatch(target.strip())
    if match is None or not 0 < int(match["port"]) <= 65_535:
        raise ValueError(f"{target!r} is not an address; expected host:port or [ipv6]:port")
    return match["six"] or match["host"], int(match["port"])


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How the other side is verified, and what it may verify us by."""

    verify: bool = True
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """What connections are made with. Raises ConfigError naming the file that is wrong."""
        try:
            made = ssl.create_default_context(cafile=self.ca_cert)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca_cert: {self.ca_cert}: {_text(error)}") from None
        if self.client_cert is not None:
            try:
                made.load_cert_chain(self.client_cert, self.client_key)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"client_cert: {self.client_cert}: {_text(error)}") from None
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        return made


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Of every connection of a forwarder; `keepalive_s` without a byte it asks whether the
    other side lives, and gives up after as long again without an answer."""

    connect_timeout_s: float = 10
    write_timeout_s: float = 30
    keepalive_s: int = 30
    tls: TlsOptions | None = None


class Peer:
    """A connected collector. Every method raises TransientError that names it."""

    def __init__(self, target: str, options: PeerOptions, tls: ssl.SSLContext | None) -> None:
        self.target = target
        self._write_timeout_s = options.write_timeout_s
        self._socket: socket.socket
        host, port = parse_target(target)
        try:
            plain = socket.create_connection((host, port), options.connect_timeout_s)
        except OSError as error:
            raise TransientError(f"{target}: {_text(error)}") from None
        try:
            _tune(plain, options)
            self._socket = plain
            if tls is not None:
                assert options.tls is not None
                name = options.tls.server_name or host
                self._socket = tls.wrap_socket(plain, server_hostname=name)
            self._socket.settimeout(options.write_timeout_s)
        except (OSError, ValueError) as error:
            plain.close()
            raise TransientError(f"{target}: {_text(error)}") from None

    @property
    def is_sliceable(self) -> bool:
        """Whether many pieces can be sent at once; TLS would make a record of each."""
        return not isinstance(self._socket, ssl.SSLSocket)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, pieces: Sequence[memoryview]) -> None:
        """Send them all; on return the socket has taken them."""
        try:
            if self.is_sliceable:
                self._send_pieces(pieces)
            else:
                for piece in pieces:
                    self._socket.sendall(piece)
        except OSError as error:
            raise self._failed(error) from None

    def _send_pieces(self, pieces: Sequence[memoryview]) -> None:
        first = begun = 0
        while first < len(pieces):
            group = list(pieces[first : first + _IOV_MAX])
            group[0] = group[0][begun:]
            sent = self._socket.sendmsg(group)
            for piece in group:
                if sent < len(piece):
                    break
                sent -= len(piece)
                first += 1
                begun = 0
            begun += sent

    def receive(self, bytes_max: int, wait_s: float) -> bytes | None:
        """What the other side says, None if nothing within the time; b"" is its end."""
        try:
            self._socket.settimeout(wait_s)
            return self._socket.recv(bytes_max)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise self._failed(error) from None
        finally:
            with contextlib.suppress(OSError):
                self._socket.settimeout(self._write_timeout_s)

    def check(self) -> None:
        """Raise if the other side has closed; a collector says nothing while it has not."""
        if self.receive(4096, 0) == b"":
            raise TransientError(f"{self.target}: closed by the receiver")

    def settle(self) -> None:
        """Wait until the machine of the other side has acknowledged every byte."""
        until_s, wait_s = time.monotonic() + self._write_timeout_s, _LOOK_S
        while self._unacknowledged():
            self.check()
            if time.monotonic() > until_s:
                raise TransientError(
                    f"{self.target}: takes nothing for {self._write_timeout_s:g} s"
                )
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LOOK_S_MAX)
        self.check()

    def _unacknowledged(self) -> int:
        try:
            answer = fcntl.ioctl(self._socket.fileno(), TIOCOUTQ, bytes(4))
        except OSError as error:
            raise self._failed(error) from None
        return int(struct.unpack("i", answer)[0])

    def _failed(self, error: OSError) -> TransientError:
        if isinstance(error, TimeoutError):
            return TransientError(f"{self.target}: takes nothing for {self._write_timeout_s:g} s")
        return TransientError(f"{self.target}: {_text(error)}")

    def close(self) -> None:
        """Say that nothing more comes, and let go. Safe to call twice."""
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.settimeout(0)
                self._socket.unwrap()
            else:
                self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()


def _tune(plain: socket.socket, options: PeerOptions) -> None:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keepalive_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, options.keepalive_s // 3))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * 2 * options.keepalive_s)


def _text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "TLS: closed by the receiver, which may want a client certificate of us"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError):
        return error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return str(error)
