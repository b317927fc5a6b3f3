"""A client's socket with TLS on it: the same as a plain one for whoever reads from it."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.connection import Connection


def server_context(certificate: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """What clients are met with; with `client_ca` each has to show a certificate of that.

    Raises ConfigError that names the file which is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A client that only sends never reads them; closing with them unread resets the connection,
    # and what it sent last would be lost.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls_cert: {certificate}: {error.strerror or error}") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls_client_ca: {client_ca}: {error.strerror or error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsConnection(Connection):
    """Shakes hands when bytes come; `is_established` once that is done."""

    def __init__(
        self,
        client: socket.socket,
        peer_ip: Bytes,
        number: int,
        monotonic_ms: int,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(client, peer_ip, number, monotonic_ms)
        self._tls = context.wrap_socket(
            client, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self.socket = self._tls
        self.is_established = False
        self._is_over = False

    @property
    def unfinished_bytes(self) -> int:
        """A handshake that has begun and does not end counts as an unfinished frame."""
        return super().unfinished_bytes if self.is_established else 1

    @property
    def has_buffered(self) -> bool:
        """Whether decrypted bytes or their end wait, of which the selector knows nothing."""
        return self.is_established and (self._is_over or self._tls.pending() > 0)

    def has_something_to_say(self) -> bool:
        """Whether decrypted bytes wait; what is still in the kernel, the selector tells."""
        return self.has_buffered

    def receive_into(self, shared: memoryview) -> tuple[int, int]:
        """As a plain connection; raises ssl.SSLError for what is not TLS or not allowed."""
        if not self.is_established:
            try:
                self._tls.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise BlockingIOError from None
            self.is_established = True
        return super().receive_into(shared)

    def _receive(self, view: memoryview) -> int:
        """All that fits: TLS gives no more than 16 KiB at once."""
        received = 0
        while received < len(view):
            try:
                count = self._tls.recv_into(view[received:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if received:
                    return received
                raise BlockingIOError from None
            except ssl.SSLError:
                if received:  # first what came before it
                    return received
                raise
            if not count:
                self._is_over = True
                break
            received += count
        return received

    def _receive_both(self, room: memoryview, shared: memoryview) -> int:
        return self._receive(room)
