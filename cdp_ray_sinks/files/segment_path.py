"""What a segment's path says: `{base}/{workspace}/{date}[/{hour}]/{stream}[-{place}]{suffix}`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cdp_ray_sinks.files.partition import DAY_MS, HOUR_MS, WORKSPACE_ID_MAX

_NAME: Final = re.compile(r"(?P<stream>.+?)(?:-(?P<place>[1-9]\d{0,8}))?(?P<suffix>\.bin|\.log)")
_HOUR: Final = re.compile(r"[01]\d|2[0-3]")


class SegmentName(NamedTuple):
    """A segment's file name in its parts; sorts in the order of writing."""

    stream: str
    place: int
    suffix: str


class SegmentPlace(NamedTuple):
    """Whose a segment is and of what time [starts, ends), as far as its path tells."""

    workspace_id: int | None
    starts_at_ms: int | None
    ends_at_ms: int | None = None


def parse_name(name: str) -> SegmentName | None:
    """The parts of a segment's name; None for the name of something else."""
    compressed = ".lz4" if name.endswith(".lz4") else ""
    found = _NAME.fullmatch(name.removesuffix(compressed))
    if found is None or name.startswith("."):
        return None
    suffix = found["suffix"] + compressed
    return SegmentName(found["stream"], int(found["place"] or 0), suffix)


def parse_place(path: Path) -> SegmentPlace:
    """The workspace and the partition's begin that a segment's directories name."""
    parts = path.absolute().parts[:-1]
    hour, span_ms = 0, DAY_MS
    if parts and _HOUR.fullmatch(parts[-1]):
        hour, parts, span_ms = int(parts[-1]), parts[:-1], HOUR_MS
    try:
        day = datetime.strptime(parts[-1], "%Y-%m-%d").replace(hour=hour, tzinfo=UTC)
    except (ValueError, IndexError):
        return SegmentPlace(None, None)
    starts_at_ms = int(day.timestamp()) * 1000
    name = parts[-2] if len(parts) > 1 else ""
    if not re.fullmatch(r"[1-9][0-9]{0,9}", name) or int(name) > WORKSPACE_ID_MAX:
        return SegmentPlace(None, starts_at_ms, starts_at_ms + span_ms)
    return SegmentPlace(int(name), starts_at_ms, starts_at_ms + span_ms)
