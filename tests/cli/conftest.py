"""An archive to read: events, log entries, a metric, and things a client should not send."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import flatbuffers
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.builder import batch_of_messages
from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX, EventType
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig

RECEIVED_AT_MS = 1_767_225_600_123
"""2026-01-01 00:00:00.123 UTC."""
SOURCE_IP = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7])
DEVICE_ID = bytes(range(16))

Event = tuple[EventType, str | None, bytes | None]
WriteArchive = Callable[[Path, Sequence[Batch]], Path]


def event_message(events: Sequence[Event], timestamp_ms: int = RECEIVED_AT_MS - 1000) -> bytes:
    """A message of these events (type, name, payload), all of device DEVICE_ID."""
    builder = flatbuffers.Builder(512)
    tables = []
    for event_type, name, payload in events:
        name_at = builder.CreateString(name) if name is not None else 0
        payload_at = builder.CreateByteVector(payload) if payload is not None else 0
        device_at = builder.CreateByteVector(DEVICE_ID)
        builder.StartObject(7)
        builder.PrependUint8Slot(0, event_type, 0)
        builder.PrependUint64Slot(1, timestamp_ms, 0)
        builder.PrependUOffsetTRelativeSlot(3, device_at, 0)
        builder.PrependUOffsetTRelativeSlot(5, name_at, 0)
        builder.PrependUOffsetTRelativeSlot(6, payload_at, 0)
        tables.append(builder.EndObject())
    return _envelope(_vector_of(builder, tables), schema_type=1)


def log_message(level: int, source: str, payload: bytes) -> bytes:
    """A message of one log entry."""
    builder = flatbuffers.Builder(512)
    payload_at = builder.CreateByteVector(payload)
    source_at = builder.CreateString(source)
    builder.StartObject(7)
    builder.PrependUint8Slot(0, 1, 0)
    builder.PrependUint8Slot(2, level, 255)
    builder.PrependUint64Slot(3, RECEIVED_AT_MS, 0)
    builder.PrependUOffsetTRelativeSlot(4, source_at, 0)
    builder.PrependUOffsetTRelativeSlot(6, payload_at, 0)
    return _envelope(_vector_of(builder, [builder.EndObject()]), schema_type=2)


def metric_message(value: float) -> bytes:
    """A message of one gauge."""
    builder = flatbuffers.Builder(512)
    name_at = builder.CreateString("queue_depth")
    builder.StartObject(11)
    builder.PrependUint8Slot(0, 1, 0)
    builder.PrependUint64Slot(1, RECEIVED_AT_MS * 1_000_000, 0)
    builder.PrependUOffsetTRelativeSlot(2, name_at, 0)
    builder.PrependFloat64Slot(3, value, 0.0)
    return _envelope(_vector_of(builder, [builder.EndObject()]), schema_type=3)


def _vector_of(builder: flatbuffers.Builder, tables: Sequence[int]) -> bytes:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _envelope(data: bytes, schema_type: int) -> bytes:
    builder = flatbuffers.Builder(1024)
    data_at = builder.CreateByteVector(data)
    key_at = builder.CreateByteVector(bytes(range(1, 17)))
    builder.StartObject(6)
    builder.PrependUOffsetTRelativeSlot(0, key_at, 0)
    builder.PrependUint8Slot(1, schema_type, 0)
    builder.PrependUint8Slot(2, 100, 0)
    builder.PrependUOffsetTRelativeSlot(4, data_at, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def batch_of(*messages: bytes, workspace_id: int = 1) -> Batch:
    """One batch, received at RECEIVED_AT_MS from 192.0.2.7."""
    return batch_of_messages(
        messages, workspace_id=workspace_id, received_at_ms=RECEIVED_AT_MS, source_ip=SOURCE_IP
    )


def frames_in(content: bytes) -> list[bytes]:
    """The messages of a file of raw frames."""
    messages = []
    while content:
        (length,) = struct.unpack_from(">I", content)
        assert length <= FRAME_BYTES_MAX
        messages.append(content[4 : 4 + length])
        content = content[4 + length :]
    return messages


class Client:
    """Makes messages and batches as clients and sources do."""

    event_message = staticmethod(event_message)
    log_message = staticmethod(log_message)
    metric_message = staticmethod(metric_message)
    batch_of = staticmethod(batch_of)
    frames_in = staticmethod(frames_in)


@pytest.fixture
def client() -> Client:
    """Tests can't import a conftest; this is what they would import."""
    return Client()


@pytest.fixture
def write_archive() -> WriteArchive:
    """Writes batches into an archive as the disk_binary sink does."""

    def write(path: Path, batches: Sequence[Batch]) -> Path:
        sink = DiskBinaryConfig(path=path).build(SinkContext("archive"))
        sink.open()
        for sequence, batch in enumerate(batches):
            header = batch.header._replace(producer=b"p" * 16, epoch=1, sequence=sequence)
            sink.write(Batch(header, batch.records, batch.offsets))
        sink.flush()
        sink.close()
        return path

    return write


@pytest.fixture(scope="session")
def synthetic_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 synthetic events and log entries of two workspaces."""
    path = tmp_path_factory.mktemp("synthetic") / "archive"
    sink = DiskBinaryConfig(path=path).build(SinkContext("archive"))
    sink.open()

    class Taker:
        """Gives ids and writes at once, because a source uses its buffers again."""

        sequence = 0

        def submit(self, batch: Batch) -> None:
            """Write one batch."""
            header = batch.header._replace(producer=b"p" * 16, epoch=1, sequence=self.sequence)
            self.sequence += 1
            sink.write(Batch(header, batch.records, batch.offsets))
            sink.flush()

        def submit_packed(self, batches: Sequence[Batch]) -> list[None]:
            """Write several."""
            return [self.submit(batch) for batch in batches]

    config = SyntheticConfig(events=10_000, workspaces=2, log_share=0.3, batch_events=1000)
    config.build(SourceContext("gen")).run(Taker(), threading.Event())  # type: ignore[arg-type]
    sink.close()
    return path
