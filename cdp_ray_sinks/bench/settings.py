"""What a benchmark run was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure, on what, and where files go.

    `events` per repetition, `repeat` repetitions of path and limit in turn, `calls` single
    calls for latencies. `directory` is emptied of what the benchmark wrote. With `has_peers`
    other writers of the same format are measured too.
    """

    events: int
    repeat: int
    shape: str
    directory: Path
    say: Callable[[str], None]
    calls: int = 300
    has_peers: bool = False
