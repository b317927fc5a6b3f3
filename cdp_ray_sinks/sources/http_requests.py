"""What an HTTP request says of itself: whose it is, from where, what its body is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.sources.address import TrustedPeers, ip_bytes
from cdp_ray_sinks.sources.http_intake import INGEST, RefusedBodyError

BODY_PATHS: Final = {
    "/v1/events": SchemaType.EVENT,
    "/v1/logs": SchemaType.LOG,
    "/v1/ingest": INGEST,
}
"""Where bodies are posted, and the schema of what is in them."""

_KEY: Final = re.compile(r"[0-9A-Fa-f]{32}")
_LINE_TYPES: Final = frozenset(
    ["", "text/plain", "application/json", "application/x-ndjson", "application/ndjson",
     "application/jsonl", "application/x-jsonlines"]
)  # fmt: skip
_MESSAGE_TYPES: Final = frozenset(["", "application/x-flatbuffers", "application/octet-stream"])
_VENDOR_TYPE: Final = "application/x-tell"


def key_of(request: web.BaseRequest) -> bytes:
    """The 16 bytes of the api key that comes with a request, empty if none or no key.

    From `Authorization: Bearer`, `X-API-Key` or `?token=`, the first that is there.
    """
    headers = request.headers
    if "Authorization" in headers:
        scheme, _, text = headers["Authorization"].partition(" ")
        if scheme.lower() != "bearer":
            return b""
    elif "X-API-Key" in headers:
        text = headers["X-API-Key"]
    else:
        text = request.rel_url.query.get("token", "")
    text = text.strip()
    return bytes.fromhex(text) if _KEY.fullmatch(text) else b""


def has_key(request: web.BaseRequest) -> bool:
    """Whether a request brings anything that is meant as a key."""
    headers = request.headers
    return "Authorization" in headers or "X-API-Key" in headers or "token" in request.rel_url.query


def is_gzip(request: web.BaseRequest) -> bool:
    """Whether the body is packed. Raises RefusedBodyError for what can't be unpacked."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("gzip", "x-gzip"):
        return True
    if coding in ("", "identity"):
        return False
    raise RefusedBodyError(415, "Content-Encoding is neither gzip nor identity")


def check_content_type(request: web.BaseRequest, schema_type: int) -> None:
    """Raises RefusedBodyError if the body is said to be something else."""
    given, _, parameters = request.headers.get("Content-Type", "").partition(";")
    media = given.strip().lower()
    if schema_type == INGEST:
        if media not in _MESSAGE_TYPES and not media.startswith(_VENDOR_TYPE):
            raise RefusedBodyError(
                415, "Content-Type is neither application/x-flatbuffers nor octet-stream"
            )
        return
    if media not in _LINE_TYPES:
        raise RefusedBodyError(
            415, "Content-Type is none of application/json, application/x-ndjson, text/plain"
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        is_charset = name.strip().lower() == "charset"
        if is_charset and value.strip(" \"'").lower() not in ("utf-8", "utf8", "us-ascii"):
            raise RefusedBodyError(415, "the charset is not utf-8")


def client_ip(peer: str, forwarded_for: Sequence[str], proxies: TrustedPeers) -> Bytes:
    """The 16 bytes of the client's address: the peer's, or what trusted proxies say.

    `forwarded_for` has the values of the X-Forwarded-For headers. They are read from the right:
    each proxy adds whom it got the request from, so the first that is none of ours is the client.
    """
    address = ip_bytes(peer)
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    while hops and proxies.includes(address):
        try:
            address = ip_bytes(hops.pop())
        except (OSError, ValueError):
            break
    return address
