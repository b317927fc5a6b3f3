"""Options of the HTTP source; `http_server` is what does the work."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from cdp_ray_sinks.sources.address import parse_listen
from cdp_ray_sinks.sources.base import SourceConfig, SourceContext

if TYPE_CHECKING:
    from cdp_ray_sinks.sources.http_server import HttpSource

_BODY_BYTES_MOST: Final = 15 * 1024 * 1024
"""What is made of it must fit a frame of 16 MiB."""


class HttpConfig(SourceConfig):
    """Options of the HTTP source.

    `ack`: whether a request is answered once its events are durable in every required sink, or
    as soon as they are taken. An address in X-Forwarded-For counts only from `trusted_proxies`.
    `in_flight_bytes_max` bounds the bodies that are being received or not answered yet.
    """

    type: Literal["http"] = "http"
    listen: str
    api_keys: Path
    api_keys_check_ms: int = Field(default=1000, ge=10, le=3_600_000)
    ack: Literal["durable", "accepted"] = "durable"
    ack_timeout_s: float = Field(default=25, gt=0)
    cors_origins: tuple[str, ...] = ("*",)
    trusted_proxies: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connection_count_max: int = Field(default=10_000, ge=1)
    connection_count_per_network_max: int = Field(default=1000, ge=1)
    head_bytes_max: int = Field(default=16 * 1024, ge=1024, le=1024 * 1024)
    body_bytes_max: int = Field(default=10 * 1024 * 1024, ge=1024, le=_BODY_BYTES_MOST)
    line_count_max: int = Field(default=10_000, ge=1, le=1_000_000)
    in_flight_bytes_max: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    head_timeout_s: float = Field(default=10, gt=0)
    body_timeout_s: float = Field(default=60, gt=0)
    idle_timeout_s: float = Field(default=75, gt=0)
    batch_bytes_max: int = Field(default=4 * 1024 * 1024, ge=64 * 1024, le=64 * 1024 * 1024)
    batch_age_ms: int = Field(default=20, ge=1, le=60_000)
    builder_bytes_total_max: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    stop_answer_s_max: float = Field(default=10, ge=0)

    @field_validator("listen")
    @classmethod
    def _is_address(cls, listen: str) -> str:
        parse_listen(listen)
        return listen

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # its ValueError says what is wrong
        return networks

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key needs tls_cert")
        return self

    def build(self, context: SourceContext) -> HttpSource:
        """A source that begins to listen when it is run."""
        from cdp_ray_sinks.sources.http_server import HttpSource

        return HttpSource(self, context)
