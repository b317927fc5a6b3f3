"""What the source tests share: messages, a taker that keeps what it takes, a running source."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.sources.base import Ticket

KEY_ONE = bytes.fromhex("11aa22bb33cc44dd55ee66ff77008899")
KEY_TWO = bytes.fromhex("99887700ff66ee55dd44cc33bb22aa11")


def _vector(builder: flatbuffers.Builder, content: bytes) -> int:
    return int(builder.CreateByteVector(content))


def _tables(builder: flatbuffers.Builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def make_event_data(payloads: Sequence[bytes], timestamp_ms: int = 1_700_000_000_000) -> bytes:
    """EventData of TRACK events in the SDK dialect, one per payload."""
    builder = flatbuffers.Builder(256)
    events = []
    for payload in payloads:
        payload_at = _vector(builder, payload)
        builder.StartObject(7)
        builder.PrependUint8Slot(0, 1, 0)
        builder.PrependUint64Slot(1, timestamp_ms, 0)
        builder.PrependUOffsetTRelativeSlot(6, payload_at, 0)
        events.append(builder.EndObject())
    vector = _tables(builder, events)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def make_message(
    key: bytes = KEY_ONE,
    payloads: Sequence[bytes] = (b"{}",),
    schema_type: int = 1,
    source_ip: bytes | None = None,
    data: bytes | None = None,
) -> bytes:
    """One message as a general FlatBuffers builder lays it out."""
    builder = flatbuffers.Builder(256)
    content = make_event_data(payloads) if data is None else data
    data_at = _vector(builder, content)
    key_at = _vector(builder, key)
    ip_at = None if source_ip is None else _vector(builder, source_ip)
    builder.StartObject(6)
    builder.PrependUOffsetTRelativeSlot(0, key_at, 0)
    builder.PrependUint8Slot(1, schema_type, 0)
    builder.PrependUint8Slot(2, 100, 0)
    builder.PrependUOffsetTRelativeSlot(4, data_at, 0)
    if ip_at is not None:
        builder.PrependUOffsetTRelativeSlot(5, ip_at, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def make_frame(*arguments: object, **options: object) -> bytes:
    """`make_message` behind its length."""
    message = make_message(*arguments, **options)  # type: ignore[arg-type]
    return struct.pack(">I", len(message)) + message


class _Settled:
    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        return {}


class CollectingTaker:
    """Keeps a copy of every batch; `open_gate` cleared makes it block like a full window."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.taken_at: list[float] = []
        self.packs: list[int] = []
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.waiting = threading.Event()

    def submit(self, batch: Batch) -> Ticket:
        self.packs.append(1)
        return self._take(batch)

    def submit_packed(self, batches: Sequence[Batch]) -> list[Ticket]:
        self.packs.append(len(batches))
        return [self._take(batch) for batch in batches]

    def _take(self, batch: Batch) -> Ticket:
        if not self.open_gate.is_set():
            self.waiting.set()
            self.open_gate.wait(30)
        self.batches.append(
            Batch(batch.header, batch.records.copy(), batch.offsets.copy(), batch.pattern_ids)
        )
        self.taken_at.append(time.monotonic())
        return _Settled()

    @property
    def events(self) -> int:
        return sum(batch.header.event_count for batch in self.batches)

    def messages(self, workspace_id: int | None = None) -> list[bytes]:
        return [
            bytes(message)
            for batch in self.batches
            if workspace_id in (None, batch.header.workspace_id)
            for message in batch.messages()
        ]


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """Poll until the condition holds; fail the test otherwise."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.002)


class RunningSource:
    """A source in a thread, with its taker and a way to connect to it."""

    def __init__(self, source: object, taker: CollectingTaker) -> None:
        self.source = source
        self.taker = taker
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.source.run(self.taker, self.stop)  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def finish(self, timeout_s: float = 60) -> None:
        self.stop.set()
        self.join(timeout_s)

    def join(self, timeout_s: float = 60) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def connect(self) -> socket.socket:
        host, _, port = self.source.address.rpartition(":")  # type: ignore[attr-defined]
        return socket.create_connection((host.strip("[]"), int(port)), timeout=10)

    def counter(self, name: str) -> int:
        return int(self.source.counters()[name])  # type: ignore[attr-defined]


@pytest.fixture
def taker() -> CollectingTaker:
    """An empty taker."""
    return CollectingTaker()


@pytest.fixture
def api_keys(tmp_path: Path) -> Path:
    """A key file with the two tenants' keys."""
    path = tmp_path / "apikeys.conf"
    path.write_text(f"{KEY_ONE.hex()}:1:one\n{KEY_TWO.hex()}:2\n")
    return path


@pytest.fixture
def run_source(taker: CollectingTaker) -> Iterator[Callable[[object], RunningSource]]:
    """Runs sources in threads and stops what the test left running."""
    with contextlib.ExitStack() as stack:

        def run(source: object) -> RunningSource:
            running = RunningSource(source, taker)
            stack.callback(running.stop.set)
            stack.callback(taker.open_gate.set)
            if hasattr(source, "ready"):
                wait_until(lambda: source.ready.is_set() or running.failure is not None)
                if running.failure is not None:
                    raise running.failure
            return running

        yield run


@pytest.fixture
def captures() -> dict[str, tuple[bytes, bytes]]:
    """File name → (frames, their api key) of captured client bytes; skips without them."""
    folder = os.environ.get("CDP_CAPTURES")
    if not folder:
        pytest.skip("CDP_CAPTURES names no folder of captured client bytes")
    keys = {
        "rust_encoding_0.5.0_frames.bin": bytes.fromhex("feed1e11" * 4),
        "collector_dialect_frames.bin": bytes(range(16)),
    }
    return {name: ((Path(folder) / name).read_bytes(), key) for name, key in keys.items()}


@pytest.fixture
def wire() -> object:
    """The functions and values of this module that tests build bytes with."""

    class Wire:
        one, two = KEY_ONE, KEY_TWO
        message = staticmethod(make_message)
        frame = staticmethod(make_frame)
        event_data = staticmethod(make_event_data)
        wait_until = staticmethod(wait_until)
        ip_at = staticmethod(lambda batch, row: _ip_of(batch, row))

    return Wire


def _ip_of(batch: Batch, row: int) -> bytes:
    start = int(batch.offsets[row])
    return np.asarray(batch.records[start + 8 : start + 24]).tobytes()
