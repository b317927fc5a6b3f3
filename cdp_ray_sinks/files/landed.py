"""Count what has landed, by the commit indexes alone: no data is read.

Counted is a batch whose bytes are there as far as the file's length tells; whether they are the
right ones is for `files.archive.verify` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive import SegmentInfo, segments
from cdp_ray_sinks.files.commit_index import ENTRY
from cdp_ray_sinks.files.index_reading import SegmentIndex, load_index
from cdp_ray_sinks.files.ledger import LedgerEntry
from cdp_ray_sinks.files.partition import HOUR_MS

Wanted: TypeAlias = Mapping[tuple[bytes, int], Set[int]]
"""By producer and epoch, the sequences of those batches that are looked for."""


@dataclass(slots=True)
class Count:
    """How many; of batches, of the messages in them, and of the events in those."""

    batches: int = 0
    messages: int = 0
    events: int = 0

    def add(self, batches: int, messages: int, events: int) -> None:
        """Count more."""
        self.batches += batches
        self.messages += messages
        self.events += events

    def add_all(self, other: Count, times: int = 1) -> None:
        """Count all of another; with -1 take it off."""
        self.add(times * other.batches, times * other.messages, times * other.events)


class Place(NamedTuple):
    """Where a batch is counted: its workspace, and the hour (since 1970, UTC) it was received."""

    workspace_id: int
    hour: int


class Origin(NamedTuple):
    """Who made batches, whose they are, and the hour (since 1970, UTC) they were received in."""

    producer: bytes
    epoch: int
    workspace_id: int
    hour: int


@dataclass(slots=True)
class TableCount:
    """Rows of one table: how many there are, None if that says nothing, and `note` why.

    Right is from `low` to `high`; None for no bound, where others write there too.
    """

    name: str
    low: int
    high: int | None
    found: int | None
    note: str = ""

    @property
    def missing(self) -> int:
        """How many rows fewer there are than there must be."""
        return 0 if self.found is None else max(0, self.low - self.found)

    @property
    def too_many(self) -> int:
        """How many rows more there are than there may be."""
        return 0 if self.found is None or self.high is None else max(0, self.found - self.high)


@dataclass(slots=True)
class Landed:
    """What a destination holds. `found` are the wanted ones that it has.

    `problems` name what could not be counted. With `only_events` batches and messages
    without events may have left no trace. With `is_all_known` it is not told whose the batches
    are, and all are of producers that have accounts; those received before `kept_from_hour` are
    not counted. `unread` says why the destination itself could not be asked.
    """

    counts: dict[Origin, Count] = field(default_factory=dict)
    found: set[BatchId] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    only_events: bool = False
    is_all_known: bool = False
    kept_from_hour: int | None = None
    tables: list[TableCount] = field(default_factory=list)
    unread: str | None = None

    def add(self, origin: Origin, count: Count) -> None:
        """Count more."""
        self.counts.setdefault(origin, Count()).add_all(count)

    def merge(self, other: Landed) -> None:
        """Count what is in another part of the destination."""
        for origin, count in other.counts.items():
            self.add(origin, count)
        self.found |= other.found
        self.problems += other.problems


def wanted_of(batch_ids: Iterable[BatchId]) -> Wanted:
    """Batch ids, as the counting asks for them."""
    found: dict[tuple[bytes, int], set[int]] = {}
    for producer, epoch, sequence in batch_ids:
        found.setdefault((producer, epoch), set()).add(sequence)
    return found


def count_segments(base: Path, wanted: Wanted) -> Landed:
    """What the segments below `base` hold. A folder that is not there holds nothing.

    Raises OSError for a folder that can't be read.
    """
    landed = Landed()
    for info in segments_below(base, landed.problems.append):
        landed.merge(count_segment(info, wanted))
    return landed


def segments_below(base: Path, report: Callable[[str], None]) -> Iterable[SegmentInfo]:
    """The segments below `base`; of those whose data file is gone it is said."""
    if not base.is_dir():
        return

    def is_there(path: Path) -> bool:
        if not path.exists():
            report(f"{path}: gone, its index is there")
        return True

    yield from segments(base, wanted=is_there)


def count_segment(info: SegmentInfo, wanted: Wanted) -> Landed:
    """What one segment holds."""
    landed = Landed()
    try:
        index = load_index(info.path)
        held_bytes = info.path.stat().st_size
    except (OSError, CorruptSegmentError) as error:
        landed.problems.append(str(error))
        return landed
    if index is None:
        landed.problems.append(f"{info.path}: has no index, so it is not counted")
        return landed
    landed.problems += [f"{index.path}: {what} at byte {at}" for at, what in index.damage]
    if index.end_offset > held_bytes:
        short = index.end_offset - held_bytes
        landed.problems.append(f"{info.path}: {short} committed bytes are missing, the file ends")
    workspace_id = index.header.workspace_id if index.header else info.workspace_id or 0
    entries = _entries(index, held_bytes)
    if len(entries):
        _count(landed, entries, workspace_id, wanted)
    return landed


def _entries(index: SegmentIndex, held_bytes: int) -> NDArray[np.void]:
    """Of the batches that the file is long enough for."""
    found = [np.empty(0, ENTRY)]
    for start, end, commit in index.ranges:
        if commit is None:
            continue
        if end <= held_bytes:
            found.append(commit.entries)
        elif not index.is_serialised:
            ends = start + np.cumsum(commit.entries["record_bytes"])
            found.append(commit.entries[ends <= held_bytes])
    return np.concatenate(found)


def _count(landed: Landed, entries: NDArray[np.void], workspace_id: int, wanted: Wanted) -> None:
    halves = np.ascontiguousarray(entries["producer"]).view("<u8").reshape(-1, 2)
    hours = (entries["received_at_ms"] // HOUR_MS).astype(np.int64)
    keys = np.column_stack([halves, entries["epoch"], hours.view(np.uint64)])
    origins, places = np.unique(keys, axis=0, return_inverse=True)
    places = places.reshape(-1)
    sums = [
        np.bincount(places, weights=entries[name].astype(np.float64))
        for name in ("message_count", "event_count")
    ]
    batches = np.bincount(places)
    for row, key in enumerate(origins):
        producer, epoch = key[:2].astype("<u8").tobytes(), int(key[2])
        hour = int(key[3:].view(np.int64)[0])
        count = Count(int(batches[row]), int(sums[0][row]), int(sums[1][row]))
        landed.add(Origin(producer, epoch, workspace_id, hour), count)
        asked = wanted.get((producer, epoch))
        if asked:
            sequences = entries["sequence"][places == row]
            there = np.isin(sequences, np.fromiter(asked, np.uint64, len(asked)))
            landed.found |= {BatchId(producer, epoch, int(n)) for n in sequences[there]}


def found_in_ledger(entries: Iterable[LedgerEntry], wanted: Wanted) -> set[BatchId]:
    """The wanted batches that a ledger lists."""
    return {
        BatchId(entry.producer, entry.epoch, sequence)
        for entry in entries
        for sequence in wanted.get((entry.producer, entry.epoch), ())
        if sequence in entry.durable
    }
