"""Files made straight from the batches that a sink holds since its last flush: no journal.

Rows are made in a second thread while more batches come; `flush` ends the files, syncs and
publishes them, and only that makes the batches durable. The ids of a file's batches stand in
it. A batch that comes again falls into the same partition, so when a partition is first used,
its files tell which batches are had.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from cdp_ray_sinks.batch.batch import Batch
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
        self._held: Counter[int] = Counter()
        self._unsettled: list[_Draft] = []
        """Published, but not yet known to last: the directory could not be synced."""
        self._next_places: OrderedDict[Key, int] = OrderedDict()
        self._made_count = 0
        self._row_maker = ThreadPoolExecutor(1, "row-maker")

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

    def flush(self) -> None:
        """On return all that is held is published.

        Raises PartialFlushError naming the workspaces of which something is not: it is held,
        and the next flush makes the file again. Raises FencedError if a workspace has another
        writer; the others are published all the same.
        """
        problems: dict[int, SinkError] = {}
        for draft in list(self._unsettled):
            try:
                self._settle(draft)
            except OSError as error:
                problems[draft.chain.workspace_id] = _told(draft, error)
        drafts = list(self._drafts.values())
        for place, draft in enumerate(drafts):
            if not place % AHEAD_MAX:
                for ahead in drafts[place : place + AHEAD_MAX]:
                    self._hand_over(ahead)
                    ahead.jobs.append(self._row_maker.submit(self._end, ahead))
            try:
                self._publish(draft)
            except Exception as error:  # noqa: BLE001 - one file must not keep the others back
                self.counters.publication_failures += 1
                self._keep(draft)
                problems[draft.chain.workspace_id] = _told(draft, error)
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
        for key, draft in list(self._drafts.items()):
            if key[0].workspace_id == workspace_id:
                self._start_again(draft)
                self._drop(draft)
        for draft in [d for d in self._unsettled if d.chain.workspace_id == workspace_id]:
            self._unsettled.remove(draft)
            self._forget_held(draft)
        for key in [key for key in self._next_places if key[0].workspace_id == workspace_id]:
            del self._next_places[key]

    def close(self) -> None:
        """Throw away what is not published, end the second thread. Safe to call twice."""
        for draft in self._drafts.values():
            self._start_again(draft)
        self._row_maker.shutdown()

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

    def _publish(self, draft: _Draft) -> None:
        for job in draft.jobs:
            job.result()
        out, table = draft.out, draft.table
        assert out is not None
        assert table is not None
        if table.rows:
            partition, stream = draft.key
            name = SegmentName(stream, self._next_places[draft.key], "")
            targets = places(draft.place.published / partition.path, name, self._format.suffix)
            path, written_bytes = out.publish(targets, lambda path: False, draft.chain.check)
            self._next_places[draft.key] = _place_of(path) + 1
            self.counters.files_published += 1
            self.counters.rows_published += table.rows
            self.counters.published_bytes += written_bytes
        else:
            table.abandon()
            out.remove()
        self._note(draft)
        self._drop(draft)

    def _keep(self, draft: _Draft) -> None:
        """A file could not be published: it is made anew, unless it is where readers look."""
        if draft.out is None or draft.out.published_at is None:
            self._start_again(draft)
            return
        del self._drafts[draft.key]
        self._unsettled.append(draft)

    def _settle(self, draft: _Draft) -> None:
        assert draft.out is not None
        draft.out.settle()
        self._note(draft)
        self._unsettled.remove(draft)
        self._forget_held(draft)

    def _note(self, draft: _Draft) -> None:
        """All of a file is durable."""
        now_ms = self._clock.now_ms()
        for header in (batch.header for batch in draft.batches):
            draft.chain.ledger.add(
                header.producer, header.epoch, header.sequence, header.checksum, now_ms
            )

    def _drop(self, draft: _Draft) -> None:
        del self._drafts[draft.key]
        self._forget_held(draft)

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


def _entries(text: str | None) -> list[LedgerEntry]:
    try:
        return [] if text is None else ledger_entries(text)
    except ValueError:
        return []  # another program's idea of a ledger


def _place_of(path: Path) -> int:
    name = parse_name(path.stem + ".bin")
    return 0 if name is None else name.place


def _told(draft: _Draft, error: Exception) -> SinkError:
    if isinstance(error, FencedError):
        return error
    text = error_text(error) if isinstance(error, OSError) else str(error)
    where = f"{draft.place.published}/{draft.key[0].path}/{draft.key[1]}"
    return TransientError(f"can't publish {where}: {text}")
