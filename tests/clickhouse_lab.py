"""What tests of the clickhouse sink share: a database, batches of events, a way that breaks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import EventType
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.push import PENDING
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig, ClickHouseSink

START_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC."""
PRODUCER = b"lab-producer-id-"
_databases = itertools.count(1)


class Lab:
    """A database of a server, sinks into it, and what has landed there."""

    start_ms = START_MS

    def __init__(self, server: ClickHouseServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.database = f"lab_{os.getpid()}_{next(_databases)}"
        self._sinks: list[ClickHouseSink] = []
        self._lanes: list[LabLane] = []
        self._proxies: list[Proxy] = []
        self._sequence = itertools.count()

    def config(self, **options: Any) -> ClickHouseConfig:
        """Into this lab's database, which is created with its tables."""
        plain = {
            "url": self.server.url,
            "database": self.database,
            "create_tables": True,
            "insert_timeout_s": 20,
        }
        return ClickHouseConfig(**(plain | options))

    def sink(
        self, state: str = "state", clock: Any = None, *, name: str = "lab", **options: Any
    ) -> ClickHouseSink:
        """An open sink."""
        made = self.unopened(state, clock, name=name, **options)
        made.open()
        return made

    def unopened(
        self, state: str = "state", clock: Any = None, *, name: str = "lab", **options: Any
    ) -> ClickHouseSink:
        """A sink that is built and not opened."""
        context = SinkContext(name, clock or SystemClock(), self.folder / state)
        made = self.config(**options).build(context)
        self._sinks.append(made)
        return made

    def now_ms(self) -> int:
        """The time by the sinks' clock."""
        return SystemClock().now_ms()

    def pause(self, duration_s: float) -> None:
        """Let the threads go on."""
        time.sleep(duration_s)

    def wait(self, until: Callable[[], bool], timeout_s: float = 120) -> None:
        """Return once it is so."""
        end = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < end
            time.sleep(0.02)

    def flush(self, sink: ClickHouseSink, timeout_s: float = 120) -> list[str]:
        """Flush until it succeeds, as a lane does; what it was told meanwhile."""
        until = time.monotonic() + timeout_s
        told = []
        while True:
            try:
                sink.flush()
            except TransientError as error:
                told.append(str(error))
                assert time.monotonic() < until, told[-1]
                time.sleep(0.02)
            else:
                return told

    def lane(self, sink: ClickHouseSink) -> LabLane:
        """A lane around a sink that is not open yet, which it opens."""
        made = LabLane(sink, self.folder / "dead_letters")
        self._lanes.append(made)
        return made

    def buried(self) -> tuple[list[Batch], list[dict[str, Any]]]:
        """The dead letters as a replay would read them, and their reasons."""
        folder = self.folder / "dead_letters" / "lab"
        lines = (folder / "reasons.jsonl").read_text().splitlines()
        batches = [batch for _, batch in read_batches([folder], print)]
        return batches, [json.loads(line) for line in lines]

    def proxy(self, tls: ssl.SSLContext | None = None) -> Proxy:
        """A way to the server that can be made to break."""
        made = Proxy(self.server.port, tls)
        self._proxies.append(made)
        return made

    def client(self) -> Any:
        """A client of its own."""
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.server.port, autogenerate_session_id=False
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows; `{db}` in the text is the lab's database."""
        client = self.client()
        try:
            return [tuple(row) for row in client.query(self._sql(sql)).result_rows]
        finally:
            client.close()

    def command(self, sql: str) -> None:
        """A statement, in the same way."""
        client = self.client()
        try:
            client.command(self._sql(sql))
        finally:
            client.close()

    def _sql(self, sql: str) -> str:
        return sql.replace("{db}", self.database)

    def landed(self) -> tuple[int, int]:
        """How many rows of events_v1 there are, and how many different running numbers."""
        number = "simpleJSONExtractUInt(properties, 'n')"
        (row,) = self.query(f"SELECT count(), uniqExact({number}) FROM {{db}}.events_v1")
        return row

    def batch(
        self,
        payloads: Sequence[Any],
        *,
        types: Sequence[int] | int = EventType.TRACK,
        times: Sequence[int] | int = START_MS,
        per_message: int = 1,
        workspace_id: int = 1,
        names: Sequence[str] | None = None,
        sequence: int | None = None,
        producer: bytes = PRODUCER,
    ) -> Batch:
        """Events with those payloads: bytes, or what is to be JSON. Ids are the place's."""
        count = len(payloads)
        places = np.arange(count, dtype=np.uint64)
        ids = np.zeros((count, 16), np.uint8)
        ids[:, 8:] = places.astype(">u8").view(np.uint8).reshape(count, 8)
        ids[:, 0] = 1
        records, offsets = encode_events(
            np.full(count, types) if isinstance(types, int) else list(types),
            np.full(count, times) if isinstance(times, int) else list(times),
            device_ids=ids,
            session_ids=ids[::-1].copy(),
            names=pa.array(names or ["Named"] * count),
            payloads=pa.array([_bytes(payload) for payload in payloads], pa.binary()),
            events_per_message=per_message,
            received_at_ms=START_MS,
        )
        return self.as_batch(records, offsets, 1, count, workspace_id, sequence, producer)

    def logs(self, payloads: Sequence[Any], *, level: int = 3, per_message: int = 1) -> Batch:
        """Log entries with those payloads."""
        count = len(payloads)
        records, offsets = encode_logs(
            [1] * count,
            [level] * count,
            [START_MS + place for place in range(count)],
            sources=pa.array(["host"] * count),
            services=pa.array(["checkout"] * count),
            payloads=pa.array([_bytes(payload) for payload in payloads], pa.binary()),
            events_per_message=per_message,
            received_at_ms=START_MS,
        )
        return self.as_batch(records, offsets, 2, count)

    def as_batch(
        self,
        records: Any,
        offsets: Any,
        schema_type: int,
        count: int,
        workspace_id: int = 1,
        sequence: int | None = None,
        producer: bytes = PRODUCER,
    ) -> Batch:
        """Records as a batch with the next sequence."""
        number = next(self._sequence) if sequence is None else sequence
        header = BatchHeader(
            producer, 1, number, schema_type, 2, workspace_id, "lab", START_MS,
            len(offsets) - 1, count, len(records), xxh3(records),
        )  # fmt: skip
        return Batch(header, records.copy(), offsets.copy())

    def numbered(self, start: int, count: int, **options: Any) -> Batch:
        """TRACK events whose payloads are {"n": start} and so on."""
        return self.batch(
            [b'{"n":%d,"of":"a payload of some length"}' % n for n in range(start, start + count)],
            **options,
        )

    def close(self) -> None:
        """End what is left."""
        for lane in self._lanes:
            lane.close()
        for sink in self._sinks:
            with contextlib.suppress(TransientError):
                sink.close()
        for proxy in self._proxies:
            proxy.close()
        if self.server.pid:
            self.command("DROP DATABASE IF EXISTS {db}")


class LabLane:
    """The real lane around a sink, with its dead letters; asks again for what is pending."""

    def __init__(self, sink: ClickHouseSink, dead_letters: Path) -> None:
        clock = SystemClock()
        archive = DeadLetterArchive(dead_letters, "lab", clock)
        self.lane = Lane(
            sink, clock, archive, lambda: 0.5, by_workspace=False, backoff=Backoff(10, 50)
        )
        self.lane.start()
        self.lane.hello("lab", 1)
        self._number = 0

    def deliver(self, *batches: Batch, timeout_s: float = 120) -> list[str]:
        """The outcomes of the batches, once none is pending."""
        until = time.monotonic() + timeout_s
        while True:
            self._number += 1
            outcomes = self.lane.push("lab", 1, self._number, [], batches)
            if PENDING not in outcomes:
                return outcomes
            assert time.monotonic() < until, self.lane.last_error()
            time.sleep(0.02)

    def offer(self, *batches: Batch) -> list[str]:
        """One push, whatever is answered."""
        self._number += 1
        return self.lane.push("lab", 1, self._number, [], batches)

    def close(self) -> None:
        """Close lane and sink."""
        self.lane.close(10_000)


def _bytes(payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    return json.dumps(payload, separators=(",", ":")).encode()


class Proxy:
    """Passes connections on to a server, and does to them what `on_request` says.

    It is called for each request with the bytes of its beginning, and answers "pass", "reset"
    (before the server sees any of it), "lose" (the server does it, the answer never comes), a
    number of seconds by which the answer comes late, or the bytes of another answer.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.on_request: Callable[[bytes], str | float | bytes] = lambda head: "pass"
        self.lost = threading.Event()
        """Set when an answer was lost."""
        self._is_open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Listen no longer."""
        self._is_open = False
        self._listener.close()

    def _accept(self) -> None:
        while self._is_open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _secured(self, client: socket.socket) -> socket.socket:
        return client if self._tls is None else self._tls.wrap_socket(client, server_side=True)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self._secured(client) as client:
            while True:
                head, body = _head(client)
                if not head:
                    return
                what = self.on_request(head)
                length = _length(head)
                if what == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                while len(body) < length:
                    body += client.recv(1 << 20)
                if isinstance(what, bytes):
                    client.sendall(what)
                    continue
                with socket.create_connection(("127.0.0.1", self._target)) as server:
                    server.sendall(head.replace(b"keep-alive", b"close") + body)
                    answer = _answer(server)
                if what == "lose":
                    self.lost.set()
                    return
                if isinstance(what, float):
                    threading.Event().wait(what)
                client.sendall(answer)


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def _answer(connection: socket.socket) -> bytes:
    """The whole of an answer: its length or its last chunk tells the end."""
    data = b""
    while True:
        more = connection.recv(1 << 16)
        if not more:
            return data
        data += more
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            continue
        if b"chunked" in head.lower():
            if body.endswith(b"0\r\n\r\n"):
                return data
        elif len(body) >= _length(head):
            return data
