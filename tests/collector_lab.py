"""Receivers for tests of what is sent on: they take frames as a collector does, and keep them."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.batch.generated.Batch import Batch as Table
from cdp_ray_sinks.batch.kernels.frames import INDEX_END
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.tcp import TcpConfig
from cdp_ray_sinks.testing import BatchKeeper

KEY = bytes.fromhex("0123456789abcdef0123456789abcdef")


class Region:
    """A tcp source at work, what it takes kept in memory: what a forwarder sends to."""

    key = KEY

    def __init__(self, folder: Path, listen: str = "127.0.0.1:0", **options: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        keys = folder / "keys.conf"
        keys.write_text(f"{KEY.hex()}:7\n")
        keys.chmod(0o600)
        self.keeper = BatchKeeper()
        config = TcpConfig(listen=listen, api_keys=keys, **options)  # type: ignore[arg-type]
        self.source = config.build(SourceContext("far"))
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self.source.run, args=(self.keeper, self._stop), daemon=True
        )
        self._thread.start()
        assert self.source.ready.wait(10)

    @property
    def target(self) -> str:
        """`host:port`."""
        return self.source.address

    def numbers(self) -> list[int]:
        """The running numbers of all events that came, once nothing more has for a moment."""
        taken = -1
        while taken < len(self.keeper.batches):
            taken = len(self.keeper.batches)
            time.sleep(0.3)
        found = []
        for batch in self.keeper.batches:
            payloads = decode_events(batch).table["payload"].to_pylist()
            found += [int(re.match(rb'\{"n":(\d+)', payload)[1]) for payload in payloads]
        return found

    def close(self) -> None:
        """Stop the source."""
        self._stop.set()
        self._thread.join(10)
        # An open connection may be drained for a moment.
        assert not self._thread.is_alive()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Poll until the condition holds; fail the test otherwise."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.005)


class Link:
    """A way to a receiver that can be cut, slowed down and led elsewhere."""

    def __init__(self, target_address: str) -> None:
        self.target_address = target_address
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self._left: int | None = None
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self.target_address.rpartition(":")
            try:
                far = socket.create_connection((host, int(port)), 5)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open += [client, far]
            for one, other in ((client, far), (far, client)):
                threading.Thread(
                    target=self._carry, args=(one, other, one is client), daemon=True
                ).start()

    def _carry(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self.bytes_per_s:
                    time.sleep(len(piece) / self.bytes_per_s)
                if counts and self._left is not None:
                    part = piece[: self._left]
                    self._left -= len(part)
                    if not self._left:
                        self._left = None
                        other.sendall(part[: len(part) // 2])
                        self.cut()
                        return
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)

    def cut_after(self, count: int) -> None:
        """Cut everything once so many more bytes have gone towards the receiver; 0 is now."""
        if count:
            self._left = count
        else:
            self.cut()

    def cut(self) -> None:
        """Reset all connections, in the middle of whatever they carry."""
        self.cuts += 1
        with self._lock:
            gone, self._open = self._open, []
        for each in gone:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Stop listening, reset all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


class Collector:
    """Takes all bytes of all connections. `reads_max` bytes, then it cuts the connection."""

    key = KEY

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._tls = tls
        self.streams: list[bytearray] = []
        self.reads_max: int | None = None
        self.may_read = threading.Event()
        self.may_read.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def target(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            self.streams.append(bytearray())
            threading.Thread(
                target=self._read, args=(client, self.streams[-1]), daemon=True
            ).start()

    def _read(self, client: socket.socket, stream: bytearray) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            while True:
                self.may_read.wait(30)
                piece = client.recv(65536)
                if not piece:
                    break
                stream += piece
                if self.reads_max is not None and len(stream) >= self.reads_max:
                    self.reads_max = None
                    break
        client.close()

    def cut(self) -> None:
        """Reset every connection."""
        for client in self._open:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        self._open.clear()

    def close(self) -> None:
        """Stop listening, reset all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def messages(self) -> list[bytes]:
        """The messages of all whole frames, as our own kernels find and approve them."""
        found = []
        for stream in list(self.streams):
            found += whole_messages(bytes(stream))
        return found


def whole_messages(stream: bytes, is_torn_allowed: bool = True) -> list[bytes]:
    """Cut a stream at its lengths; every message passes the check of a source."""
    run = MessageRun(65536)
    content = np.frombuffer(stream or bytes(1), np.uint8)
    _, status = run.index(content, 0, len(stream), FRAME_BYTES_MAX)
    assert status == INDEX_END or is_torn_allowed
    run.check(workspace_id=1)
    assert run.ok_count == run.count
    starts, lengths = run.starts[: run.count].tolist(), run.lengths[: run.count].tolist()
    return [stream[s : s + n] for s, n in zip(starts, lengths, strict=True)]


def parsed(message: bytes) -> dict[str, object]:
    """A message's envelope as the reference reader of FlatBuffers sees it."""
    table = Table.GetRootAs(message)
    ip = table.SourceIpAsNumpy()
    return {
        "key": table.ApiKeyAsNumpy().tobytes(),
        "schema": table.SchemaType(),
        "version": table.Version(),
        "batch_id": table.BatchId(),
        "source_ip": ip.tobytes() if hasattr(ip, "tobytes") else None,
        "data": table.DataAsNumpy().tobytes(),
    }
