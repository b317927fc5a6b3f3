"""Batches out of bytes that no index describes: walk the records, take what they say.

The kernels are imported where they are used: a process that only writes never loads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader, Bytes
from cdp_ray_sinks.batch.enums import (
    API_KEY_BYTES,
    METADATA_BYTES,
    NO_TIME_MS,
    RECORD_PREFIX_BYTES,
)
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.files.index_reading import Report
from cdp_ray_sinks.files.mapping import is_readable

if TYPE_CHECKING:
    from cdp_ray_sinks.batch.message_run import MessageRun

Places = NDArray[np.int64]

RECORDS_BYTES_MAX: Final = 4 * 1024 * 1024
MESSAGE_COUNT_MAX: Final = 8192
TORN_RECORD: Final = "torn record"
_HOUR_MS: Final = 3_600_000


def frame(records: Bytes, message_count: int) -> tuple[Places, str | None]:
    """Where each record of a batch begins, and its end last; or what is wrong.

    `message_count` is a claim: no more is allocated than the bytes can hold.
    """
    from cdp_ray_sinks.batch.kernels.cache import readonly
    from cdp_ray_sinks.batch.kernels.frames import INDEX_END, index_records

    room = min(message_count, len(records) // RECORD_PREFIX_BYTES)
    starts = np.empty(room + 1, np.int64)
    count, position, status = index_records(readonly(records), 0, len(records), starts[:room])
    starts[count] = position
    if status != INDEX_END or count != message_count:
        found = f"{count} of {message_count} records frame"
        return starts[: count + 1], f"{found}, up to byte {position} of its {len(records)}"
    return starts, None


def listed_batch(header: BatchHeader, records: Bytes) -> Batch | str:
    """The batch that an index lists, or why these bytes are not its records."""
    if xxh3(records) != header.checksum:
        return "its checksum does not hold"
    starts, problem = frame(records, header.message_count)
    if problem is not None:
        return problem
    return Batch(header, records, starts.view(np.uint64))


class RecordScan:
    """Walks the records of `records[start:end]`; `position` is the end of the last good one.

    `report` gets what ends the walk early: a torn record, a size that can't be, a record
    without a message (which is how zeros look). `run` may be shared by scans one after
    the other; it must hold MESSAGE_COUNT_MAX messages.
    """

    def __init__(
        self,
        records: Bytes,
        path: Path,
        workspace_id: int,
        report: Report,
        run: MessageRun | None = None,
    ) -> None:
        from cdp_ray_sinks.batch.kernels.cache import readonly
        from cdp_ray_sinks.batch.message_run import MessageRun

        self._records = readonly(records)
        self._path = path
        self._workspace_id = workspace_id
        self._report = report
        self._run: MessageRun = run or MessageRun(MESSAGE_COUNT_MAX)
        self.position = 0

    def batches(
        self, start: int, end: int, records_bytes_max: int = RECORDS_BYTES_MAX
    ) -> Iterator[Batch]:
        """Batches without an id, each of one schema and UTC hour, in the order of the bytes.

        A batch holds at most `records_bytes_max`, or the one record that is larger. Key
        bytes that are not zero already are zero in the batch, which then is a copy.
        """
        for starts in self.pieces(start, end, records_bytes_max):
            yield from self._batches_of(starts)

    def pieces(
        self, start: int, end: int, records_bytes_max: int = RECORDS_BYTES_MAX
    ) -> Iterator[Places]:
        """Where the records begin, a piece at a time, with the piece's end as the last."""
        from cdp_ray_sinks.batch.kernels.frames import INDEX_END, INDEX_OVERSIZE, index_records

        self.position = start
        starts = np.empty(MESSAGE_COUNT_MAX + 1, np.int64)
        while self.position < end:
            piece_end = self._piece_end(end, records_bytes_max)
            if not is_readable(self._records[self.position : piece_end]):
                self._complain("bytes that can't be read")
                return
            count, position, status = index_records(
                self._records, self.position, piece_end, starts[:MESSAGE_COUNT_MAX]
            )
            starts[count] = position
            piece = starts[: count + 1].copy()
            empty = np.flatnonzero(np.diff(piece) == RECORD_PREFIX_BYTES)
            if len(empty):
                piece = piece[: empty[0] + 1]
            self.position = int(piece[-1])
            if len(piece) > 1:
                yield piece
            if len(empty):
                self._complain("record without a message")
                return
            if count == 0 or status == INDEX_OVERSIZE:
                oversize = status == INDEX_OVERSIZE
                self._complain("record of impossible size" if oversize else TORN_RECORD)
                return
            if status == INDEX_END and piece_end == end:
                return

    def _piece_end(self, end: int, records_bytes_max: int) -> int:
        """Where to look up to: at least one whole record if there is one."""
        size_at = self.position + METADATA_BYTES
        if not is_readable(self._records[size_at : size_at + 4]):
            return min(end, size_at + 4)
        size = int.from_bytes(self._records[size_at : size_at + 4].tobytes(), "big")
        return min(end, self.position + max(records_bytes_max, RECORD_PREFIX_BYTES + size))

    def _complain(self, reason: str) -> None:
        self._report(CorruptSegmentError(str(self._path), self.position, reason))

    def facts(self, starts: Places) -> NDArray[np.int64]:
        """What is known of each message of a piece, see `batch.kernels.facts`."""
        return self._check(self._records, starts)

    def _check(self, records: Bytes, starts: Places) -> NDArray[np.int64]:
        run = self._run
        run.buffer = records
        run.count = len(starts) - 1
        run.starts[: run.count] = starts[:-1] + RECORD_PREFIX_BYTES
        run.lengths[: run.count] = np.diff(starts) - RECORD_PREFIX_BYTES
        run.check(workspace_id=1)  # any: keys say nothing in an archive
        return run.facts[: run.count]

    def _batches_of(self, starts: Places) -> Iterator[Batch]:
        from cdp_ray_sinks.batch.kernels.facts import FACT_SCHEMA_TYPE

        records = self._records[int(starts[0]) : int(starts[-1])]
        starts = starts - starts[0]
        facts = self._check(records, starts)
        records = _without_keys(records, starts, facts)
        received = received_times(records, starts)
        schemas = np.maximum(facts[:, FACT_SCHEMA_TYPE], 0)
        codes = received // _HOUR_MS * 256 + schemas.astype(np.uint64)
        cuts = np.flatnonzero(np.diff(codes)) + 1
        for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(facts)], strict=True):
            yield self._batch(records, starts[first : end + 1], facts[first:end], received[first])

    def _batch(
        self, records: Bytes, starts: Places, facts: NDArray[np.int64], received: Any
    ) -> Batch:
        from cdp_ray_sinks.batch.kernels.facts import (
            FACT_EVENT_COUNT,
            FACT_EVENT_TYPES,
            FACT_SCHEMA_TYPE,
            FACT_STATUS,
            FACT_TIME_MAX,
            FACT_TIME_MIN,
            MESSAGE_OK,
        )

        own = records[int(starts[0]) : int(starts[-1])]
        good = facts[facts[:, FACT_STATUS] == MESSAGE_OK]
        timed = good[good[:, FACT_TIME_MIN] != NO_TIME_MS]
        header = BatchHeader(
            producer=NO_PRODUCER,
            epoch=0,
            sequence=0,
            schema_type=max(int(facts[0, FACT_SCHEMA_TYPE]), 0),
            event_types=int(np.bitwise_or.reduce(np.maximum(good[:, FACT_EVENT_TYPES], 0))),
            workspace_id=self._workspace_id,
            source_id="",
            received_at_ms=int(received),
            message_count=len(facts),
            event_count=int(np.maximum(good[:, FACT_EVENT_COUNT], 0).sum()),
            record_bytes=len(own),
            checksum=xxh3(own),
            time_min_ms=int(timed[:, FACT_TIME_MIN].min()) if len(timed) else NO_TIME_MS,
            time_max_ms=int(timed[:, FACT_TIME_MAX].max()) if len(timed) else NO_TIME_MS,
        )
        return Batch(header, own, (starts - starts[0]).view(np.uint64))


def received_times(records: Bytes, starts: Places) -> NDArray[np.uint64]:
    """The received time of each record, in ms; `starts` has one value more than records."""
    eights = records[starts[:-1, None] + np.arange(8)]
    received: NDArray[np.uint64] = eights.view(">u8").reshape(-1).astype(np.uint64)
    return received


def _without_keys(records: Bytes, starts: Places, facts: NDArray[np.int64]) -> Bytes:
    """The same records, or a copy with the messages' key bytes zeroed if some are not.

    Other software keeps the keys in its files; they must not travel any further.
    """
    from cdp_ray_sinks.batch.kernels.facts import FACT_KEY_OFFSET, FACT_STATUS, MESSAGE_OK

    good = facts[:, FACT_STATUS] == MESSAGE_OK
    places = (starts[:-1] + RECORD_PREFIX_BYTES + facts[:, FACT_KEY_OFFSET])[good]
    keys = places[:, None] + np.arange(API_KEY_BYTES)
    if not records[keys].any():
        return records
    records = records.copy()
    records[keys] = 0
    return records
