"""The flatbuffers library as the judge of what a message is and what is in it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.generated.Batch import Batch as Envelope
from cdp_ray_sinks.batch.generated.CollectorEventData import CollectorEventData
from cdp_ray_sinks.batch.generated.EventData import EventData
from cdp_ray_sinks.batch.generated.LogData import LogData
from cdp_ray_sinks.batch.kernels.tables import BUDGET_FACTOR, ROW_BUDGET_BYTES
from cdp_ray_sinks.batch.message_check import BYTES, EVENT, LOG_ENTRY, check
from cdp_ray_sinks.errors import MalformedMessageError

IP = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
RECEIVED_AT_MS = 1_700_000_000_000
TIME_MAX = 2**63 - 1

Row = dict[str, Any]


class Oracle:
    """Builds and reads messages without any kernel."""

    received_at_ms = RECEIVED_AT_MS
    source_ip = IP

    def batch(self, messages: Sequence[bytes], schema_type: int = 1, event_count: int = 0) -> Batch:
        """A batch of those messages; the header says `event_count`, true or not."""
        records = [
            struct.pack(">Q", RECEIVED_AT_MS + place)
            + IP
            + struct.pack(">I", len(message))
            + message
            for place, message in enumerate(messages)
        ]
        offsets = np.zeros(len(records) + 1, np.uint64)
        offsets[1:] = np.cumsum([len(record) for record in records])
        content = np.frombuffer(b"".join(records), np.uint8)
        header = BatchHeader(
            NO_PRODUCER, 0, 0, schema_type, 0, 1, "test", RECEIVED_AT_MS, len(messages),
            event_count, len(content), 0,
        )  # fmt: skip
        return Batch(header, content, offsets)

    def frames(self, content: bytes) -> list[bytes]:
        """The messages of a stream of frames."""
        found, position = [], 0
        while position < len(content):
            (count,) = struct.unpack_from(">I", content, position)
            found.append(content[position + 4 : position + 4 + count])
            position += 4 + count
        return found

    def schema_of(self, message: bytes) -> int:
        return int(Envelope.GetRootAs(message).SchemaType())

    def data_of(self, message: bytes, schema_type: int) -> bytes:
        """The nested buffer; raises MalformedMessageError if there is none."""
        check(message, (None, 1, None, None, BYTES), budget_bytes=2**62)
        envelope = Envelope.GetRootAs(message)
        if envelope.DataIsNone():
            raise MalformedMessageError("no data", 0)
        data: bytes = envelope.DataAsNumpy().tobytes()
        # The order of the checks does not matter: all of them must hold.
        if envelope.SchemaType() != schema_type:
            raise MalformedMessageError("another schema", 0)
        return data

    def events(self, message: bytes, dialect: str) -> list[Row]:
        """The events, read as one dialect; raises MalformedMessageError if it is damaged."""
        data = self._checked(message, 1, EVENT)
        if dialect == "v2":
            root: Any = EventData.GetRootAs(data)
        else:
            root = CollectorEventData.GetRootAs(data)
        if root.EventsIsNone():
            raise MalformedMessageError("no entries", 0)
        return [_event(root.Events(place), dialect) for place in range(root.EventsLength())]

    def logs(self, message: bytes) -> list[Row]:
        """The log entries; raises MalformedMessageError if the message is damaged."""
        root = LogData.GetRootAs(self._checked(message, 2, LOG_ENTRY))
        if root.LogsIsNone():
            raise MalformedMessageError("no entries", 0)
        return [_log(root.Logs(place)) for place in range(root.LogsLength())]

    def _checked(self, message: bytes, schema_type: int, shape: Any) -> bytes:
        data = self.data_of(message, schema_type)
        # The kernels count the whole message, and no root table.
        budget = BUDGET_FACTOR * len(message) + ROW_BUDGET_BYTES
        check(data, ([shape],), budget)
        return data

    def build(self, data: bytes, schema_type: int, key: bytes = bytes(16)) -> bytes:
        """A message around `data`, by the library's builder."""
        outer = flatbuffers.Builder(len(data) + 128)
        nested = outer.CreateByteVector(data)
        api_key = outer.CreateByteVector(key)
        outer.StartObject(6)
        outer.PrependUOffsetTRelativeSlot(0, api_key, 0)
        outer.PrependUint8Slot(1, schema_type, 0)
        outer.PrependUint8Slot(2, 100, 0)
        outer.PrependUOffsetTRelativeSlot(4, nested, 0)
        outer.Finish(outer.EndObject())
        return bytes(outer.Output())

    def build_rows(
        self, rows: Sequence[Sequence[Any]], schema_type: int = 1, shared: bool = False
    ) -> bytes:
        """A message of tables whose fields are, by slot, None, ("u8"|"u64", n) or bytes.

        With `shared` equal byte strings are stored once, as a builder may.
        """
        builder = flatbuffers.Builder(1024)
        known: dict[bytes, int] = {}
        tables = []
        for row in rows:
            places = {}
            for slot, value in enumerate(row):
                if isinstance(value, bytes):
                    if not shared or value not in known:
                        # A zero behind it, as strings have; vectors don't mind.
                        known[value] = builder.CreateString(value)
                    places[slot] = known[value]
            builder.StartObject(len(row))
            for slot, value in enumerate(row):
                if slot in places:
                    builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
                elif value is not None:
                    # A default that no value equals, so that zeros are written too.
                    put = (
                        builder.PrependUint8Slot if value[0] == "u8" else builder.PrependUint64Slot
                    )
                    put(slot, value[1], None)
            tables.append(builder.EndObject())
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        vector = builder.EndVector()
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        builder.Finish(builder.EndObject())
        return self.build(bytes(builder.Output()), schema_type)


def _bytes(vector: Any) -> bytes | None:
    return vector.tobytes() if isinstance(vector, np.ndarray) else None


def _id(vector: Any) -> bytes | None:
    value = _bytes(vector)
    return value if value is not None and len(value) == 16 else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _event(event: Any, dialect: str) -> Row:
    code = event.EventType()
    return {
        "event_type": code if code <= 6 else 0,
        "timestamp": min(event.Timestamp(), TIME_MAX),
        "service": _text(event.Service()) if dialect == "v2" else None,
        "device_id": _id(event.DeviceIdAsNumpy()),
        "session_id": _id(event.SessionIdAsNumpy()),
        "event_name": _text(event.EventName()),
        "payload": _bytes(event.PayloadAsNumpy()),
    }


def _log(entry: Any) -> Row:
    code, level = entry.EventType(), entry.Level()
    return {
        "event_type": code if code <= 2 else 0,
        "level": level if level <= 8 else 6,
        "timestamp": min(entry.Timestamp(), TIME_MAX),
        "session_id": _id(entry.SessionIdAsNumpy()),
        "source": _text(entry.Source()),
        "service": _text(entry.Service()),
        "payload": _bytes(entry.PayloadAsNumpy()),
    }
