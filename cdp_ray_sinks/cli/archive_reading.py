"""What the reading commands share: which paths they take, and archives as they grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.archive import SegmentInfo, segments
from cdp_ray_sinks.files.archive_reading import selected_segments, wanted_batches
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX
from cdp_ray_sinks.files.journal import JOURNAL_DIRECTORY
from cdp_ray_sinks.files.segment_opening import open_segment
from cdp_ray_sinks.files.segment_path import parse_name
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.sources.framing import holds_frames

OnDamage = Callable[[str], None]
FOLLOW_MS: Final = 200
TEXT_SUFFIX: Final = ".log"
"""Of segments that hold lines."""
TABLE_SUFFIX: Final = ".parquet"


def check_paths(paths: Sequence[Path], takes_frames: bool = False) -> None:
    """Raises ConfigError for a path that is not there, or that holds no records.

    That is text, tables, and frames unless the command `takes_frames`.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        if path.is_file() and not takes_frames and holds_frames(path):
            raise ConfigError(f"{path}: frames as clients send them; send plays them to a source")
        if holds_tables(path):
            raise ConfigError(f"{path}: Parquet files; cdp-sinks query asks them in SQL")
        text = text_file_in(path)
        if text is None:
            continue
        what = "an archive of text, a line for each event" if path.is_dir() else "lines of text"
        tool = f"lz4 -dc {text}" if text.name.endswith(LZ4_SUFFIX) else f"tail -F {text}"
        raise ConfigError(f"{path}: {what}, which any tool reads: {tool}")


def text_file_in(path: Path) -> Path | None:
    """The first file of lines that `path` is or holds, if it holds no records."""
    first: Path | None = None

    def holds_records(found: Path) -> bool:
        nonlocal first
        name = parse_name(found.name)
        is_text = name is not None and name.suffix.removesuffix(LZ4_SUFFIX) == TEXT_SUFFIX
        if is_text and first is None:
            first = found
        return not is_text

    return None if any(segments(path, wanted=holds_records)) else first


def holds_tables(path: Path) -> bool:
    """Whether there are Parquet files, or what will be some, and no records of an archive."""
    if path.is_file():
        return path.name.endswith(TABLE_SUFFIX)
    has_tables = (path / JOURNAL_DIRECTORY).is_dir() or any(path.rglob(f"*{TABLE_SUFFIX}"))
    return has_tables and not any(segments(path))


def new_batches_of(
    paths: Sequence[Path], on_damage: OnDamage, selection: Selection, clock: Clock
) -> Iterator[Batch]:
    """Batches as they are committed from now on, without an end.

    With a time range those that are there already come first; else they are not even read.
    Only what a commit index vouches for is looked at, so a write under way is never half
    seen.
    """
    places: dict[Path, int] = {}
    seen_bytes: dict[Path, int] = {}
    is_passed_over = not selection.has_range
    while True:
        for info in (info for root in paths for info in _present_segments(root, selection)):
            index_bytes = _bytes_of(info.index_path or info.path)
            if seen_bytes.get(info.path) != index_bytes:
                seen_bytes[info.path] = index_bytes
                yield from _since(info, places, on_damage, selection, is_passed_over)
        is_passed_over = False
        clock.sleep_ms(FOLLOW_MS)


def _present_segments(root: Path, selection: Selection) -> Iterator[SegmentInfo]:
    """The segments there are; a folder that is removed meanwhile is no error."""
    with suppress(FileNotFoundError):
        yield from selected_segments(root, selection)


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _since(
    info: SegmentInfo,
    places: dict[Path, int],
    on_damage: OnDamage,
    selection: Selection,
    is_passed_over: bool,
) -> Iterator[Batch]:
    """What came to a segment since it was looked at; notes the place in `places`."""

    def tell(damage: CorruptSegmentError) -> None:
        on_damage(str(damage))

    path, index_end = info.path, None
    try:
        segment = open_segment(path, tell)
        if info.index_path is not None:
            index_end = segment.end_offset
        if index_end is None or not is_passed_over:
            for offset, batch in wanted_batches(segment, selection, tell, places.get(path, 0)):
                places[path] = offset + len(batch.records)
                if not is_passed_over:
                    yield batch
        if index_end is not None:
            places[path] = index_end
    except (CorruptSegmentError, OSError):
        return  # it is just being made; the next look finds it whole
