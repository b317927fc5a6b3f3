"""Messages, batches and archives made by hand; tests get it as the fixture `maker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import lz4.frame
import numpy as np

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.files.commit_index import (
    LZ4,
    RANGE_CHECKSUM,
    RECORDS,
    Commit,
    IndexHeader,
    Seal,
    encode_commit,
    encode_seal,
    encode_snapshot,
    entries_of,
    xxh3,
)

HOUR_MS = 3_600_000
START_MS = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC."""


class Maker:
    """Makes messages, batches and segment files without the code under test."""

    start_ms = START_MS
    producer = bytes(range(16))

    def message(
        self,
        event_count: int = 1,
        *,
        schema_type: int = 1,
        key: bytes = bytes(16),
        filler: bytes = b"{}",
    ) -> bytes:
        """A valid message of `event_count` TRACK events (or log entries)."""
        inner = flatbuffers.Builder(256)
        rows = []
        for number in range(event_count):
            payload = inner.CreateByteVector(filler)
            inner.StartObject(7)
            inner.PrependUint8Slot(0, 1, 0)
            inner.PrependUint64Slot(3 if schema_type == 2 else 1, START_MS + number, 0)
            inner.PrependUOffsetTRelativeSlot(6, payload, 0)
            rows.append(inner.EndObject())
        inner.StartVector(4, len(rows), 4)
        for row in reversed(rows):
            inner.PrependUOffsetTRelative(row)
        vector = inner.EndVector()
        inner.StartObject(1)
        inner.PrependUOffsetTRelativeSlot(0, vector, 0)
        inner.Finish(inner.EndObject())
        outer = flatbuffers.Builder(512)
        data = outer.CreateByteVector(bytes(inner.Output()))
        key_vector = outer.CreateByteVector(key)
        outer.StartObject(6)
        outer.PrependUOffsetTRelativeSlot(0, key_vector, 0)
        outer.PrependUint8Slot(1, schema_type, 0)
        outer.PrependUint8Slot(2, 100, 0)
        outer.PrependUOffsetTRelativeSlot(4, data, 0)
        outer.Finish(outer.EndObject())
        return bytes(outer.Output())

    def record(self, message: bytes, received_at_ms: int, ip: bytes = bytes(16)) -> bytes:
        """The record of a message, put together by the book."""
        return received_at_ms.to_bytes(8, "big") + ip + len(message).to_bytes(4, "big") + message

    def batch(
        self,
        messages: Sequence[bytes],
        *,
        sequence: int = 0,
        received_at_ms: int = START_MS,
        step_ms: int = 0,
        workspace_id: int = 42,
        event_count: int | None = None,
    ) -> Batch:
        """A batch of the given messages, received `step_ms` after one another."""
        records = [
            self.record(message, received_at_ms + place * step_ms)
            for place, message in enumerate(messages)
        ]
        offsets = np.cumsum([0, *map(len, records)]).astype(np.uint64)
        joined = np.frombuffer(b"".join(records), np.uint8)
        header = BatchHeader(
            producer=self.producer,
            epoch=7,
            sequence=sequence,
            schema_type=1,
            event_types=2,
            workspace_id=workspace_id,
            source_id="hand",
            received_at_ms=received_at_ms,
            message_count=len(messages),
            event_count=len(messages) if event_count is None else event_count,
            record_bytes=len(joined),
            checksum=xxh3(joined),
        )
        return Batch(header, joined, offsets)

    def index(
        self,
        commits: Sequence[Sequence[Batch]],
        *,
        is_sealed: bool = True,
        workspace_id: int = 42,
        delay_ms: int = 50,
        frames: Sequence[bytes] | None = None,
    ) -> list[bytes]:
        """The parts of an index: its header, a snapshot, a record per commit, the seal.

        A commit is `delay_ms` later than the begin of its last batch. `frames` are what the
        commits are stored as in a compressed segment.
        """
        flags = 0 if frames is None else RANGE_CHECKSUM | LZ4 | RECORDS
        parts = [IndexHeader(3, 1, workspace_id, START_MS, flags).to_bytes(), encode_snapshot([])]
        end = messages = events = 0
        for place, batches in enumerate(commits):
            headers = [batch.header for batch in batches]
            stored_bytes, checksum = sum(header.record_bytes for header in headers), 0
            if frames is not None:
                stored_bytes, checksum = len(frames[place]), xxh3(frames[place])
            start, end = end, end + stored_bytes
            at_ms = max((h.received_at_ms for h in headers), default=START_MS) + delay_ms
            entries = entries_of(headers, [0] * len(headers))
            parts.append(encode_commit(Commit(start, end, checksum, at_ms, entries)))
            messages += sum(header.message_count for header in headers)
            events += sum(header.event_count for header in headers)
        if is_sealed:
            parts.append(encode_seal(Seal(end, messages, events, START_MS + HOUR_MS)))
        return parts

    def frame(self, content: bytes) -> bytes:
        """An LZ4 frame as a commit is one, by the library: 64 KiB blocks, independent."""
        frame: bytes = lz4.frame.compress(content, block_size=4, block_linked=False)
        return frame

    def segment(
        self,
        base: Path,
        commits: Sequence[Sequence[Batch]],
        *,
        name: str = "data.bin",
        partition: str = "2026-01-01/00",
        is_sealed: bool = True,
        workspace_id: int = 42,
    ) -> Path:
        """Write a segment and its index; returns the data file. Compressed by its name."""
        directory = base / str(workspace_id) / partition
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / name
        stored = [b"".join(b.records.tobytes() for b in batches) for batches in commits]
        frames = None
        if name.endswith(".lz4"):
            stored = frames = [self.frame(content) for content in stored]
        path.write_bytes(b"".join(stored))
        index = self.index(commits, is_sealed=is_sealed, workspace_id=workspace_id, frames=frames)
        path.with_name(name + ".idx").write_bytes(b"".join(index))
        return path
