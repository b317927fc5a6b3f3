"""Options of the TCP source; `tcp_server` is what does the work.

Apart, because a check of a configuration must not wait for compiled kernels.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.sources.address import parse_listen
from cdp_ray_sinks.sources.base import SourceConfig, SourceContext

if TYPE_CHECKING:
    from cdp_ray_sinks.sources.tcp_server import TcpSource


class TcpConfig(SourceConfig):
    """Options of the TCP source.

    Limits for each client: `connection_count_per_network_max` counts an IPv4 address or an
    IPv6 /64; a connection whose bad frames outnumber its good ones by more than
    `bad_frame_count_max` is closed, as is one that is silent for `idle_timeout_s`, or for
    `stalled_frame_timeout_s` inside a frame (0: never).

    With `forwarding` the addresses in messages are believed, of connections that come from
    `forwarding_peers` (networks; none for everybody). With `ack` those may use ack mode.
    With `tls_cert` all connections have to be TLS, with `tls_client_ca` show a certificate.
    """

    type: Literal["tcp"] = "tcp"
    listen: str
    api_keys: Path
    api_keys_check_ms: int = Field(default=1000, ge=10, le=3_600_000)
    forwarding: bool = False
    forwarding_peers: list[str] = Field(default_factory=list, max_length=1000)
    ack: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    connection_count_max: int = Field(default=10_000, ge=1)
    connection_count_per_network_max: int = Field(default=1000, ge=1)
    bad_frame_count_max: int = Field(default=1000, ge=0)
    idle_timeout_s: int = Field(default=3600, ge=0)
    stalled_frame_timeout_s: int = Field(default=60, ge=0)
    batch_bytes_max: int = Field(default=4 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    batch_age_ms: int = Field(default=20, ge=1, le=60_000)
    frame_bytes_max: int = Field(default=FRAME_BYTES_MAX, ge=1024, le=FRAME_BYTES_MAX)
    read_buffer_bytes: int = Field(default=1024 * 1024, ge=4096, le=64 * 1024 * 1024)
    connection_buffer_bytes_total_max: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    builder_bytes_total_max: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    stop_read_ms_max: int = Field(default=1000, ge=0)

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        parse_listen(listen)
        return listen

    @field_validator("forwarding_peers")
    @classmethod
    def _are_networks(cls, peers: list[str]) -> list[str]:
        for peer in peers:
            ip_network(peer)
        return peers

    @model_validator(mode="after")
    def _fits_together(self) -> TcpConfig:
        if not self.forwarding and (self.ack or self.forwarding_peers):
            raise ValueError("ack and forwarding_peers need forwarding = true")
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise ValueError("tls_key and tls_client_ca need tls_cert")
        return self

    def warnings(self) -> list[str]:
        """What is told by `validate`."""
        is_open = self.forwarding and not self.forwarding_peers and self.tls_client_ca is None
        text = "forwarding = true: whoever has an api key may claim any address; "
        return [text + "name the forwarding_peers"] if is_open else []

    def build(self, context: SourceContext) -> TcpSource:
        """A source that begins to listen when it is run."""
        from cdp_ray_sinks.sources.tcp_server import TcpSource

        return TcpSource(self, context)
