"""The batch: the unit of routing, delivery and acknowledgement.

A batch is immutable: a header that the router reads, and buffers that are mapped
into every process of the node. `records` are exactly the bytes of a disk_binary
file: per message 24 bytes of metadata, a 4-byte big-endian size, the message.
Several small batches may share one object, the *pack*; each header says where in
it its batch lies. A lone batch is a pack of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import NO_TIME_MS, RECORD_PREFIX_BYTES

Bytes: TypeAlias = NDArray[np.uint8]
Offsets: TypeAlias = NDArray[np.uint64]

NO_PRODUCER = bytes(16)


class BatchId(NamedTuple):
    """Who made a batch and which one it is; unique for ever."""

    producer: bytes
    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.producer.hex()[:8]}.{self.epoch:x}.{self.sequence}"


class BatchHeader(NamedTuple):
    """All that a router reads of a batch.

    `producer` is 16 bytes. `event_types` has bit t set if an event of EventType t is
    in the batch (0 for other schemas). `record_bytes` and `checksum` (xxh3-64) are
    those of the records. `time_min_ms`/`time_max_ms` are event times, NO_TIME_MS when
    unknown. `records_start` (bytes) and `offsets_start` (index) place it in its pack.
    """

    producer: bytes
    epoch: int
    sequence: int
    schema_type: int
    event_types: int
    workspace_id: int
    source_id: str
    received_at_ms: int
    message_count: int
    event_count: int
    record_bytes: int
    checksum: int
    time_min_ms: int = NO_TIME_MS
    time_max_ms: int = NO_TIME_MS
    records_start: int = 0
    offsets_start: int = 0

    @property
    def batch_id(self) -> BatchId:
        """The batch's identity."""
        return BatchId(self.producer, self.epoch, self.sequence)


class Pack(NamedTuple):
    """What one object of the store holds: the buffers of one or more batches.

    `offsets` are, per batch, message_count + 1 values relative to that batch's own
    first record. `pattern_ids` is None unless a batch in it carries them; then it has
    one value per log entry of the one batch in the pack.
    """

    records: Bytes
    offsets: Offsets
    pattern_ids: NDArray[np.uint64] | None = None

    @property
    def held_bytes(self) -> int:
        """What the pack weighs in the object store, in bytes."""
        ids = 0 if self.pattern_ids is None else self.pattern_ids.nbytes
        return self.records.nbytes + self.offsets.nbytes + ids

    def copied(self) -> Pack:
        """The same in memory of its own: the buffers may be used again at once."""
        ids = None if self.pattern_ids is None else self.pattern_ids.copy()
        return Pack(self.records.copy(), self.offsets.copy(), ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as a sink sees it: header and read-only buffers.

    `records` has header.record_bytes bytes; `offsets` message_count + 1 values, the
    last equal to record_bytes. The buffers may lie in shared memory: keep no
    reference to them longer than needed.
    """

    header: BatchHeader
    records: Bytes
    offsets: Offsets
    pattern_ids: NDArray[np.uint64] | None = None

    def messages(self) -> Iterator[memoryview]:
        """Each message without its metadata and size; for tools and tests, not hot paths."""
        view = self.records.data
        for start, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield view[start + RECORD_PREFIX_BYTES : end]

    def offsets_fit(self) -> bool:
        """Whether the offsets cut exactly the records into as many as the header says."""
        offsets = self.offsets
        return (
            len(offsets) == self.header.message_count + 1
            and int(offsets[0]) == 0
            and int(offsets[-1]) == int(offsets.max()) == len(self.records)
            and bool((offsets[1:] >= offsets[:-1] + np.uint64(RECORD_PREFIX_BYTES)).all())
        )

    def to_pack(self) -> Pack:
        """The pack that holds just this batch; its header must have both starts at 0."""
        return Pack(self.records, self.offsets, self.pattern_ids)


def unpack(pack: Pack, header: BatchHeader) -> Batch:
    """The batch that `header` describes inside `pack`, as views, nothing copied.

    Raises ValueError if the header's range does not lie inside the pack.
    """
    records_end = header.records_start + header.record_bytes
    offsets_end = header.offsets_start + header.message_count + 1
    if records_end > len(pack.records) or offsets_end > len(pack.offsets):
        raise ValueError(
            f"batch {header.batch_id} claims bytes {header.records_start}..{records_end} of a "
            f"pack of {len(pack.records)}"
        )
    return Batch(
        header,
        pack.records[header.records_start : records_end],
        pack.offsets[header.offsets_start : offsets_end],
        pack.pattern_ids,
    )


def pack_batches(batches: Sequence[Batch]) -> tuple[Pack, list[BatchHeader]]:
    """One pack of several batches back to back, and their headers with the places set.

    Batches that carry pattern ids must travel alone; raises ValueError otherwise.
    """
    if len(batches) == 1:
        only = batches[0]
        return only.to_pack(), [only.header._replace(records_start=0, offsets_start=0)]
    if any(batch.pattern_ids is not None for batch in batches):
        raise ValueError("a batch with pattern ids can't share a pack")
    headers, records_start, offsets_start = [], 0, 0
    for batch in batches:
        headers.append(
            batch.header._replace(records_start=records_start, offsets_start=offsets_start)
        )
        records_start += len(batch.records)
        offsets_start += len(batch.offsets)
    return (
        Pack(
            np.concatenate([batch.records for batch in batches]),
            np.concatenate([batch.offsets for batch in batches]),
        ),
        headers,
    )
