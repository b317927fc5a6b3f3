"""From messages to a batch: copy them behind one another, count and checksum them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader, Bytes, Offsets
from cdp_ray_sinks.batch.enums import NO_TIME_MS, RECORD_PREFIX_BYTES
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_EVENT_COUNT,
    FACT_EVENT_TYPES,
    FACT_KEY_OFFSET,
    FACT_SCHEMA_TYPE,
    FACT_STATUS,
    MESSAGE_OK,
    TOTAL_COLUMNS,
    TOTAL_EVENT_COUNT,
    TOTAL_EVENT_TYPES,
    TOTAL_TIME_MAX,
    TOTAL_TIME_MIN,
)
from cdp_ray_sinks.batch.kernels.frames import frame_records
from cdp_ray_sinks.batch.message_run import MessageRun, Places

RECORDS_BYTES_MAX: Final = 4 * 1024 * 1024
HOUR_MS: Final = 3_600_000
LOOPBACK_IP: Final = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"

_RECORDS_BYTES_FIRST: Final = 16 * 1024
_OFFSETS_FIRST: Final = 256


class BatchBuilder:
    """Collects messages of one workspace, schema and hour; its buffers are reused.

    The buffers grow to `records_bytes_max` and `message_count_max` and stay, because
    fresh memory is slow. A message larger than that has a batch to itself.
    """

    def __init__(
        self,
        workspace_id: int,
        schema_type: int,
        source_id: str,
        records_bytes_max: int = RECORDS_BYTES_MAX,
        message_count_max: int = 65_536,
    ) -> None:
        self.workspace_id = workspace_id
        self.schema_type = schema_type
        self._source_id = source_id
        self._records_bytes_max = records_bytes_max
        self._message_count_max = message_count_max
        self._records: Bytes = np.empty(min(_RECORDS_BYTES_FIRST, records_bytes_max), np.uint8)
        self._offsets: Offsets = np.zeros(min(_OFFSETS_FIRST, message_count_max + 1), np.uint64)
        self._totals: NDArray[np.int64] = np.zeros(TOTAL_COLUMNS, np.int64)
        self._checksum = xxhash.xxh3_64()
        self._received_at_ms = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was collected; batches built before must no longer be used."""
        self.record_bytes = 0
        self.message_count = 0
        self.opened_at_monotonic_ms = 0
        self._totals[:] = 0
        self._totals[TOTAL_TIME_MIN] = self._totals[TOTAL_TIME_MAX] = NO_TIME_MS
        self._checksum.reset()
        if len(self._records) > self._records_bytes_max:
            self._records = np.empty(self._records_bytes_max, np.uint8)

    def reopen(self, workspace_id: int, schema_type: int) -> None:
        """`reset`, and from now on collect for another workspace and schema."""
        self.reset()
        self.workspace_id = workspace_id
        self.schema_type = schema_type

    @property
    def held_bytes(self) -> int:
        """What the buffers weigh, used or not."""
        return self._records.nbytes + self._offsets.nbytes

    @property
    def is_full(self) -> bool:
        """Whether no further message, however small, should be added."""
        return (
            self.record_bytes >= self._records_bytes_max
            or self.message_count >= self._message_count_max
        )

    def takes_hour_of(self, received_at_ms: int) -> bool:
        """Whether messages received then may join: a batch stays within a UTC hour."""
        return (
            self.message_count == 0 or self._received_at_ms // HOUR_MS == received_at_ms // HOUR_MS
        )

    def append(
        self,
        run: MessageRun,
        selected: Places,
        first: int,
        *,
        received_at_ms: int,
        monotonic_ms: int,
        peer_ip: Bytes,
        trust_source_ip: bool = False,
    ) -> int:
        """Copy the messages `selected[first:]` of a checked run, as many as fit.

        Returns the place of the first that did not fit: then `build`, `reset` and go on
        from there. `peer_ip` (16 B) is each record's address unless the message's own is
        trusted and there. Raises ValueError in another UTC hour than the batch's.
        """
        if not self.takes_hour_of(received_at_ms):
            raise ValueError(f"{received_at_ms} ms is not in the hour of this batch")
        before = self.record_bytes
        peer_ip = readonly(peer_ip)
        if self.message_count == 0:
            self._received_at_ms = received_at_ms
            self.opened_at_monotonic_ms = monotonic_ms
        place = first
        while place < len(selected):
            taken, position = frame_records(
                run.buffer,
                run.starts,
                run.lengths,
                run.facts,
                selected,
                place,
                received_at_ms,
                peer_ip,
                trust_source_ip,
                self._records,
                self.record_bytes,
                self._offsets,
                self.message_count,
                self._totals,
            )
            self.message_count += int(taken) - place
            self.record_bytes = int(position)
            place = int(taken)
            if place == len(selected) or not self._make_room(run, int(selected[place])):
                break
        if self.record_bytes > before:
            self._checksum.update(self._records[before : self.record_bytes].data)
        return place

    def _make_room(self, run: MessageRun, message: int) -> bool:
        """Grow the buffers for one more message; False when the batch is full."""
        start, message_bytes = int(run.starts[message]), int(run.lengths[message])
        if start < 0 or message_bytes < 0 or start + message_bytes > len(run.buffer):
            raise ValueError(f"message {message} does not lie in its buffer")
        if self.message_count >= self._message_count_max:
            return False
        wanted = self.record_bytes + RECORD_PREFIX_BYTES + message_bytes
        if wanted > self._records_bytes_max and self.message_count > 0:
            return False
        if self.message_count + 1 >= len(self._offsets):
            offset_count = min(2 * len(self._offsets), self._message_count_max + 1)
            offsets = np.zeros(offset_count, np.uint64)
            offsets[: self.message_count + 1] = self._offsets[: self.message_count + 1]
            self._offsets = offsets
        if wanted > len(self._records):
            capacity = max(wanted, min(4 * len(self._records), self._records_bytes_max))
            records = np.empty(capacity, np.uint8)
            records[: self.record_bytes] = self._records[: self.record_bytes]
            self._records = records
        return True

    def build(self) -> Batch:
        """The batch collected so far, as views of the buffers: valid until `reset`.

        It has no id yet. Raises ValueError if nothing was appended.
        """
        if self.message_count == 0:
            raise ValueError("a batch holds at least one message")
        header = BatchHeader(
            producer=NO_PRODUCER,
            epoch=0,
            sequence=0,
            schema_type=self.schema_type,
            event_types=int(self._totals[TOTAL_EVENT_TYPES]),
            workspace_id=self.workspace_id,
            source_id=self._source_id,
            received_at_ms=self._received_at_ms,
            message_count=self.message_count,
            event_count=int(self._totals[TOTAL_EVENT_COUNT]),
            record_bytes=self.record_bytes,
            checksum=self._checksum.intdigest(),
            time_min_ms=int(self._totals[TOTAL_TIME_MIN]),
            time_max_ms=int(self._totals[TOTAL_TIME_MAX]),
        )
        return Batch(
            header, self._records[: self.record_bytes], self._offsets[: self.message_count + 1]
        )


def batch_of_messages(
    messages: Sequence[bytes],
    *,
    workspace_id: int = 1,
    schema_type: int | None = None,
    received_at_ms: int = 0,
    source_ip: bytes = LOOPBACK_IP,
    source_id: str = "test",
) -> Batch:
    """One batch of the given messages with buffers of its own; for tests and tools.

    Key bytes are zeroed. A message that is not valid is kept as it is and counts no
    event. `schema_type` None takes it from the first message, and 0 if that is malformed.
    Raises ValueError without a message.
    """
    if not messages:
        raise ValueError("a batch holds at least one message")
    run = MessageRun(len(messages))
    run.buffer = np.frombuffer(b"".join(messages) or bytes(1), np.uint8)
    run.count = len(messages)
    run.lengths[:] = [len(message) for message in messages]
    run.starts[1:] = np.cumsum(run.lengths)[:-1]
    run.check(workspace_id=workspace_id)
    is_bad = run.facts[:, FACT_STATUS] != MESSAGE_OK
    run.facts[is_bad, FACT_EVENT_COUNT] = 0
    run.facts[is_bad, FACT_EVENT_TYPES] = 0
    run.facts[is_bad, FACT_KEY_OFFSET] = -1
    if schema_type is None:
        schema_type = max(int(run.facts[0, FACT_SCHEMA_TYPE]), 0)
    builder = BatchBuilder(
        workspace_id,
        schema_type,
        source_id,
        int(run.lengths.sum()) + RECORD_PREFIX_BYTES * len(messages),
        len(messages) + 1,
    )
    builder.append(
        run,
        np.arange(len(messages), dtype=np.int64),
        0,
        received_at_ms=received_at_ms,
        monotonic_ms=0,
        peer_ip=np.frombuffer(source_ip, np.uint8),
    )
    return builder.build()
