"""A sink's spool: batches that wait on disk until their destination takes them.

It is an archive of plain segments, `{directory}/{workspace}/…`, with ids and checksums in
the commit indexes; whoever writes it is a lane, whoever empties it takes batches in the
order in which their workspace's were written, and says which of them are settled. A segment
goes when all of its batches are. How far its first settled ones reach stands beside it, in
`data.bin.pos`; after a crash a few may be handed out again, under their ids.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.delivery.push import DROPPED_FULL, DROPPED_OLD
from cdp_ray_sinks.delivery.spool_segment import SpooledBatch, SpoolSegment
from cdp_ray_sinks.errors import DroppedError, TransientError
from cdp_ray_sinks.files.archive import segments
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig

WhenFull: TypeAlias = Literal["block", "drop_oldest", "drop_newest"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
IDLE_S: Final = 5
PROBLEMS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """`bytes_max` of files and `age_h_max` hours; `when_full` says what gives way.

    "block": a full spool takes nothing, and its sources wait. "drop_newest": what comes is
    dropped. "drop_oldest": the oldest segment is. What is too old is dropped in any case.
    All that is dropped is counted.
    """

    bytes_max: int = 10 * 1024**3
    age_h_max: int = 168
    when_full: WhenFull = "block"


@dataclass(slots=True)
class SpoolState:
    """What a spool holds, and what it had to let go of.

    `batches` wait or are handed out; `oldest_ms` is when the oldest segment was begun.
    """

    is_empty: bool = True
    batches: int = 0
    held_bytes: int = 0
    oldest_ms: int | None = None
    delivered_batches: int = 0
    dropped_batches: int = 0
    dropped_events: int = 0
    damaged: list[str] = field(default_factory=list)


class Spool:
    """The sink behind a spool's lane, and the queue that its emptier reads.

    One thread calls the methods of a sink, another `take`, `settled` and `state`.
    """

    def __init__(
        self,
        directory: Path,
        sink_name: str,
        options: SpoolOptions,
        clock: Clock,
        note: Callable[[BatchHeader, str], None] = lambda header, outcome: None,
    ) -> None:
        """`note` is told of batches that are let go of: DROPPED_FULL or DROPPED_OLD."""
        self._directory = directory
        self._sink_name = sink_name
        self._options = options
        self._clock = clock
        self._tell = note
        config = DiskBinaryConfig(
            path=directory, rotation="daily", segment_bytes_max=SEGMENT_BYTES, idle_s=IDLE_S
        )
        self._archive = config.build(SinkContext(f"{sink_name}-spool", clock))
        self._lock = threading.Lock()
        self._queues: OrderedDict[int, deque[SpoolSegment]] = OrderedDict()
        self._fresh: set[int] = set()
        self._unflushed: set[int] = set()
        self._state = SpoolState()

    # -- the sink -------------------------------------------------------------------------

    def open(self) -> None:
        """Make the directory; find, recover and queue what an earlier life left."""
        self._archive.open()
        for entry in sorted(self._directory.iterdir()):
            if entry.is_dir() and entry.name.isdigit():
                self._archive.ledger_for(int(entry.name))
                self._refresh(int(entry.name))
        for segment in self._segments():
            segment.read_position()
            self._state.batches += len(segment.waiting())
            self._state.held_bytes += segment.file_bytes()
        for reports in self._archive.recovery_reports().values():
            for damage in reports:
                self._note(f"{damage.path}: {damage.reason} at byte {damage.offset}")

    def write(self, batch: Batch) -> None:
        """Take a batch. When full: TransientError or DroppedError, see `SpoolOptions`."""
        while self._state.held_bytes + batch.header.record_bytes > self._options.bytes_max:
            if self._options.when_full == "drop_oldest" and self._drop_oldest():
                continue
            self._refuse(batch)
        self._archive.write(batch)
        with self._lock:
            self._state.held_bytes += batch.header.record_bytes
            self._state.batches += 1
        self._unflushed.add(batch.header.workspace_id)

    def flush(self) -> None:
        """On return what was written is on the disk, and can be taken."""
        try:
            self._archive.flush()
        finally:  # some workspaces may be durable when others are not
            with self._lock:
                self._fresh |= self._unflushed
        self._unflushed.clear()

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Seal what is idle, remove what is settled, drop what is too old, note positions."""
        self._archive.tick(now_ms)
        oldest_ms = now_ms - self._options.age_h_max * 3_600_000
        with self._lock:
            for segment in self._segments():
                if segment.look_whether_sealed() and segment.created_ms < oldest_ms:
                    self._drop(segment, DROPPED_OLD)
                elif not self._remove_if_settled(segment):
                    segment.write_position()

    def close(self) -> None:
        """Flush, note how far it is settled, let go of the files; what waits stays."""
        self._archive.close()
        with self._lock:
            for segment in self._segments():
                segment.look_whether_sealed()
                segment.is_exhausted |= not segment.waiting()  # nobody will read it once more
                if not self._remove_if_settled(segment):
                    segment.write_position()

    def ledger_for(self, workspace_id: int) -> Ledger:
        """Which batches the spool has, or had."""
        return self._archive.ledger_for(workspace_id)

    # -- the emptier ----------------------------------------------------------------------

    def take(self, batches_max: int, bytes_max: int) -> list[SpooledBatch]:
        """The next batches of all workspaces in turn; at least one if there is one.

        The batches' buffers are mapped files and good for as long as they are referred to.
        """
        taken: list[SpooledBatch] = []
        taken_bytes = 0
        with self._lock:
            for workspace_id in self._fresh:
                self._refresh(workspace_id)
            self._fresh.clear()
            waiting = deque(self._queues)
            while waiting and len(taken) < batches_max and taken_bytes < bytes_max:
                workspace_id = waiting.popleft()
                item = self._next_of(workspace_id)
                if item is not None:
                    taken.append(item)
                    taken_bytes += item.batch.header.record_bytes
                    waiting.append(workspace_id)
                    self._queues.move_to_end(workspace_id)
        return taken

    def settled(self, item: SpooledBatch) -> None:
        """The destination has the batch, or it lies with the dead letters."""
        with self._lock:
            if item.segment.out.pop(item.offset, None) is None:
                return  # its segment was dropped meanwhile
            self._state.batches -= 1
            self._state.delivered_batches += 1
            self._remove_if_settled(item.segment)

    def give_back(self) -> None:
        """What was handed out is not on its way any more: it is handed out again."""
        with self._lock:
            for segment in self._segments():
                segment.give_back()

    def state(self) -> SpoolState:
        """A picture of it."""
        with self._lock:
            left = [s for s in self._segments() if s.out or not s.is_exhausted]
            is_empty = not (left or self._fresh or self._unflushed)
            if is_empty:
                self._state.batches = 0  # what was damaged is not waited for
            oldest_ms = min((segment.created_ms for segment in left), default=None)
            damaged = list(self._state.damaged)
            return replace(self._state, is_empty=is_empty, oldest_ms=oldest_ms, damaged=damaged)

    # -- under the lock -------------------------------------------------------------------

    def _segments(self) -> list[SpoolSegment]:
        return [segment for queue in self._queues.values() for segment in queue]

    def _refresh(self, workspace_id: int) -> None:
        """Find the workspace's new segments; those still open may hold more than before."""
        queue = self._queues.setdefault(workspace_id, deque())
        known = {segment.path: segment for segment in queue}
        numbered = [
            (info.segment_number, info)
            for info in segments(self._directory / str(workspace_id))
            if info.segment_number is not None
        ]
        for number, info in sorted(numbered, key=lambda pair: pair[0]):
            segment = known.get(info.path)
            if segment is None:
                queue.append(SpoolSegment.of(info.path, workspace_id, number, info.is_sealed))
            elif not segment.is_sealed:
                segment.look_again(is_sealed=info.is_sealed)

    def _next_of(self, workspace_id: int) -> SpooledBatch | None:
        unsealed: list[SpoolSegment] = []
        for segment in list(self._queues.get(workspace_id, ())):
            item = segment.next(self._note)
            if item is not None:
                before = self._late_in(unsealed)
                if before is not None:
                    segment.take_back(item.offset)
                return before or item
            if not self._remove_if_settled(segment) and not segment.is_sealed:
                unsealed.append(segment)
        return None

    def _late_in(self, segments: Sequence[SpoolSegment]) -> SpooledBatch | None:
        """What has come into earlier segments since they were read to their end.

        A commit that does not fit makes the next segment before the last one of this segment is
        written, so both may be seen when this one's end has not been.
        """
        for segment in segments:
            if not segment.look_whether_sealed():
                segment.look_again(is_sealed=False)
            item = segment.next(self._note)
            if item is not None:
                return item
        return None

    def _remove_if_settled(self, segment: SpoolSegment) -> bool:
        """Delete a sealed segment of which nothing is left to settle."""
        if not segment.is_sealed or not segment.is_exhausted or segment.out:
            return False
        self._delete(segment)
        return True

    def _delete(self, segment: SpoolSegment) -> None:
        queue = self._queues.get(segment.workspace_id)
        if queue is None or segment not in queue:
            return
        queue.remove(segment)
        if not queue:
            del self._queues[segment.workspace_id]
        self._state.held_bytes = max(0, self._state.held_bytes - segment.delete())

    def _refuse(self, batch: Batch) -> None:
        text = (
            f"the spool of sink {self._sink_name!r} is full: {self._state.held_bytes} of "
            f"spool_bytes_max = {self._options.bytes_max} bytes"
        )
        if self._options.when_full == "block":
            raise TransientError(text)
        with self._lock:
            self._state.dropped_batches += 1
            self._state.dropped_events += batch.header.event_count
        raise DroppedError(text)

    def _drop_oldest(self) -> bool:
        """Whether a sealed segment was there to be dropped."""
        with self._lock:
            sealed = [s for s in self._segments() if s.look_whether_sealed()]
            if not sealed:
                return False
            oldest = min(sealed, key=lambda segment: (segment.created_ms, segment.number))
            self._drop(oldest, DROPPED_FULL)
            return True

    def _drop(self, segment: SpoolSegment, outcome: str) -> None:
        """Let go of a segment with what is unsettled in it, and count that."""
        headers = segment.unsettled()
        for header in headers:
            self._tell(header, outcome)
        self._state.dropped_batches += len(headers)
        self._state.dropped_events += sum(header.event_count for header in headers)
        self._state.batches -= len(headers)
        segment.out.clear()
        self._delete(segment)

    def _note(self, text: str) -> None:
        if len(self._state.damaged) < PROBLEMS_MAX:
            self._state.damaged.append(text)
