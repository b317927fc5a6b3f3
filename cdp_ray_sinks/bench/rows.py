"""One line of a benchmark's result, and how repetitions become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

# Medians of the reference machine for the same limits, in bytes per second. A limit far
# below them says that the machine was not itself, and the row with it.
REFERENCE_LIMITS: Final = {
    "raw write": 2.81e9,
    "raw write + fdatasync": 1.18e9,
    "ray.put": 3.13e9,
    "memcpy": 8.9e9,
    "lz4.frame.compress": 0.65e9,
    "pq.write_table": 0.9e9,
}
SUSPECT_BELOW: Final = 0.7


@dataclass(frozen=True, slots=True)
class Row:
    """A path's median rate beside its limit's, both taken in turn in one run.

    `read_back` events were found at the destination. `ratio` is path over limit, pair by
    pair, with its spread; for times (`p50_us` …) and sizes (`bytes_per_event`) it is path over
    comparison, lower is better.
    `private_bytes` are those of all processes of the pipeline together.
    A suspect row had a slow machine under it and proves nothing.
    """

    sink: str
    variant: str
    events: int
    read_back: int
    events_per_s: float | None = None
    bytes_per_s: float | None = None
    limit: str | None = None
    limit_bytes_per_s: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    file_system: str | None = None
    suspect: bool = False
    p50_us: float | None = None
    p99_us: float | None = None
    limit_p50_us: float | None = None
    ns_per_event: float | None = None
    bytes_per_event: float | None = None
    limit_bytes_per_event: float | None = None
    private_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, figures rounded to what means something."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Lap:
    """One repetition: seconds of the path and of its limit, for the same bytes."""

    path_s: float
    limit_s: float


def rate_row(
    sink: str,
    variant: str,
    laps: Sequence[Lap],
    *,
    events: int,
    record_bytes: int,
    read_back: int,
    limit: str,
    file_system: str | None = None,
) -> Row:
    """Medians of path and limit, the median and spread of their ratio."""
    ratios = [lap.limit_s / lap.path_s for lap in laps]
    path_s = median(lap.path_s for lap in laps)
    limit_bytes_per_s = record_bytes / median(lap.limit_s for lap in laps)
    return Row(
        sink,
        variant,
        events,
        read_back,
        events / path_s,
        record_bytes / path_s,
        limit,
        limit_bytes_per_s,
        median(ratios),
        min(ratios),
        max(ratios),
        file_system,
        limit_bytes_per_s < SUSPECT_BELOW * REFERENCE_LIMITS.get(limit, 0.0),
    )


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0..1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
