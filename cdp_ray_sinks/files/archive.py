"""Walk an archive directory: which segments it holds, and whether they are whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import (
    HEADER_BYTES,
    INDEX_SUFFIX,
    KIND_SEAL,
    IndexHeader,
    Seal,
    encode_seal,
    next_record,
)
from cdp_ray_sinks.files.index_reading import (
    LZ4_SUFFIX,
    PLAIN_SUFFIX,
    index_path_of,
    load_index,
)
from cdp_ray_sinks.files.segment_check import SegmentChecker
from cdp_ray_sinks.files.segment_path import SegmentName, parse_name, parse_place

DEPTH_MAX: Final = 4
"""Directories below the one given that are walked: workspace, date, hour, and one to spare."""
DAMAGED_MAX: Final = 10_000

_SEAL_BYTES: Final = len(encode_seal(Seal(0, 0, 0, 0)))

OnError = Callable[[OSError], None]


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of an archive.

    `workspace_id` and `starts_at_ms` (the partition's begin, Unix ms) are None where the
    path does not name them, `index_path` and `segment_number` where there is no index.
    """

    path: Path
    index_path: Path | None
    workspace_id: int | None
    starts_at_ms: int | None
    name: SegmentName
    segment_number: int | None
    is_sealed: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found; `ok` if nothing is damaged.

    `damaged` names at most DAMAGED_MAX places, `damaged_count` counts all. Events and
    messages in damaged batches are not counted. `uncommitted_bytes` lie behind the last
    commit of segments that are still open, `bytes_beyond_seals` behind the end of sealed
    ones; nobody reads either, so they are no damage.
    """

    ok: bool
    segments: int
    events: int
    messages: int
    held_bytes: int
    uncommitted_bytes: int
    bytes_beyond_seals: int
    damaged_count: int
    damaged: list[CorruptSegmentError]

    def __add__(self, other: VerifyReport) -> VerifyReport:
        """What two parts of an archive were found to be."""
        if not isinstance(other, VerifyReport):
            return NotImplemented
        return VerifyReport(
            self.ok and other.ok,
            self.segments + other.segments,
            self.events + other.events,
            self.messages + other.messages,
            self.held_bytes + other.held_bytes,
            self.uncommitted_bytes + other.uncommitted_bytes,
            self.bytes_beyond_seals + other.bytes_beyond_seals,
            self.damaged_count + other.damaged_count,
            [*self.damaged, *other.damaged][:DAMAGED_MAX],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with {path, offset, reason} for each damage."""
        places = [
            {"path": place.path, "offset": place.offset, "reason": place.reason}
            for place in self.damaged
        ]
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"damaged": places}


def segments(
    path: str | Path, workspace: int | None = None, wanted: Callable[[Path], bool] | None = None
) -> Iterator[SegmentInfo]:
    """The segments under `path`, by workspace, date, hour and then in order of writing.

    `path` is an archive's base directory, any directory in it, or one segment. Hidden
    directories are left out, and so is what is not `wanted`, before it is looked at. Raises
    OSError, FileNotFoundError if there is no `path`.
    """
    for found in _walk(Path(path), workspace, _raise):
        if (wanted is None or wanted(found)) and found.exists():
            yield segment_info(found)


def segment_info(path: Path) -> SegmentInfo:
    """What is known of one segment without reading its data."""
    name = parse_name(path.name) or SegmentName(path.stem, 0, path.suffix)
    place = parse_place(path)
    index_path = index_path_of(path)
    number, is_sealed, workspace_id = None, False, place.workspace_id
    if not index_path.is_file():
        return SegmentInfo(path, None, workspace_id, place.starts_at_ms, name, None, False)
    with index_path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(HEADER_BYTES, end - _SEAL_BYTES))
        tail = next_record(file.read(_SEAL_BYTES), 0)
    try:
        header = IndexHeader.from_bytes(head, str(index_path))
        number, workspace_id = header.segment_number, header.workspace_id
        is_sealed = not isinstance(tail, str) and tail[0] == KIND_SEAL
        if not is_sealed:  # what a fenced writer added may lie behind the seal
            index = load_index(path)
            is_sealed = index is not None and index.seal is not None
    except CorruptSegmentError:
        pass  # the path still tells whose it is
    return SegmentInfo(path, index_path, workspace_id, place.starts_at_ms, name, number, is_sealed)


def verify(
    path: str | Path,
    progress: Callable[[int, int], None] | None = None,
    workspace: int | None = None,
    wanted: Callable[[Path], bool] = lambda path: True,
) -> VerifyReport:
    """Read every byte of the segments under `path` and say whether they are as written.

    Proven are the checksums of each index record, commit and batch, that the records of a
    batch frame, the counts and the seal; what is compressed is decompressed for it. A file
    without an index is walked. What is not `wanted` is passed over. `progress` is
    called with the bytes checked so far and the bytes in all. Raises FileNotFoundError.
    """
    damaged: list[CorruptSegmentError] = []
    damaged_count = 0

    def complain(error: CorruptSegmentError) -> None:
        nonlocal damaged_count
        damaged_count += 1
        if len(damaged) < DAMAGED_MAX:
            damaged.append(error)

    def unreadable(error: OSError) -> None:
        if not Path(path).exists():
            raise error
        complain(CorruptSegmentError(str(error.filename), 0, error.strerror or str(error)))

    walked = _walk(Path(path), workspace, unreadable)
    found = [each for each in walked if _is_checkable(each) and wanted(each)]
    total_bytes = sum(stored_bytes(each) for each in found)
    checked_bytes = segment_count = events = messages = held = uncommitted = beyond = 0

    def on_bytes(count: int) -> None:
        nonlocal checked_bytes
        checked_bytes += count
        if progress is not None:
            progress(min(checked_bytes, total_bytes), total_bytes)

    checker = SegmentChecker(on_bytes)
    for each in found:
        if not each.exists():
            index_path = str(index_path_of(each))
            complain(CorruptSegmentError(index_path, 0, f"its data file {each.name} is missing"))
            continue
        check = checker.check(each)
        segment_count += 1
        events += check.events
        messages += check.messages
        held += check.held_bytes
        uncommitted += check.uncommitted_bytes
        beyond += check.bytes_beyond_seal
        for error in check.damaged:
            complain(error)
    if progress is not None:
        progress(total_bytes, total_bytes)
    return VerifyReport(
        not damaged,
        segment_count,
        events,
        messages,
        held,
        uncommitted,
        beyond,
        damaged_count,
        damaged,
    )


def _is_checkable(path: Path) -> bool:
    """Whether something can be proven of a file: it has an index, or holds records."""
    name = parse_name(path.name)
    holds_records = name is not None and name.suffix.removesuffix(LZ4_SUFFIX) == PLAIN_SUFFIX
    return holds_records or index_path_of(path).exists()


def stored_bytes(path: Path) -> int:
    """The size of a file, 0 if it can't be told."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _raise(error: OSError) -> None:
    raise error


def _walk(path: Path, workspace: int | None, on_error: OnError) -> Iterator[Path]:
    """Data files, in order; also those that are missing while their index is there."""
    if not path.is_dir():
        if not path.exists() and not index_path_of(path).exists():
            raise FileNotFoundError(2, "no such file or directory", str(path))
        yield path
        return
    for found in _walk_directory(path, DEPTH_MAX, on_error):
        if workspace is None or _workspace_of(found) == workspace:
            yield found


def _workspace_of(path: Path) -> int | None:
    return parse_place(path).workspace_id


def _walk_directory(directory: Path, depth: int, on_error: OnError) -> Iterator[Path]:
    files: dict[SegmentName, Path] = {}
    directories: list[Path] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    directories.append(Path(entry.path))
                    continue
                name = parse_name(entry.name.removesuffix(INDEX_SUFFIX))
                if name is not None:
                    files[name] = directory / entry.name.removesuffix(INDEX_SUFFIX)
    except OSError as error:
        on_error(error)
    yield from (files[name] for name in sorted(files))
    if depth > 0:
        for each in sorted(directories, key=_order):
            yield from _walk_directory(each, depth - 1, on_error)


def _order(directory: Path) -> tuple[int, int, str]:
    """Numbers first and by value, so that workspace 9 comes before 10."""
    if re.fullmatch(r"[0-9]{1,18}", directory.name):
        return 0, int(directory.name), directory.name
    return 1, 0, directory.name
