"""Post messages to an HTTP source, each a request of its own, several at a time.

A message is counted once it was answered with 202. One that was not is posted again after a
while, so that it may land twice if only its answer was lost.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from cdp_ray_sinks.batch.enums import LENGTH_BYTES
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sources.framing import FrameBlock
from cdp_ray_sinks.sources.send import Rate, Sent

CONNECTIONS: Final = 16
_TURNS_A_SECOND: Final = 20
_PATH: Final = "/v1/ingest"
_WAIT_S: Final = 0.5
"""Before a message is posted again, if the answer does not say how long."""
_WAIT_S_MAX: Final = 10


class HttpPeer:
    """Where to post; one connection for each thread that does."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--to {url!r}: expected http://HOST:PORT or https://HOST:PORT")
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + _PATH
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._local = threading.local()

    def post(self, message: bytes) -> tuple[int, float]:
        """The status of the answer, and how long to wait before another try."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connection()
        try:
            headers = {"Content-Type": "application/x-flatbuffers"}
            connection.request("POST", self._path, message, headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise TransientError(f"{self.where}: {error or type(error).__name__}") from None
        after = response.headers.get("Retry-After", "")
        return response.status, float(after) if after.isdecimal() else _WAIT_S

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=self._tls
        )


def post_blocks(
    blocks: Iterable[FrameBlock],
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    rate: Rate | None = None,
    progress: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    timeout_s: float = 30,
) -> Sent:
    """Post the messages of all frames; on return each has been answered with 202.

    A message is tried for `timeout_s`. Raises TransientError if that was in vain, or it was
    refused for good. When `stop` is set, sending ends with what is under way.
    """
    stop = stop or threading.Event()
    peer = HttpPeer(url, tls, timeout_s)
    sender = _Sender(peer, stop, rate, timeout_s)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for block in blocks:
            if not sender.send(block, pool):
                break
            if progress is not None:
                progress(block.read_bytes)
    return Sent(sender.messages, sender.events, sender.bytes, not stop.is_set())


class _Sender:
    """Counts what was answered with 202, and keeps to the rate."""

    def __init__(
        self, peer: HttpPeer, stop: threading.Event, rate: Rate | None, timeout_s: float
    ) -> None:
        self._peer = peer
        self._stop = stop
        self._rate = rate
        self._timeout_s = timeout_s
        self._started_s = time.monotonic()
        self.messages = self.events = self.bytes = 0

    def send(self, block: FrameBlock, pool: ThreadPoolExecutor) -> bool:
        """Whether all of it was sent, which is not so after a stop."""
        content = block.content.data
        ends = [int(end) for end in block.ends]
        starts = [0, *ends[:-1]]
        first = 0
        while first < len(ends):
            last = self._piece_end(block, first)
            messages = [
                bytes(content[starts[n] + LENGTH_BYTES : ends[n]]) for n in range(first, last)
            ]
            list(pool.map(self._post, messages))
            if self._stop.is_set():
                return False
            self.messages += len(messages)
            self.bytes += sum(map(len, messages))
            self.events += int(block.events[first:last].sum())
            self._keep_to_rate()
            first = last
        return True

    def _piece_end(self, block: FrameBlock, first: int) -> int:
        """Up to which message to post before looking at the rate; at least one."""
        if self._rate is None:
            return len(block.ends)
        done = block.ends if self._rate.of == "bytes" else np.cumsum(block.events)
        before = int(done[first - 1]) if first else 0
        turn = before + self._rate.per_s / _TURNS_A_SECOND
        return max(first + 1, int(np.searchsorted(done, turn, "right")))

    def _keep_to_rate(self) -> None:
        if self._rate is None:
            return
        done = self.bytes if self._rate.of == "bytes" else self.events
        self._stop.wait(max(0, self._started_s + done / self._rate.per_s - time.monotonic()))

    def _post(self, message: bytes) -> None:
        until_s = time.monotonic() + self._timeout_s
        while not self._stop.is_set():
            wait_s = _WAIT_S
            try:
                status, wait_s = self._peer.post(message)
                reason = f"{self._peer.where}: answered {status}"
            except TransientError as error:
                status, reason = 0, str(error)
            if status == 202:
                return
            if 400 <= status < 500 and status not in (408, 429):
                raise TransientError(f"{reason}, so nothing more is sent")
            if time.monotonic() + wait_s > until_s:
                raise TransientError(f"{reason} for {self._timeout_s:g} s")
            self._stop.wait(min(wait_s, _WAIT_S_MAX))
