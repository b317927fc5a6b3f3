"""Counters of one sink, and the immutable picture of them that is shown and added up."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """What a sink, or one lane of it, had done at some moment; lanes add up with `+`.

    `received` counts what was taken, `written` what is durable at the destination.
    `dropped` are batches let go because `on_full = "drop"`, `dead_letters` messages that
    can never be written, `duplicates` batches that were durable already.
    """

    batches_received: int = 0
    batches_written: int = 0
    messages_written: int = 0
    events_written: int = 0
    bytes_written: int = 0
    write_errors: int = 0
    flush_count: int = 0
    dropped: int = 0
    dead_letters: int = 0
    retries: int = 0
    duplicates: int = 0

    def __add__(self, other: MetricsSnapshot) -> MetricsSnapshot:
        """Both together, field by field."""
        if not isinstance(other, MetricsSnapshot):
            return NotImplemented
        return MetricsSnapshot(
            *(getattr(self, name) + getattr(other, name) for name in COUNTER_NAMES)
        )

    def to_dict(self) -> dict[str, int]:
        """Plain data, one key per counter."""
        return asdict(self)


def hit_rate(counters: Iterable[Mapping[str, int]]) -> float | None:
    """The share of buffers that were there when they were wanted, over all lanes of a sink.

    None for a sink that makes no bytes in buffers, or has not yet.
    """
    hits = misses = 0
    for counts in counters:
        hits += counts.get("pool_hits", 0)
        misses += counts.get("pool_misses", 0)
    return hits / (hits + misses) if hits + misses else None


COUNTER_NAMES = tuple(field.name for field in fields(MetricsSnapshot))


class SinkMetrics:
    """Counts from any thread; a reader never sees half of one `add`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTER_NAMES, 0)

    def add(self, **counts: int) -> None:
        """Raise the named counters, all or none; ValueError for an unknown or negative one."""
        with self._lock:
            for name, count in counts.items():
                if name not in self._counts or count < 0:
                    raise ValueError(f"can't add {count} to the counter {name!r}")
            for name, count in counts.items():
                self._counts[name] += count

    def snapshot(self) -> MetricsSnapshot:
        """The counters as they are now."""
        with self._lock:
            return MetricsSnapshot(**self._counts)
