"""Processes at the other end of a connection that is measured: they receive, and that is all."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.sources.base import SourceContext, Ticket
from cdp_ray_sinks.sources.registry import load_source_config

_READ_BYTES: Final = 1024 * 1024
_START_S: Final = 60


class _Counted:
    """The ticket of what was counted: done at once."""

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        return {}


class _CountingTaker:
    """Counts what it is given and lets it go."""

    def submit(self, batch: Batch) -> Ticket:
        return _Counted()

    def submit_as(self, batch: Batch, batch_id: BatchId, low: int) -> Ticket:
        return _Counted()

    def submit_packed(self, batches: Sequence[Batch]) -> Sequence[Ticket]:
        return [_Counted() for _ in batches]


def _receive(ready: Any, options: Mapping[str, Any]) -> None:
    """Read each connection to its end, and close it then."""
    listener = socket.create_server(("127.0.0.1", 0))
    ready.put(f"127.0.0.1:{listener.getsockname()[1]}")
    buffer = bytearray(_READ_BYTES)
    while True:
        client, _ = listener.accept()
        with client, contextlib.suppress(OSError):
            while client.recv_into(buffer):
                pass


def _take(ready: Any, options: Mapping[str, Any]) -> None:
    """A tcp source that gives its batches to nobody."""
    source = load_source_config("tcp", options).build(SourceContext("far"))
    thread = threading.Thread(target=source.run, args=(_CountingTaker(), threading.Event()))
    thread.start()
    source.ready.wait()  # type: ignore[attr-defined]
    ready.put(source.address)  # type: ignore[attr-defined]
    thread.join()


@contextlib.contextmanager
def receiver(options: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The address of a process that reads and forgets; with options, of a tcp source's."""
    context = multiprocessing.get_context("spawn")
    ready: Any = context.Queue()
    work = _receive if options is None else _take
    process = context.Process(target=work, args=(ready, dict(options or {})), daemon=True)
    process.start()
    try:
        yield ready.get(timeout=_START_S)
    finally:
        process.kill()
        process.join()


def key_file(directory: Path, key: bytes) -> Path:
    """A file with that one key, of workspace 1."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "bench-keys.conf"
    path.write_text(f"{key.hex()}:1\n")
    path.chmod(0o600)
    return path
