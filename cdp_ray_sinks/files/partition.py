"""Where files go: one partition per workspace, date and (hourly rotation) hour, UTC.

The partition comes from the time a batch was received, so that a batch which is written
again later lands where the first try would have. Pure functions of values: no I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from cdp_ray_sinks.errors import TerminalError

Rotation: TypeAlias = Literal["hourly", "daily"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
WORKSPACE_ID_MAX: Final = 2**32 - 1
_YEAR_10000_MS: Final = 253_402_300_800_000


class Partition(NamedTuple):
    """One slot of files. `starts_at_ms` and `ends_at_ms` bound the received times in it."""

    workspace_id: int
    starts_at_ms: int
    ends_at_ms: int
    path: str
    """Relative to the workspace's directory: `YYYY-MM-DD/HH`, or `YYYY-MM-DD` when daily."""

    def directory(self, base: Path) -> Path:
        """Where the partition's segments are."""
        return base / str(self.workspace_id) / self.path


def partition_of(workspace_id: int, received_at_ms: int, rotation: Rotation) -> Partition:
    """The partition of a batch.

    Raises TerminalError if the workspace is not 1..2**32-1 or the time not one between
    1970 and the year 9999: such a batch has no place in an archive.
    """
    if not 0 < workspace_id <= WORKSPACE_ID_MAX:
        raise TerminalError(f"workspace {workspace_id} is not one of 1..{WORKSPACE_ID_MAX}")
    if not 0 <= received_at_ms < _YEAR_10000_MS:
        raise TerminalError(f"received time {received_at_ms} ms is not between 1970 and 9999")
    span_ms = HOUR_MS if rotation == "hourly" else DAY_MS
    starts_at_ms = received_at_ms - received_at_ms % span_ms
    path = _path_of(starts_at_ms, span_ms)
    return Partition(workspace_id, starts_at_ms, starts_at_ms + span_ms, path)


@lru_cache(maxsize=1024)
def _path_of(starts_at_ms: int, span_ms: int) -> str:
    moment = datetime.fromtimestamp(starts_at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d/%H" if span_ms == HOUR_MS else "%Y-%m-%d")


def segment_name(stream: str, place: int, suffix: str) -> str:
    """The name of a stream's segment in its partition: `data.bin`, `data-1.bin`, ..."""
    return f"{stream}{suffix}" if place == 0 else f"{stream}-{place}{suffix}"
