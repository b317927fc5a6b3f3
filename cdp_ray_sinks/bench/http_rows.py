"""What the HTTP source takes, beside other readers of the same lines; no Ray, real sockets."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.json_lines import LineReader
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.http import HttpConfig
from cdp_ray_sinks.sources.http_server import HttpSource

REQUEST_LINES: Final = 500
CONNECTIONS: Final = 16
CONNECTIONS_MANY: Final = 1000
EVENTS_MAX: Final = 1_000_000
_KEY: Final = "000102030405060708090a0b0c0d0e0f"


def http_rows(settings: Settings) -> Iterator[Row]:
    """`lines to messages` beside two parsers of one line, then through sockets."""
    bodies = _bodies(min(settings.events, EVENTS_MAX))
    yield _reader_row(settings, bodies, "json.loads per line", json.loads)
    yield _reader_row(settings, bodies, "msgspec per line", msgspec.json.Decoder().decode)
    for count in (CONNECTIONS, CONNECTIONS_MANY):
        yield _socket_row(settings, bodies, count)


def _bodies(events: int) -> list[bytes]:
    """Lines as an SDK makes them, `REQUEST_LINES` in each body."""
    line = (
        '{"type":"track","event":"Page Viewed","service":"shop","device_id":"%032x",'
        '"session_id":"%032x","user_id":"user_%d","timestamp":%d,"sdk":"node","url":"/home","n":%d}'
    )
    made = []
    for first in range(0, events, REQUEST_LINES):
        numbers = range(first, min(events, first + REQUEST_LINES))
        lines = [line % (n % 1000 + 1, n % 1000 + 2, n % 1000, 1_700_000_000_000 + n, n)
                 for n in numbers]  # fmt: skip
        made.append("\n".join(lines).encode())
    return made


def _timed(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _reader_row(
    settings: Settings, bodies: Sequence[bytes], name: str, parse: Callable[[bytes], object]
) -> Row:
    settings.say(f"http: lines to messages, beside {name}")
    reader = LineReader()
    found = 0

    def read() -> None:
        nonlocal found
        found = sum(reader.read(b, SchemaType.EVENT, 0).event_count for b in bodies)

    def parse_each() -> None:
        for body in bodies:
            for line in body.split(b"\n"):
                parse(line)

    read()
    laps = [Lap(_timed(read), _timed(parse_each)) for _ in range(settings.repeat)]
    return _row("lines to messages", laps, bodies, found, name)


def _row(variant: str, laps: Sequence[Lap], bodies: Sequence[bytes], found: int, limit: str) -> Row:
    events = sum(body.count(b"\n") + 1 for body in bodies)
    size = sum(map(len, bodies))
    return rate_row(
        "http", variant, laps, events=events, record_bytes=size, read_back=found, limit=limit
    )


class _Settled:
    """A ticket that is done."""

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        return {}


class _Counter:
    """Takes batches and counts their events."""

    def __init__(self) -> None:
        self.events = 0

    def submit(self, batch: Batch) -> _Settled:
        self.events += batch.header.event_count
        return _Settled()

    def submit_packed(self, batches: Sequence[Batch]) -> list[_Settled]:
        return [self.submit(batch) for batch in batches]


@contextmanager
def _listening(taker: _Counter) -> Iterator[int]:
    """A source in a thread; the port it listens on."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as keys:
        keys.write(f"{_KEY}:1\n")
        keys.flush()
        config = HttpConfig(
            listen="127.0.0.1:0", api_keys=Path(keys.name), connection_count_per_network_max=2000
        )
        source = HttpSource(config, SourceContext("bench"))
        stop = threading.Event()
        thread = threading.Thread(target=source.run, args=(taker, stop))
        thread.start()
        try:
            source.ready.wait(30)
            yield int(source.address.rpartition(":")[2])
        finally:
            stop.set()
            thread.join()


def _socket_row(settings: Settings, bodies: Sequence[bytes], connections: int) -> Row:
    """One connection after the other sends a request, and reads an answer when all have one.

    The compared lap is the reader alone. Client and source share the machine and this process.
    """
    settings.say(f"http: {connections} connections, {REQUEST_LINES} lines in a request")
    requests = [
        f"POST /v1/events HTTP/1.1\r\nHost: bench\r\nX-API-Key: {_KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    taker, reader = _Counter(), LineReader()

    def read() -> None:
        for body in bodies:
            reader.read(body, SchemaType.EVENT, 0)

    with _listening(taker) as port, ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            for _ in range(connections)
        ]

        def send() -> None:
            for first in range(0, len(requests), connections):
                some = requests[first : first + connections]
                for peer, request in zip(peers, some, strict=False):
                    peer.sendall(request)
                for peer, _ in zip(peers, some, strict=False):
                    if not peer.recv(65536).startswith(b"HTTP/1.1 202"):
                        raise AssertionError("a request of the benchmark was not taken")

        laps, found = [], 0
        for lap in range(settings.repeat + 1):
            taker.events = 0
            path_s = _timed(send)
            found = taker.events
            if lap:
                laps.append(Lap(path_s, _timed(read)))
    return _row(f"{connections} connections", laps, bodies, found, "lines to messages")
