"""The thread behind an `AtomicRotationSink`: takes what was submitted and makes it durable."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import (
    CdpError,
    CorruptSegmentError,
    FencedError,
    PartialFlushError,
    SinkError,
    TransientError,
)
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.chain_set import ChainSet
from cdp_ray_sinks.files.partition import Partition
from cdp_ray_sinks.files.rotation_policy import RotationPolicy

if TYPE_CHECKING:
    from cdp_ray_sinks.batch.message_run import MessageRun

Submitted: TypeAlias = tuple[int, Any, int]
"""Workspace id, the records as any buffer of bytes, how many messages."""

POLL_MS: Final = 1
TICK_MS: Final = 1000
RETRY_MS: Final = 100
EPOCH: Final = 1


@dataclass(slots=True)
class Mark:
    """A place in the queue; `reached` is set when all before it is durable."""

    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _Submission:
    """One submitted buffer and the batches it became; `appended` of them are in the chain."""

    buffer: Any
    item_count: int
    batches: list[Batch]
    appended: int = 0


class RotationWriter:
    """Owns the chains. All its methods run on its thread, but `run` is what that calls.

    The queue holds `Submitted` and `Mark`s. A slot is given back for each buffer that is
    durable or was refused, so the free slots are what the queue still takes. The counters
    are written by this thread alone.
    """

    def __init__(
        self,
        chains: ChainSet,
        queue: deque[Submitted | Mark],
        slots: deque[None],
        policy: RotationPolicy,
        *,
        commit_bytes: int,
        commit_batches: int,
        commit_interval_ms: int,
        clock: Clock,
        pool: BufferPool | None,
        producer: bytes,
    ) -> None:
        # Here, on the caller's thread: compiling in the background would stall submitters.
        from cdp_ray_sinks.batch.message_run import MessageRun
        from cdp_ray_sinks.files.record_scan import MESSAGE_COUNT_MAX

        self.stopping = threading.Event()
        self.rotate_at_ms: int | None = None
        self.fatal: Exception | None = None
        self.last_error: str | None = None
        self.batches_taken = self.items_taken = 0
        self.batches_written = self.items_written = self.bytes_written = 0
        self.batches_failed = 0
        self.rotations = 0
        self.active: dict[int, Partition] = {}
        self._chains = chains
        self._queue = queue
        self._slots = slots
        self._policy = policy
        self._commit_bytes = commit_bytes
        self._commit_batches = commit_batches
        self._commit_interval_ms = commit_interval_ms
        self._clock = clock
        self._pool = pool
        self._producer = producer
        self._run: MessageRun = MessageRun(MESSAGE_COUNT_MAX)
        self._sequence = 0
        self._owed: dict[int, list[_Submission]] = {}
        self._owed_bytes = self._owed_count = 0
        self._marks: list[Mark] = []
        self._oldest_ms = self._ticked_at_ms = self._retry_at_ms = 0

    def run(self) -> None:
        """Work until `stopping` is set, then seal everything and let go of it."""
        try:
            while not self.stopping.is_set():
                self._step()
        except Exception as error:  # noqa: BLE001 - or the queue would just seem full for ever
            self._die(error)
        try:
            self._chains.close()
        except (SinkError, OSError) as error:
            self.last_error = str(error)
            self.fatal = self.fatal or error

    def _step(self) -> None:
        is_idle = not self._take()
        now_ms = self._clock.monotonic_ms()
        if self._is_commit_due(now_ms):
            self._commit()
            self._retry_at_ms = now_ms + RETRY_MS if self._owed else 0
        elif is_idle:
            # Not a wait for a signal: to wake a blocked reader costs the submitter 15 us.
            time.sleep(POLL_MS / 1000)
        if self.rotate_at_ms is not None:
            rotate_at_ms, self.rotate_at_ms = self.rotate_at_ms, None
            self._chains.tick(rotate_at_ms)
        elif now_ms - self._ticked_at_ms >= TICK_MS:
            self._ticked_at_ms = now_ms
            self._chains.tick(self._clock.now_ms())
        if self._marks and not self._owed and self.rotate_at_ms is None:
            for mark in self._marks:
                mark.reached.set()
            self._marks.clear()

    def _take(self) -> bool:
        """Take from the queue up to a commit's worth or a mark; whether there was anything."""
        taken = False
        while self._owed_bytes < self._commit_bytes and not self._marks:
            try:
                item = self._queue.popleft()
            except IndexError:
                break
            taken = True
            if isinstance(item, Mark):
                self._marks.append(item)
                break
            self._accept(*item)
        return taken

    def _accept(self, workspace_id: int, buffer: Any, count: int) -> None:
        self.batches_taken += 1
        self.items_taken += count
        try:
            submission = _Submission(buffer, count, self._batches_of(workspace_id, buffer, count))
        except (CdpError, ValueError, TypeError) as error:
            self._refuse(workspace_id, buffer, error)
            return
        if not self._owed:
            self._oldest_ms = self._clock.monotonic_ms()
        self._owed.setdefault(workspace_id, []).append(submission)
        self._owed_count += 1
        self._owed_bytes += sum(batch.header.record_bytes for batch in submission.batches)

    def _batches_of(self, workspace_id: int, buffer: Any, count: int) -> list[Batch]:
        """The buffer as batches of one schema and hour each; raises if it does not frame."""
        from cdp_ray_sinks.files.record_scan import RecordScan

        records: Bytes = np.frombuffer(buffer, np.uint8)
        damage: list[CorruptSegmentError] = []
        scan = RecordScan(
            records, self._chains.base / str(workspace_id), workspace_id, damage.append, self._run
        )
        batches = list(scan.batches(0, len(records)))
        found = sum(batch.header.message_count for batch in batches)
        if damage:
            raise damage[0]
        if found != count or count == 0:
            raise ValueError(f"the buffer holds {found} messages and should hold {count}")
        numbered = []
        for batch in batches:
            header = batch.header._replace(
                producer=self._producer, epoch=EPOCH, sequence=self._sequence
            )
            self._sequence += 1
            self._policy.partition_of(workspace_id, header.received_at_ms)
            numbered.append(Batch(header, batch.records, batch.offsets))
        return numbered

    def _is_commit_due(self, now_ms: int) -> bool:
        if not self._owed or now_ms < self._retry_at_ms:
            return False
        return (
            bool(self._marks)
            or self._owed_bytes >= self._commit_bytes
            or self._owed_count >= self._commit_batches
            or now_ms - self._oldest_ms >= self._commit_interval_ms
            or self._retry_at_ms > 0
        )

    def _commit(self) -> None:
        """Make durable what is owed; what fails for now stays owed."""
        for workspace_id, submissions in self._owed.items():
            try:
                self._append(submissions)
            except TransientError as error:
                self.last_error = f"workspace {workspace_id}: {error}"
        try:
            self._chains.flush()
        except (PartialFlushError, TransientError) as error:
            self.last_error = str(error)
        for workspace_id in list(self._owed):
            chain = self._chains.chains.get(workspace_id)
            submissions = self._owed[workspace_id]
            if chain is None or chain.is_dirty:
                continue
            if submissions[-1].appended == len(submissions[-1].batches):
                chain.ledger.raise_low(self._producer, EPOCH, self._next_sequence(submissions))
                self._settle(workspace_id)

    def _append(self, submissions: list[_Submission]) -> None:
        for submission in submissions:
            for batch in submission.batches[submission.appended :]:
                self._chains.append(batch)
                submission.appended += 1
                self._note_partition(batch)

    def _note_partition(self, batch: Batch) -> None:
        """A rotation is a workspace's first batch in a later partition than before."""
        header = batch.header
        partition = self._policy.partition_of(header.workspace_id, header.received_at_ms)
        before = self.active.get(header.workspace_id)
        if before is None or partition.starts_at_ms > before.starts_at_ms:
            self.active[header.workspace_id] = partition
            self.rotations += before is not None

    @staticmethod
    def _next_sequence(submissions: list[_Submission]) -> int:
        return submissions[-1].batches[-1].header.sequence + 1

    def _settle(self, workspace_id: int) -> None:
        for submission in self._owed.pop(workspace_id):
            record_bytes = sum(batch.header.record_bytes for batch in submission.batches)
            self.batches_written += 1
            self.items_written += submission.item_count
            self.bytes_written += record_bytes
            self._owed_bytes -= record_bytes
            self._owed_count -= 1
            self._give_back(submission.buffer)

    def _refuse(self, workspace_id: int, buffer: Any, error: Exception) -> None:
        self.batches_failed += 1
        self.last_error = f"workspace {workspace_id}: {error}"
        self._give_back(buffer)

    def _give_back(self, buffer: Any) -> None:
        """The buffer to its pool, its slot to the queue."""
        if self._pool is not None and isinstance(buffer, np.ndarray):
            lent = buffer if buffer.base is None else buffer.base
            if isinstance(lent, np.ndarray):
                self._pool.put(lent)
        self._slots.append(None)

    def _die(self, error: Exception) -> None:
        """Take no more: a newer writer has come, or there is a fault in here."""
        self.fatal = error if isinstance(error, FencedError) else SinkError(repr(error))
        self.last_error = str(error)
        self._slots.clear()
        with suppress(IndexError):
            while True:
                item = self._queue.popleft()
                if isinstance(item, Mark):
                    self._marks.append(item)
        for mark in self._marks:
            mark.reached.set()
