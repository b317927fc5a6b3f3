"""Time as an argument, so that a test decides what time it is."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the code gets its time from."""

    def now_ms(self) -> int:
        """Wall time, milliseconds since the Unix epoch, UTC."""
        ...

    def monotonic_ms(self) -> int:
        """A clock for durations that never goes back, in milliseconds."""
        ...

    def sleep_ms(self, duration_ms: int) -> None:
        """Return once `duration_ms` have passed on this clock."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds on the monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    def sleep_ms(self, duration_ms: int) -> None:
        """Sleep in this thread."""
        time.sleep(duration_ms / 1000)
