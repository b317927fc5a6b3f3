"""Files made straight from the batches that a sink holds since its last flush: no journal.

Rows are made in a second thread while more batches come. A file that is ended is synced and
published by a third, while rows of the next are made; only that makes its batches durable. The
ids of a file's batches stand in it. A batch that comes again falls into the same partition, so
when a partition is first used, its files tell which batches are had.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import FencedError, PartialFlushError, SinkError, TransientError
from cdp_ray_sinks.files.chain import Chain
from cdp_ray_sinks.files.file_system import FileSystem, error_text, transient
from cdp_ray_sinks.files.in_progress import SUFFIX, InProgressFile, places
from cdp_ray_sinks.files.ledger import Ledger, LedgerEntry
from cdp_ray_sinks.files.ledger_text import ledger_entries, ledger_text
from cdp_ray_sinks.files.partition import Partition
from cdp_ray_sinks.files.publication import LEDGER_KEY, GroupLimits, PublicationPlace
from cdp_ray_sinks.files.publisher import PublisherCounters
from cdp_ray_sinks.files.segment_path import SegmentName, parse_name
from cdp_ray_sinks.files.table_format import TableFile, TableFormat

Key: TypeAlias = tuple[Partition, str]
"""A partition and a stream in it: what has at most one file being made."""

AHEAD_MAX: Final = 16
"""Files that are ended and wait to be synced and published."""


@dataclass(slots=True)
class _Draft:
    """The batches held for one file, those not yet handed over to become rows, and the file."""

    key: Key
    chain: Chain
    place: PublicationPlace
    batches: list[Batch] = field(default_factory=list)
    group: list[Batch] = field(default_factory=list)
    group_rows: int = 0
    group_bytes: int = 0
    jobs: list[Future[None]] = field(default_factory=list)
    publication: Future[None] | None = None
    error: BaseException | None = None
    out: InProgressFile | None = None
    table: TableFile | None = None


class DirectFiles:
    """The files of one lane. One thread at a time calls it."""

    def __init__(
        self,
        table_format: TableFormat,
        fs: FileSystem,
        limits: GroupLimits,
        clock: Clock,
        lose: Callable[[int, FencedError], None],
    ) -> None:
        """`lose` is told of a workspace that has another writer."""
        self.counters = PublisherCounters()
        self.held_bytes = 0
        self.held_batches = 0
        self._format = table_format
        self._fs = fs
        self._limits = limits
        self._clock = clock
        self._lose = lose
        self._drafts: dict[Key, _Draft] = {}
        """Open: more batches may join them."""
        self._ending: deque[_Draft] = deque()
        """On their way to be published, in that order."""
        self._failed: list[_Draft] = []
        """Not published: to be made again by the next `flush`."""
        self._held: Counter[int] = Counter()
        self._unsettled: list[_Draft] = []
        """Published, but not yet known to last: the directory could not be synced."""
        self._committed: list[BatchId] = []
        self._next_places: OrderedDict[Key, int] = OrderedDict()
        self._made_count = 0
        self._row_maker = ThreadPoolExecutor(1, "row-maker")
        self._mover = ThreadPoolExecutor(1, "file-mover")

    @property
    def is_open(self) -> bool:
        """Whether there are batches whose files are not ended."""
        return bool(self._drafts)

    @property
    def is_busy(self) -> bool:
        """Whether files are on their way to be published."""
        return bool(self._ending)

    @property
    def has_failed(self) -> bool:
        """Whether something waits for `flush` to be tried again."""
        return bool(self._failed or self._unsettled)

    def add(self, batch: Batch, key: Key, chain: Chain, place: PublicationPlace) -> None:
        """Hold a batch until it is published, unless it already is.

        Raises TransientError if that can't be found out, BatchConflictError for a batch whose
        id another one has.
        """
        header = batch.header
        if key not in self._next_places:
            self._learn(key, chain, place)
        if chain.ledger.has(header.producer, header.epoch, header.sequence, header.checksum):
            return
        draft = self._drafts.get(key)
        if draft is None:
            draft = self._drafts[key] = _Draft(key, chain, place)
        if (
            draft.group_rows + header.event_count > self._limits.rows_max
            or draft.group_bytes + header.record_bytes > self._limits.bytes_max
        ):
            self._hand_over(draft)
        draft.batches.append(batch)
        draft.group.append(batch)
        draft.group_rows += header.event_count
        draft.group_bytes += header.record_bytes
        self.held_bytes += header.record_bytes
        self.held_batches += 1
        self._held[header.workspace_id] += 1

    def holds(self, workspace_id: int) -> bool:
        """Whether a batch of that workspace waits to be published."""
        return workspace_id in self._held

    def end(self) -> bool:
        """Begin to publish all that is held; False if that is too many files for now."""
        if len(self._ending) + len(self._drafts) > AHEAD_MAX:
            return False
        for draft in list(self._drafts.values()):
            self._begin_to_publish(draft)
        return True

    def committed(self) -> list[BatchId]:
        """The batches published since this was last asked; never waits."""
        while self._ending and _is_over(self._ending[0]):
            self._collect()
        committed, self._committed = self._committed, []
        return committed

    def flush(self) -> None:
        """On return all that is held is published.

        Raises PartialFlushError naming the workspaces of which something is not: it is held,
        and the next flush makes the file again. Raises FencedError if a workspace has another
        writer; the others are published all the same.
        """
        self._settle_all()
        while self._ending:
            self._collect()
        lost = [draft for draft in self._failed if isinstance(draft.error, FencedError)]
        waiting = deque(draft for draft in self._failed if draft not in lost)
        waiting.extend(self._drafts.values())
        self._failed = lost
        while waiting or self._ending:
            while waiting and len(self._ending) < AHEAD_MAX:
                self._begin_to_publish(waiting.popleft())
            self._collect()
        self._committed.clear()
        self._raise()

    def _raise(self) -> None:
        """For what is still held though all was to be published."""
        problems: dict[int, SinkError] = {}
        for draft in (*self._unsettled, *self._failed):
            assert draft.error is not None
            told = _told(draft, draft.error)
            if not isinstance(problems.get(draft.chain.workspace_id), FencedError):
                problems[draft.chain.workspace_id] = told
        fenced = {w: each for w, each in problems.items() if isinstance(each, FencedError)}
        for workspace_id, each in fenced.items():
            self.forget(workspace_id)
            self._lose(workspace_id, each)
        for each in fenced.values():
            raise each
        if problems:
            raise PartialFlushError(tuple((w, str(each)) for w, each in problems.items()))

    def forget(self, workspace_id: int) -> None:
        """Hold and know nothing more of a workspace: it is let go of, or lost."""

        def is_its(draft: _Draft) -> bool:
            return draft.key[0].workspace_id == workspace_id

        while any(map(is_its, self._ending)):
            self._collect()
        for draft in filter(is_its, (*self._drafts.values(), *self._failed)):
            self._start_again(draft)
            self._forget_held(draft)
        for draft in filter(is_its, self._unsettled):
            self._forget_held(draft)
        self._drafts = {key: d for key, d in self._drafts.items() if not is_its(d)}
        self._failed = [d for d in self._failed if not is_its(d)]
        self._unsettled = [d for d in self._unsettled if not is_its(d)]
        for key in [key for key in self._next_places if key[0].workspace_id == workspace_id]:
            del self._next_places[key]

    def close(self) -> None:
        """Throw away what is not published, end the threads. Safe to call twice."""
        while self._ending:
            self._collect()
        for draft in (*self._drafts.values(), *self._failed):
            self._start_again(draft)
        self._row_maker.shutdown()
        self._mover.shutdown()

    def _learn(self, key: Key, chain: Chain, place: PublicationPlace) -> None:
        """Find out which batches the files of a partition hold, and which name is the next."""
        partition, stream = key
        directory = place.published / partition.path
        next_place = 0
        with transient(f"can't look through {directory}"):
            for path in directory.glob(f"{stream}*{self._format.suffix}"):
                name = parse_name(path.name.removesuffix(self._format.suffix) + ".bin")
                if name is None or name.stream != stream:
                    continue
                next_place = max(next_place, name.place + 1)
                metadata = self._format.metadata_of(path) or {}
                chain.ledger.merge(_entries(metadata.get(LEDGER_KEY)))
        self._next_places[key] = next_place

    def _hand_over(self, draft: _Draft) -> None:
        """Have rows made of the batches that no rows are made of yet."""
        if draft.group:
            draft.jobs.append(self._row_maker.submit(self._make_rows, draft, draft.group))
            draft.group, draft.group_rows, draft.group_bytes = [], 0, 0

    def _begin_to_publish(self, draft: _Draft) -> None:
        self._drafts.pop(draft.key, None)
        self._hand_over(draft)
        draft.jobs.append(self._row_maker.submit(self._end, draft))
        draft.error, draft.publication = None, self._mover.submit(self._publish, draft)
        self._ending.append(draft)

    def _collect(self) -> None:
        """Wait for the first that is on its way, and take note of what became of it."""
        draft = self._ending.popleft()
        assert draft.publication is not None
        draft.error = draft.publication.exception()
        if draft.error is None:
            self._note(draft)
            self._forget_held(draft)
            return
        self.counters.publication_failures += 1
        if draft.out is not None and draft.out.published_at is not None:
            self._unsettled.append(draft)  # it is where readers look, so it is not made anew
        else:
            self._start_again(draft)
            self._failed.append(draft)

    def _settle_all(self) -> None:
        for draft in list(self._unsettled):
            assert draft.out is not None
            try:
                draft.out.settle()
            except OSError as error:
                draft.error = error
                continue
            self._note(draft)
            self._unsettled.remove(draft)
            self._forget_held(draft)

    def _note(self, draft: _Draft) -> None:
        """All of a file is durable."""
        now_ms = self._clock.now_ms()
        for header in (batch.header for batch in draft.batches):
            self._committed.append(header.batch_id)
            draft.chain.ledger.add(
                header.producer, header.epoch, header.sequence, header.checksum, now_ms
            )

    def _forget_held(self, draft: _Draft) -> None:
        self.held_bytes -= sum(batch.header.record_bytes for batch in draft.batches)
        self.held_batches -= len(draft.batches)
        workspace_id = draft.key[0].workspace_id
        self._held[workspace_id] -= len(draft.batches)
        if not self._held[workspace_id]:
            del self._held[workspace_id]

    def _start_again(self, draft: _Draft) -> None:
        """Throw away what was made of a file; its batches are handed over anew."""
        for job in draft.jobs:
            job.cancel()
            if not job.cancelled():
                job.exception()
        if draft.table is not None:
            draft.table.abandon()
        if draft.out is not None:
            draft.out.remove()
        draft.jobs, draft.table, draft.out = [], None, None
        draft.group = list(draft.batches)
        draft.group_rows = sum(batch.header.event_count for batch in draft.batches)
        draft.group_bytes = sum(batch.header.record_bytes for batch in draft.batches)

    # -- the row maker's thread -----------------------------------------------------------

    def _make_rows(self, draft: _Draft, batches: Sequence[Batch]) -> None:
        if draft.table is None:
            partition, stream = draft.key
            self._made_count += 1
            name = f"{draft.place.writer_epoch}~{self._made_count}~{stream}{SUFFIX}"
            draft.out = InProgressFile(self._fs, draft.place.in_progress / name)
            draft.table = self._format.new_file(draft.out.out, stream, partition.workspace_id)
        draft.table.add(batches)

    def _end(self, draft: _Draft) -> None:
        assert draft.table is not None
        ledger, now_ms = Ledger(), self._clock.now_ms()
        for header in (batch.header for batch in draft.batches):
            ledger.add(header.producer, header.epoch, header.sequence, header.checksum, now_ms)
        draft.table.finish({LEDGER_KEY: ledger_text(ledger.snapshot())})

    # -- the mover's thread ---------------------------------------------------------------

    def _publish(self, draft: _Draft) -> None:
        for job in draft.jobs:
            job.result()
        out, table = draft.out, draft.table
        assert out is not None
        assert table is not None
        if not table.rows:
            table.abandon()
            out.remove()
            return
        partition, stream = draft.key
        name = SegmentName(stream, self._next_places[draft.key], "")
        targets = places(draft.place.published / partition.path, name, self._format.suffix)
        path, written_bytes = out.publish(targets, lambda path: False, draft.chain.check)
        self._next_places[draft.key] = _place_of(path) + 1
        self.counters.files_published += 1
        self.counters.rows_published += table.rows
        self.counters.published_bytes += written_bytes


def _entries(text: str | None) -> list[LedgerEntry]:
    try:
        return [] if text is None else ledger_entries(text)
    except ValueError:
        return []  # another program's idea of a ledger


def _is_over(draft: _Draft) -> bool:
    return draft.publication is not None and draft.publication.done()


def _place_of(path: Path) -> int:
    name = parse_name(path.stem + ".bin")
    return 0 if name is None else name.place


def _told(draft: _Draft, error: BaseException) -> SinkError:
    if isinstance(error, FencedError):
        return error
    text = error_text(error) if isinstance(error, OSError) else str(error)
    where = f"{draft.place.published}/{draft.key[0].path}/{draft.key[1]}"
    return TransientError(f"can't publish {where}: {text}")
