"""What the tests of Parquet files share."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.enums import EventType, LogEventType, LogLevel
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings, RowCounts
from cdp_ray_sinks.writers.parquet_schemas import TIME_MS_MAX

Row = dict[str, Any]
Message = tuple[bytes, int, bytes]
"""What was sent, when it was received in Unix ms, and the 16 bytes of where it came from."""


class ParquetBench:
    """Writes batches, reads them back, and knows from the messages alone what must be there."""

    workspace_id = 4_000_000_000

    def batch(
        self, messages: Sequence[Message], schema_type: int = 1, event_count: int = 0
    ) -> Batch:
        """A batch of those messages; the header says `event_count`, true or not."""
        records = [
            struct.pack(">Q", received) + address + struct.pack(">I", len(message)) + message
            for message, received, address in messages
        ]
        offsets = np.cumsum([0, *map(len, records)]).astype(np.uint64)
        content = np.frombuffer(b"".join(records), np.uint8)
        header = BatchHeader(
            NO_PRODUCER, 0, 0, schema_type, 0, self.workspace_id, "test", 0, len(messages),
            event_count, len(content), 0,
        )  # fmt: skip
        return Batch(header, content, offsets)

    def written(
        self, stream: str, batches: Sequence[Batch], settings: ParquetSettings | None = None
    ) -> pq.ParquetFile:
        """One `add` of all of them, read back."""
        out = BytesIO()
        counts = self._write(out, stream, batches, settings)
        found = pq.ParquetFile(BytesIO(out.getvalue()))
        assert counts.rows == found.metadata.num_rows
        assert counts.row_groups == found.metadata.num_row_groups
        return found

    def counts(self, stream: str, batches: Sequence[Batch]) -> RowCounts:
        """What one `add` of all of them says."""
        return self._write(BytesIO(), stream, batches, None)

    def _write(
        self, out: BytesIO, stream: str, batches: Any, settings: ParquetSettings | None
    ) -> RowCounts:
        file = ParquetFile(out, stream, self.workspace_id, settings)
        counts = file.add(batches)
        file.finish({})
        return counts

    def rows(self, file: pq.ParquetFile, row_group: int | None = None) -> list[Row]:
        """Rows with times as numbers, in the file's order; the table is valid Arrow."""
        table = file.read() if row_group is None else file.read_row_group(row_group)
        table.validate(full=True)
        for place, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type):
                table = table.set_column(place, field.name, table[field.name].cast(pa.int64()))
        rows: list[Row] = table.to_pylist()
        return rows

    def event_row(self, event: Row, received: int, address: bytes) -> Row:
        """The row of an event as the oracle reads it."""
        return self._times(event, received) | {
            "event_type": EventType(event["event_type"]).name.lower(),
            "event_name": event["event_name"],
            "service": event["service"],
            "device_id": _uuid(event["device_id"]),
            "session_id": _uuid(event["session_id"]),
            **self._rest(event, address),
        }

    def log_row(self, entry: Row, received: int, address: bytes) -> Row:
        """The row of a log entry as the oracle reads it."""
        return self._times(entry, received) | {
            "level": LogLevel(entry["level"]).name.lower(),
            "event_type": LogEventType(entry["event_type"]).name.lower(),
            "source": entry["source"],
            "service": entry["service"],
            "session_id": _uuid(entry["session_id"]),
            **self._rest(entry, address),
        }

    def expected(self, read: Callable[[bytes], list[Row]], row_of: Any, sent: Any) -> list[Row]:
        """The rows of all messages of batches, in a row group's order."""
        rows = [
            row_of(entry, received, address)
            for messages in sent
            for message, received, address in messages
            for entry in read(message)
        ]
        return sorted(rows, key=lambda row: (row["timestamp"] is None, row["timestamp"] or 0))

    def _times(self, entry: Row, received: int) -> Row:
        time = entry["timestamp"]
        is_time = time <= TIME_MS_MAX
        return {
            "timestamp": time if is_time else None,
            "timestamp_raw": None if is_time else time,
            "batch_timestamp": received if received <= TIME_MS_MAX else None,
            "workspace_id": self.workspace_id,
        }

    def _rest(self, entry: Row, address: bytes) -> Row:
        parsed = IPv6Address(address)
        text, damaged = entry["payload"], None
        try:
            text = None if text is None else text.decode()
        except UnicodeDecodeError:
            text, damaged = None, text
        return {
            "source_ip": str(parsed.ipv4_mapped or parsed),
            "payload": text,
            "payload_bytes": damaged,
        }


def _uuid(value: bytes | None) -> UUID | None:
    return None if value is None else UUID(bytes=value)


@pytest.fixture(scope="session")
def parquet_bench() -> ParquetBench:
    """Writes Parquet files and says what must be in them."""
    return ParquetBench()
