"""An archive cut into parts that are read apart from one another, by its commit indexes.

Where a segment is cut depends on the segment alone, and what is added to an open one leaves
its earlier parts as they are. So a part is the same part whoever asks, for whatever of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xxhash

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive import stored_bytes
from cdp_ray_sinks.files.archive_reading import selected_segments
from cdp_ray_sinks.files.commit_index import Commit
from cdp_ray_sinks.files.index_reading import Report, SegmentIndex, load_index
from cdp_ray_sinks.files.segment_opening import open_segment
from cdp_ray_sinks.files.selection import Selection

PART_BYTES: Final = 32 * 1024 * 1024
"""Of records, before compression; a part ends with the commit that reaches it."""
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class ArchivePart:
    """A range of one segment's records.

    `start` to `end` are byte offsets in the records, `end` None for all that is there, where no
    index tells. `segment_id` is the segment's for ever, wherever its file lies. `events` (None
    without an index) and `record_bytes` are those of the batches that may hold what is selected.
    """

    path: str
    segment_id: str
    start: int
    end: int | None
    events: int | None
    record_bytes: int

    def batches(self, selection: Selection, report: Report) -> Iterator[tuple[int, Batch]]:
        """The batches that hold something selected, whole, and the place of each in the part.

        The place does not depend on what is selected. Damage goes to `report`, and what can't
        be opened.
        """
        place = -1

        def is_wanted(entry: Any, committed_at_ms: int) -> bool:
            nonlocal place
            place += 1
            return selection.may_hold(entry, committed_at_ms)

        try:
            segment = open_segment(Path(self.path), report)
            has_index = self.events is not None
            found = segment.located(self.start, is_wanted if has_index else None)
            for number, (offset, batch) in enumerate(found):
                if self.end is not None and offset >= self.end:
                    return
                if selection.may_hold_batch(batch.header) and any(selection.runs_in(batch)):
                    yield place if has_index else number, batch
        except CorruptSegmentError as error:
            report(error)
        except OSError as error:
            report(CorruptSegmentError(self.path, 0, error.strerror or str(error)))


def archive_parts(path: str | Path, selection: Selection, report: Report) -> Iterator[ArchivePart]:
    """The parts under `path` that can hold what is selected, in the order of the archive.

    What can't be read goes to `report`. Raises FileNotFoundError if there is no `path`.
    """
    wanted = selection.workspaces
    for info in selected_segments(path, selection):
        if wanted is not None and info.workspace_id not in wanted:
            continue
        try:
            index = load_index(info.path)
            if index is None or not index.ranges or any(r.commit is None for r in index.ranges):
                yield _whole(info.path)  # nothing tells where every batch begins
            else:
                yield from _parts_of(info.path, index, selection)
        except CorruptSegmentError as error:
            report(error)
        except OSError as error:
            report(CorruptSegmentError(str(info.path), 0, error.strerror or str(error)))


def _whole(path: Path) -> ArchivePart:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    segment_id = xxhash.xxh3_128_hexdigest(head)
    return ArchivePart(str(path), segment_id, 0, None, None, stored_bytes(path))


def _parts_of(path: Path, index: SegmentIndex, selection: Selection) -> Iterator[ArchivePart]:
    commits = [part.commit for part in index.ranges if part.commit is not None]
    name = index.header.journal_id if index.header is not None else ""
    segment_id = xxhash.xxh3_128_hexdigest(name.encode() + commits[0].entries.tobytes())
    start = position = events = held_bytes = 0
    for place, commit in enumerate(commits):
        position += int(commit.entries["record_bytes"].sum())
        events_here, bytes_here = _selected(commit, selection)
        events, held_bytes = events + events_here, held_bytes + bytes_here
        if position - start < PART_BYTES and place + 1 < len(commits):
            continue
        if held_bytes:
            yield ArchivePart(str(path), segment_id, start, position, events, held_bytes)
        start, events, held_bytes = position, 0, 0


def _selected(commit: Commit, selection: Selection) -> tuple[int, int]:
    """Events and bytes of the batches of a commit that may hold what is selected."""
    entries = commit.entries
    wanted = [selection.may_hold(entry, commit.committed_at_ms) for entry in entries]
    return int(entries["event_count"][wanted].sum()), int(entries["record_bytes"][wanted].sum())
