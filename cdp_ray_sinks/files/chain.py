"""A chain: the segments of one workspace, one after the other, and its ledger.

`append` only keeps a batch. `commit` makes all kept batches durable at once: one gathered
write and one index record per segment, one sync, a look at the fence, then the ledger. A
sink with many chains does the parts itself, so that all of them share the syncing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import FencedError, TerminalError, TransientError
from cdp_ray_sinks.files.chain_options import ChainCounters, ChainOptions
from cdp_ray_sinks.files.commit_index import Commit, entries_of
from cdp_ray_sinks.files.encoded import AHEAD_BYTES_MIN
from cdp_ray_sinks.files.fence import Fence
from cdp_ray_sinks.files.file_system import FileSystem, LocalFileSystem, error_text, transient
from cdp_ray_sinks.files.follower import Follower, NoFollower
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.open_segments import Key, OpenSegments, SegmentCounters
from cdp_ray_sinks.files.recovery import Damage
from cdp_ray_sinks.files.sealer import Sealer
from cdp_ray_sinks.files.segment import Segment, SegmentWriter
from cdp_ray_sinks.files.sync import sync_made, sync_segments

__all__ = ["Chain", "ChainCounters", "ChainOptions"]

COMMIT_BATCHES_MAX: Final = 65_536
_EXPIRE_INTERVAL_MS: Final = 3_600_000


@dataclass(slots=True)
class _Write:
    """A commit that is planned, or written and waits to be confirmed."""

    key: Key
    segment: Segment
    batches: Sequence[Batch]
    written_bytes: int = 0


class Chain:
    """One workspace's segments. One thread at a time calls it; sealing happens on another.

    `ledger` says which batches are durable here, across restarts. `recovery_report` lists
    what was found damaged; damage is never an error.
    """

    def __init__(
        self,
        base: Path,
        workspace_id: int,
        writer: SegmentWriter,
        options: ChainOptions,
        *,
        clock: Clock | None = None,
        fs: FileSystem | None = None,
        sealer: Sealer | None = None,
        follower: Follower | None = None,
    ) -> None:
        self.workspace_id = workspace_id
        self.directory = Path(base) / str(workspace_id)
        self.ledger = Ledger()
        self.counters = ChainCounters()
        self._writer = writer
        self._options = options
        self._clock = clock or SystemClock()
        self._fs = fs or LocalFileSystem()
        self._follower = follower or NoFollower()
        self._own_sealer = sealer is None
        self._sealer = sealer or Sealer(self._fs, self._clock)
        self._fence = Fence(
            self.directory, self._clock, shared=options.shared_file_system, lease_s=options.lease_s
        )
        self.segments = OpenSegments(
            self.directory,
            workspace_id,
            (writer.suffix, writer.index_flags),
            self.ledger,
            self._fence,
            self._sealer,
            self._fs,
            self._clock,
            sync=options.fsync != "off",
            open_partitions_max=options.open_partitions_max,
            follower=self._follower,
        )
        self._accepted: dict[Key, list[Batch]] = {}
        self._writes: list[_Write] = []
        self._problem: str | None = None
        self._synced_at_ms = self._expired_at_ms = 0
        self._is_open = False

    def open(self) -> None:
        """Take the fence, recover what a crash left, learn the ledger.

        Raises TransientError if another process holds the workspace or its directory can't
        be used, TerminalError if the workspace id is not 1..2**32-1.
        """
        self._options.policy.partition_of(self.workspace_id, 0)
        self._fence.take()
        try:
            with transient(f"can't recover {self.directory}"):
                self.segments.recover()
                forget = self.segments.forget_directory
                self._follower.open(self.epoch, self._fence.check, forget)
        except Exception:
            self._follower.abandon()
            self._fence.give_up()
            raise
        self._is_open = True

    def close(self) -> None:
        """Commit, seal and let go of the workspace. Safe to call twice.

        Raises what `commit` raises; the workspace is let go of all the same.
        """
        if not self._is_open:
            return
        try:
            self.commit()
        finally:
            if self._is_open:
                with suppress(FencedError, TransientError):
                    self.segments.settle_before_leaving()
                self.segments.seal_all()
                self.segments.join()
                self._follower.close()
                self._let_go()

    @property
    def epoch(self) -> int:
        """The epoch of this writer, 0 before `open`."""
        return self._fence.epoch

    @property
    def recovery_report(self) -> Sequence[Damage]:
        """What was found damaged, or could not be sealed or synced; the first 1000."""
        return self.segments.damage

    @property
    def segment_counters(self) -> SegmentCounters:
        """How many segments were made, sealed and so on."""
        return self.segments.counters

    @property
    def is_dirty(self) -> bool:
        """Whether a batch was appended that is not yet durable."""
        return bool(self._accepted) or self._follower.is_busy

    def append(self, batch: Batch) -> None:
        """Keep a batch until the next commit; its buffers must stay valid until it is durable.

        Raises TerminalError if it belongs elsewhere or contradicts its own header.
        """
        header = batch.header
        if header.workspace_id != self.workspace_id:
            raise TerminalError(
                f"batch {header.batch_id} of workspace {header.workspace_id} came to the "
                f"chain of {self.workspace_id}"
            )
        if len(batch.records) != header.record_bytes:
            raise TerminalError(
                f"batch {header.batch_id} has {len(batch.records)} bytes of records, its header "
                f"says {header.record_bytes}"
            )
        partition = self._options.policy.partition_of(self.workspace_id, header.received_at_ms)
        key = (partition, self._writer.stream_of(header))
        self._accepted.setdefault(key, []).append(batch)

    def commit(self) -> None:
        """On return all appended batches are durable (see `SyncPolicy`) and in the ledger.

        Raises TransientError if some are not: those are kept, and the next commit writes the
        same bytes again. Raises FencedError if a newer writer has come: the chain is dead.
        """
        made = self.prepare()
        written = self.write_pending(sync_made(self._fs, made) if self.syncs_files else {})
        self.confirm(sync_segments(self._fs, written) if self.syncs_commits else {})

    @property
    def syncs_files(self) -> bool:
        """Whether what `prepare` returns must be synced before `write_pending`."""
        return self._options.fsync != "off"

    @property
    def syncs_commits(self) -> bool:
        """Whether what `write_pending` returns must be synced before `confirm`."""
        return self._options.fsync == "commit"

    @property
    def planned_segments(self) -> list[Segment]:
        """Where `write_pending` will write."""
        return [write.segment for write in self._writes]

    def prepare(self) -> Mapping[Segment, Sequence[str]]:
        """Find or make a segment for each appended batch.

        Returns the new segments, each with the directories that are to be synced for it.
        What can't be made is left for the next commit; `confirm` then says so. Raises
        FencedError, and TransientError if the chain is not open.
        """
        self._problem = None
        self._undo_writes()
        if not self._accepted:
            return {}
        if not self._is_open:
            raise TransientError(f"the chain of {self.directory} is not open")
        if self._fence.is_shared:  # elsewhere the lock keeps others out until `confirm` looks
            self.check()
        for key, batches in self._accepted.items():
            try:
                for segment, run in self._runs(key, batches):
                    self._writes.append(_Write(key, segment, run))
            except OSError as error:
                self._failed(f"can't write {self.directory}/{key[0].path}", error)
        return dict(self.segments.unsynced)

    def write_pending(self, failed: Mapping[Segment, OSError]) -> list[Segment]:
        """Write what was prepared; returns the segments to be synced before `confirm`.

        `failed` are the new segments that could not be synced. A segment that can't be
        written is cut back; `confirm` then says so.
        """
        plan, self._writes = self._writes, []
        for segment in list(self.segments.unsynced):
            if segment in failed:
                self._failed(f"can't sync the new {segment.path}", failed[segment])
                self.segments.discard(segment)
            else:
                self.segments.keep(segment)
        broken = {write.key for write in plan if write.segment in failed}
        for write in plan:
            if write.key in broken:
                write.segment.is_taken = False
                continue
            try:
                self._write(write)
            except OSError as error:
                broken.add(write.key)
                self._failed(f"can't write {write.segment.path}", error)
        return [write.segment for write in self._writes]

    def confirm(self, failed: Mapping[Segment, OSError]) -> None:
        """Note what was written as durable, except in the segments whose sync `failed`.

        Raises as `commit` does.
        """
        self._writer.release()
        if self._writes:
            self.check()
        writes, self._writes = self._writes, []
        now_ms = self._clock.now_ms()
        broken: set[Key] = set()
        for write in writes:
            error = failed.get(write.segment)
            if error is not None:
                self.segments.counters.sync_failures += 1
                self._failed(f"can't sync {write.segment.path}", error)
            if error is not None or write.key in broken:
                # Later runs of the same stream are undone too, or they would overtake it.
                broken.add(write.key)
                self.segments.retire(write.key, write.segment)
            else:
                self._settle(write, now_ms)
        self.segments.seal_full()
        if self._problem is not None:
            raise TransientError(self._problem)

    def check(self) -> None:
        """Raise FencedError if a newer writer has come: then the chain is dead.

        Raises TransientError if it can't be told.
        """
        try:
            self._fence.check()
        except FencedError:
            self.segments.abandon()
            self._follower.abandon()
            self._accepted.clear()
            self._writes.clear()
            self._let_go()
            raise

    def tick(self, now_ms: int) -> None:
        """Seal what is due, sync when the interval is over, settle what waits for a lease.

        Returns soon: sealing and syncing happen on the sealer's thread. Call it between
        commits only.
        """
        if not self._is_open:
            return
        self.segments.tick()
        self._follower.tick()
        for segment in self.segments:
            if self._options.policy.is_due(
                segment.partition.ends_at_ms, segment.last_write_ms, now_ms
            ):
                self.segments.seal(segment.key)
        if self._options.fsync == "interval" and (
            now_ms - self._synced_at_ms >= self._options.fsync_interval_ms
        ):
            self._synced_at_ms = now_ms
            self.segments.sync_soon()
        if now_ms - self._expired_at_ms >= _EXPIRE_INTERVAL_MS:
            self._expired_at_ms = now_ms
            self.ledger.expire(now_ms)

    def _runs(self, key: Key, batches: Sequence[Batch]) -> Iterator[tuple[Segment, list[Batch]]]:
        """Cut the batches of one stream into commits, each with a segment it fits into."""
        policy, place = self._options.policy, 0
        while place < len(batches):
            run_bytes = batches[place].header.record_bytes
            segment = self.segments.for_write(key, run_bytes, policy.fits)
            run = [batches[place]]
            place += 1
            while place < len(batches) and len(run) < COMMIT_BATCHES_MAX:
                more = batches[place].header.record_bytes
                if not policy.fits(segment.written.end_offset + run_bytes, more):
                    break
                run.append(batches[place])
                run_bytes += more
                place += 1
            yield segment, run

    def _write(self, write: _Write) -> None:
        segment, batches = write.segment, write.batches
        headers = [batch.header for batch in batches]
        start = segment.confirmed.end_offset
        encoded = self._writer.encode(batches)
        self._writes.append(write)
        try:
            end, checksum = segment.write_data(
                self._fs,
                encoded,
                ahead=sum(header.record_bytes for header in headers) >= AHEAD_BYTES_MIN,
                will_sync=self.syncs_commits,
            )
            write.written_bytes = end - start
            lows = [self.ledger.low_of(header.producer, header.epoch) for header in headers]
            now_ms = self._clock.now_ms()
            commit = Commit(start, end, checksum, now_ms, entries_of(headers, lows))
            segment.add_commit(self._fs, commit, now_ms)
        except OSError:
            self._writes.pop()
            try:
                segment.take_back(self._fs)
            except OSError:
                self.segments.retire(write.key, segment)
            raise

    def _failed(self, what: str, error: OSError) -> None:
        self.counters.write_failures += 1
        self._problem = f"{what}: {error_text(error)}"

    def _undo_writes(self) -> None:
        """Take back what an interrupted commit has planned or written and never confirmed."""
        for write in self._writes:
            segment = write.segment
            if segment.written != segment.confirmed:  # its sync may have failed unheard
                self.segments.retire(write.key, segment)
                continue
            try:
                segment.take_back(self._fs)
            except OSError:
                self.segments.retire(write.key, segment)
        self._writes.clear()

    def _settle(self, write: _Write, now_ms: int) -> None:
        write.segment.confirm()
        for batch in write.batches:
            header = batch.header
            self.ledger.add(header.producer, header.epoch, header.sequence, header.checksum, now_ms)
            self.counters.batches += 1
            self.counters.messages += header.message_count
            self.counters.events += header.event_count
        self.counters.written_bytes += write.written_bytes
        self.counters.commits += 1
        self._follower.committed(write.segment)
        left = self._accepted[write.key][len(write.batches) :]
        if left:
            self._accepted[write.key] = left
        else:
            del self._accepted[write.key]

    def _let_go(self) -> None:
        self._is_open = False
        if self._own_sealer:
            self._sealer.close()
        self._fence.give_up()
