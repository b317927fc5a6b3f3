"""The segments of one workspace that are open: made, found again after a crash, sealed."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import FencedError
from cdp_ray_sinks.files.commit_index import INDEX_SUFFIX, IndexHeader
from cdp_ray_sinks.files.fence import LANE_DIRECTORY, Fence
from cdp_ray_sinks.files.file_system import FileSystem, error_text, make_below
from cdp_ray_sinks.files.follower import Follower, NoFollower
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.open_marks import Mark, OpenMarks
from cdp_ray_sinks.files.partition import Partition, segment_name
from cdp_ray_sinks.files.recovery import Damage, Inspection, inspect_segment, settle_segment
from cdp_ray_sinks.files.sealer import Job, Sealer, Task
from cdp_ray_sinks.files.segment import Segment

Key: TypeAlias = tuple[Partition, str]
"""A partition and a stream in it: what has at most one segment open for writing."""

DAMAGE_MAX: Final = 1000
_PLACES_KEPT_MAX: Final = 1024
_DIRECTORIES_KEPT_MAX: Final = 1024


@dataclass(slots=True)
class SegmentCounters:
    """What happened to a workspace's segments since its chain was opened."""

    made: int = 0
    sealed: int = 0
    recovered: int = 0
    sync_failures: int = 0
    damaged: int = 0


class OpenSegments:
    """Belongs to one chain and is called by its thread; the sealer's thread only reports."""

    def __init__(
        self,
        directory: Path,
        workspace_id: int,
        naming: tuple[str, int],
        ledger: Ledger,
        fence: Fence,
        sealer: Sealer,
        fs: FileSystem,
        clock: Clock,
        *,
        sync: bool,
        open_partitions_max: int,
        follower: Follower | None = None,
    ) -> None:
        self.damage: list[Damage] = []
        self.counters = SegmentCounters()
        self._directory = directory
        self._base, self._workspace = str(directory.parent), str(directory)
        self._workspace_id = workspace_id
        self._suffix, self._index_flags = naming
        self._ledger = ledger
        self._fence = fence
        self._sealer = sealer
        self._fs = fs
        self._clock = clock
        self._sync = sync
        self._open_partitions_max = open_partitions_max
        self._follower = follower or NoFollower()
        self._marks = OpenMarks(directory)
        self._open: OrderedDict[Key, Segment] = OrderedDict()
        self._places: OrderedDict[Key, int] = OrderedDict()
        self._next_number = 1
        self._covered_marks: list[Mark] = []
        self._unsealed: list[Segment] = []
        self._full: list[Segment] = []
        self._leaving: dict[int, Segment] = {}
        self._inherited: list[tuple[Mark, Inspection]] = []
        self.unsynced: dict[Segment, list[str]] = {}
        """New segments that may not be written yet, and the directories that name them."""
        self._covers: dict[Segment, list[Mark]] = {}
        self._lasting: set[str] = set()
        self._looked_for_late = False
        self._troubled: set[int] = set()
        self._finished: deque[tuple[Segment, Task, Exception | None]] = deque()

    def __iter__(self) -> Iterator[Segment]:
        """The open ones, least recently written first."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def recover(self) -> None:
        """Learn the ledger from the segments left behind; cut and seal them if it is time.

        Raises OSError only if the marks can't be read.
        """
        self._inherited.clear()
        if self._fence.is_first:
            return
        marked = self._marks.read()
        for mark in marked or self._marks.unmarked_segments():
            found = self._inspect(mark)
            self._next_number = max(self._next_number, mark.segment_number + 1)
            if found is None or (found.header is None and not marked):
                continue  # not readable, or nothing says that it is ours
            self._ledger.merge(found.ledger)
            if found.header is not None:
                self._next_number = max(self._next_number, found.header.segment_number + 1)
            self._inherited.append((mark, found))
        if self._fence.lease_is_over():
            self._settle_inherited()

    def _inspect(self, mark: Mark) -> Inspection | None:
        path = self._directory / mark.path
        try:
            found = inspect_segment(path)
        except OSError as error:
            self._note([Damage(str(path), 0, f"can't be read: {error_text(error)}")])
            return None
        self._note(found.damage)
        return found

    def _settle_inherited(self) -> None:
        inherited, self._inherited = self._inherited, []
        for mark, found in inherited:
            was_open, noted = not found.is_settled, len(found.damage)
            if settle_segment(self._fs, found, self._clock.now_ms()):
                self.counters.recovered += was_open
                self._covered_marks.append(mark)
                self._follower.sealed(found.path)
            else:
                self._note(found.damage[noted:])
                self._inherited.append((mark, found))

    def _settle_what_others_left(self) -> None:
        if self._fence.is_shared and not self._looked_for_late:
            self._looked_for_late = True
            self._inherit_late()
        self._settle_inherited()

    def _inherit_late(self) -> None:
        """Segments that an older writer made after this one began: nothing in them was acked."""
        own = {segment.mark for segment in [*self._open.values(), *self._leaving.values()]}
        known = own | {mark for mark, _ in self._inherited} | set(self._covered_marks)
        for mark in self._marks.read():
            found = self._inspect(mark) if mark not in known else None
            if found is None or found.header is None or found.is_settled:
                continue
            if found.header.writer_epoch < self._fence.epoch:
                found.forget_commits()
                self._inherited.append((mark, found))

    def for_write(self, key: Key, more_bytes: int, fits: Callable[[int, int], bool]) -> Segment:
        """The open segment of `key` if that many more bytes fit in, or a new one.

        It is taken until its next `confirm` or `take_back`: one commit at a time goes into
        a segment. A new one is in `unsynced`. Raises OSError; then no segment was made.
        """
        segment = self._open.get(key)
        if (
            segment is not None
            and not segment.is_taken
            and fits(segment.written.end_offset, more_bytes)
        ):
            segment.is_taken = True
            self._open.move_to_end(key)
            return segment
        if segment is None and len(self._open) >= self._open_partitions_max:
            self._seal_least_recent()
        fresh = self._make(key)
        if segment is not None:
            self._full.append(segment)
        fresh.is_taken = True
        self._open[key] = fresh
        self._open.move_to_end(key)
        return fresh

    def keep(self, segment: Segment) -> None:
        """A new segment's files, names and snapshot are on the disk: it may be written."""
        self._lasting.update(self.unsynced.pop(segment, ()))
        if len(self._lasting) > _DIRECTORIES_KEPT_MAX:
            self._lasting.clear()
        covered = self._covers.pop(segment, [])
        self._marks.remove(covered)
        self._follower.covered(covered)

    def forget_directory(self, directory: Path) -> None:
        """It is about to be removed: whoever makes it again syncs its name again."""
        self._lasting.discard(str(directory))

    def discard(self, segment: Segment) -> None:
        """A new segment could not be synced: remove it, as far as that goes."""
        self.unsynced.pop(segment, None)
        self._places.pop(segment.key, None)
        self._covered_marks += self._covers.pop(segment, ())
        if self._open.get(segment.key) is segment:
            del self._open[segment.key]
        if segment in self._full:
            self._full.remove(segment)
        with suppress(OSError):  # it is empty and marked: the next start removes it
            segment.remove()
            self._marks.remove([segment.mark])

    def _make(self, key: Key) -> Segment:
        partition, stream = key
        directory = f"{self._workspace}/{partition.path}"
        is_new = make_below(self._workspace, partition.path)
        place = self._places.get(key, 0)
        while True:
            path = Path(f"{directory}/{segment_name(stream, place, self._suffix)}")
            place += 1
            if (not is_new and self._is_there(path)) or self._follower.is_taken(path):
                continue
            segment = self._create(path, partition, stream)
            if segment is not None:
                break
        self._places[key] = place
        while len(self._places) > _PLACES_KEPT_MAX:
            self._places.popitem(last=False)
        return segment

    def _is_there(self, path: Path) -> bool:
        return path.exists() or Path(f"{path}{INDEX_SUFFIX}").exists()

    def _create(self, path: Path, partition: Partition, stream: str) -> Segment | None:
        """A new segment, or None if someone else has just made one of that name."""
        number = self._next_number
        mark = Mark(number, f"{partition.path}/{path.name}")
        header = IndexHeader(
            number, self._fence.epoch, self._workspace_id, self._clock.now_ms(), self._index_flags
        )
        segment = Segment(path, mark, header, partition, stream)
        self._take_finished()
        try:
            self._marks.add(mark)
            segment.create(self._fs, self._ledger.snapshot())
        except OSError as error:
            self._marks.remove([mark])
            if isinstance(error, FileExistsError):
                return None
            raise
        self._next_number += 1
        self.counters.made += 1
        self._covers[segment], self._covered_marks = self._covered_marks, []
        self.unsynced[segment] = self._directories_of(partition)
        return segment

    def _directories_of(self, partition: Partition) -> list[str]:
        """The directories to be synced for a segment to be found after a power cut.

        Its partition's and the marks', which have a new name in them, and those above as
        far as this process has not synced the name of the one below.
        """
        workspace = self._workspace
        changed = [f"{workspace}/{partition.path}", f"{workspace}/{LANE_DIRECTORY}"]
        for directory in tuple(changed):
            below = directory
            while below not in self._lasting and below != self._base:
                below = below.rpartition("/")[0]
                changed.append(below)
        return list(dict.fromkeys(changed))

    def seal(self, key: Key) -> None:
        """Begin to seal the open segment of `key`; all in it must be confirmed."""
        self._hand_over(self._open.pop(key))

    def seal_full(self) -> None:
        """Begin to seal the segments that `for_write` found full; call it after a commit."""
        full, self._full = self._full, []
        for segment in full:
            self._hand_over(segment)

    def retire(self, key: Key, segment: Segment) -> None:
        """Write no more to a segment whose write or sync failed: seal it at its last commit.

        It is cut back at once, so that a kill before it is sealed leaves no commit there that
        the next segment holds too.
        """
        segment.sync_failed = True
        with suppress(OSError):  # then sealing it anew gets rid of the commit
            segment.take_back(self._fs)
        if self._open.get(key) is segment:
            del self._open[key]
        if segment in self._full:
            self._full.remove(segment)
        self._hand_over(segment)

    def sync_soon(self) -> None:
        """Begin to sync whatever is written but not synced."""
        for segment in self._open.values():
            if segment.has_files_open and not segment.is_synced and not segment.is_sync_queued:
                segment.is_sync_queued = True
                self._submit(segment, "sync")

    def tick(self) -> None:
        """Take note of what the sealer did, try again what failed, settle what may be."""
        self._take_finished()
        unsealed, self._unsealed = self._unsealed, []
        for segment in unsealed:
            self._hand_over(segment)
        if self._fence.lease_is_over():
            self._settle_what_others_left()

    def settle_before_leaving(self) -> None:
        """Cut what the last writer left, also while its lease runs: nobody else will be there.

        It looked for a newer epoch before it acknowledged, so what it acknowledged had been
        seen by `recover`. Raises as `Fence.check` does: then it is another's to cut.
        """
        if self._fence.is_shared:
            self._fence.check()
            self._looked_for_late = False
            self._settle_what_others_left()

    def park(self, segment: Segment) -> None:
        """Close an open segment's descriptors; the next write opens them again.

        What is not synced is synced first, unless syncing is off, because an error that a
        closed descriptor did not report is lost.
        """
        with segment.lock:
            if self._sync and not segment.is_synced and not segment.sync_failed:
                try:
                    segment.sync(self._fs)
                except OSError as error:
                    self._finished.append((segment, "sync", error))
                    return
            segment.close()

    def seal_all(self) -> None:
        """Begin to seal whatever is open; what can't be sealed is left for the next start."""
        self.seal_full()
        for key in list(self._open):
            self.seal(key)

    def join(self) -> None:
        """Wait until all sealing that was begun is done."""
        self._sealer.join()
        self._take_finished()

    def abandon(self) -> None:
        """Close all descriptors and touch nothing: another writer owns the files now."""
        self._sealer.join()
        for segment in [*self._open.values(), *self._full, *self._unsealed]:
            segment.close()
        self._open.clear()
        self._full.clear()
        self._unsealed.clear()

    def _seal_least_recent(self) -> None:
        for key, segment in self._open.items():
            if not segment.is_taken:
                self.seal(key)
                return

    def _hand_over(self, segment: Segment) -> None:
        self._leaving[segment.mark.segment_number] = segment
        self._submit(segment, "seal")

    def _submit(self, segment: Segment, task: Task) -> None:
        self._sealer.submit(Job(segment, task, self._sync, self._fence.check, self._report))

    def _report(self, segment: Segment, task: Task, problem: Exception | None) -> None:
        self._finished.append((segment, task, problem))
        if task == "seal" and problem is None:
            self._follower.seal_came(segment.path)

    def _take_finished(self) -> None:
        while self._finished:
            segment, task, problem = self._finished.popleft()
            if isinstance(problem, OSError) and segment.mark.segment_number not in self._troubled:
                self._troubled.add(segment.mark.segment_number)
                where, what = segment.confirmed.end_offset, f"{task} failed: {error_text(problem)}"
                self._note([Damage(str(segment.path), where, what)])
            if task == "sync":
                if problem is not None and self._open.get(segment.key) is segment:
                    self.counters.sync_failures += 1
                    self.retire(segment.key, segment)
                continue
            self._leaving.pop(segment.mark.segment_number, None)
            if problem is None:
                self.counters.sealed += 1
                self._follower.sealed(segment.path)
            if problem is None or isinstance(problem, FileNotFoundError):
                self._covered_marks.append(segment.mark)
                self._troubled.discard(segment.mark.segment_number)
            elif not isinstance(problem, FencedError):
                self._unsealed.append(segment)

    def _note(self, damage: Sequence[Damage]) -> None:
        self.counters.damaged += len(damage)
        self.damage.extend(damage[: DAMAGE_MAX - len(self.damage)])
