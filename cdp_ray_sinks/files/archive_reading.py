"""Read archives as batches: all of them, or what a selection asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive import SegmentInfo, segments, stored_bytes
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX, PLAIN_SUFFIX, Report, index_path_of
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX, RecordScan
from cdp_ray_sinks.files.segment_opening import RecordSegment, open_segment
from cdp_ray_sinks.files.segment_path import parse_name, parse_place
from cdp_ray_sinks.files.selection import Selection

ALL: Final = Selection()


def selected_segments(path: str | Path, selection: Selection = ALL) -> Iterator[SegmentInfo]:
    """The segments of records under `path` that can hold what is selected, in order.

    `path` is as in `files.archive.segments`; a single file is taken whatever its name. A
    partition is believed only where there is a commit index: other software cuts its hours
    otherwise. Raises OSError, FileNotFoundError if there is no `path`.
    """
    named = Path(path)

    def may_hold(found: Path) -> bool:
        return found == named or _may_hold(found, selection)

    yield from segments(named, wanted=may_hold)


def _may_hold(path: Path, selection: Selection) -> bool:
    name, place = parse_name(path.name), parse_place(path)
    if name is None or name.suffix.removesuffix(LZ4_SUFFIX) != PLAIN_SUFFIX:
        return False
    wanted = selection.workspaces
    if wanted is not None and place.workspace_id is not None and place.workspace_id not in wanted:
        return False
    if place.starts_at_ms is None or place.ends_at_ms is None:
        return True
    is_asked_for = selection.may_hold_partition(place.starts_at_ms, place.ends_at_ms)
    return is_asked_for or not index_path_of(path).exists()


class Located(NamedTuple):
    """A batch, the file it is in, and where its first record begins in the file's content.

    `read_bytes` of all files, as they are stored, have been read or passed over.
    """

    path: Path
    offset: int
    batch: Batch
    read_bytes: int


def read_batches(
    paths: Iterable[str | Path], report: Report, selection: Selection = ALL
) -> Iterator[tuple[Path, Batch]]:
    """Each batch of these archives and files that can hold what is selected, with its file.

    Messages that were received outside of the range are left out: what is left of their
    batch comes as a batch without an id. With `time = "event"` the batches come whole, and
    so they do for `event_types`: which of their events are wanted is for the caller to
    find out. Damage, and what can't be read, goes to `report`; reading goes on. Raises
    FileNotFoundError for a path that is not there.
    """
    return ((found.path, found.batch) for found in read_located(paths, report, selection))


def read_located(
    paths: Iterable[str | Path], report: Report, selection: Selection = ALL
) -> Iterator[Located]:
    """The same with the place of each batch."""
    done_bytes = 0
    for path in paths:
        for info in selected_segments(path, selection):
            try:
                segment = open_segment(info.path, report)
                for offset, batch in wanted_batches(segment, selection, report):
                    yield Located(info.path, offset, batch, done_bytes + segment.read_offset)
            except CorruptSegmentError as error:
                report(error)
            except OSError as error:
                where = str(error.filename or info.path)
                report(CorruptSegmentError(where, 0, error.strerror or str(error)))
            done_bytes += stored_bytes(info.path)


def wanted_batches(
    segment: RecordSegment, selection: Selection, report: Report, position: int = 0
) -> Iterator[tuple[int, Batch]]:
    """The batches of one segment from `position` on, each with its place; see `read_batches`."""
    has_workspace = selection.workspaces is None or segment.workspace_id in selection.workspaces
    if not has_workspace:
        return
    for offset, batch in segment.located(position, selection.may_hold):
        if not selection.may_hold_batch(batch.header):
            continue
        for first, end in selection.runs_in(batch):
            if end - first == len(batch.offsets) - 1:
                yield offset, batch
                continue
            scan = RecordScan(batch.records, segment.path, segment.workspace_id, report)
            start, stop = int(batch.offsets[first]), int(batch.offsets[end])
            for part in scan.batches(start, stop, max(RECORDS_BYTES_MAX, stop - start)):
                yield offset + start, part
                start += len(part.records)
