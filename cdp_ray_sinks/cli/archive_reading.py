"""What `cat` and `scan` share: the batches of archives and single files, and damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.archive_reading import read_batches, selected_segments
from cdp_ray_sinks.files.segment_opening import open_segment
from cdp_ray_sinks.files.selection import Selection

OnDamage = Callable[[str], None]
FOLLOW_MS: Final = 200


def batches_of(
    paths: Sequence[Path], on_damage: OnDamage, selection: Selection
) -> Iterator[tuple[Path, Batch]]:
    """Every batch that can hold what is selected; what can't be read is told to `on_damage`.

    Raises ConfigError for a path that is not there.
    """
    check_paths(paths)
    yield from read_batches(paths, lambda damage: on_damage(str(damage)), selection)


def check_paths(paths: Sequence[Path]) -> None:
    """Raises ConfigError for a path that is not there."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")


def new_batches_of(
    paths: Sequence[Path], on_damage: OnDamage, selection: Selection, clock: Clock
) -> Iterator[Batch]:
    """Batches as they are committed from now on, without an end.

    With a time range those that are there already come first. Only what a commit index
    vouches for is looked at, so a write under way is never half seen.
    """
    places: dict[Path, int] = {}
    seen_bytes: dict[Path, int] = {}
    is_first = True
    while True:
        for info in (info for root in paths for info in selected_segments(root, selection)):
            index_bytes = _bytes_of(info.index_path or info.path)
            if seen_bytes.get(info.path) != index_bytes:
                seen_bytes[info.path] = index_bytes
                yield from _since(info.path, places, on_damage, selection, is_first)
        if not selection.has_range:
            is_first = False
        clock.sleep_ms(FOLLOW_MS)


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _since(
    path: Path, places: dict[Path, int], on_damage: OnDamage, selection: Selection, is_skipped: bool
) -> Iterator[Batch]:
    """What came to a segment since it was looked at; notes the place in `places`."""

    def tell(damage: CorruptSegmentError) -> None:
        on_damage(str(damage))

    try:
        segment = open_segment(path, tell)
        for offset, batch in segment.located(places.get(path, 0)):
            places[path] = offset + len(batch.records)
            if (selection.has_range or not is_skipped) and selection.may_hold_batch(batch.header):
                yield batch
    except (CorruptSegmentError, OSError):
        return  # it is just being made; the next look finds it whole


def wanted_rows(table: pa.RecordBatch, schema_type: int, selection: Selection) -> pa.RecordBatch:
    """The rows of a decoded batch that are selected by event time and event type."""
    mask = None
    if selection.time == "event" and selection.has_range:
        times = table.column("timestamp")
        low, high = selection.start_ms, selection.end_ms
        mask = pc.and_(
            pc.greater_equal(times, -(2**63) if low is None else low),
            pc.less_equal(times, 2**63 - 1 if high is None else high),
        )
    if selection.event_types is not None and schema_type == SchemaType.EVENT:
        kinds = table.column("event_type").to_numpy()
        is_kind = pa.array((np.uint64(selection.event_types) >> kinds.astype("u8")) & 1 == 1)
        mask = is_kind if mask is None else pc.and_(mask, is_kind)
    return table if mask is None else table.filter(mask)
