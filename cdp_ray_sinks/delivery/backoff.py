"""Full-jitter backoff: how long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays drawn evenly from 0 to a bound that doubles with each attempt."""

    first_ms: int = 50
    delay_ms_max: int = 5_000

    def delay_ms(self, attempt: int, random: Callable[[], float], asked_ms: int = 0) -> int:
        """The wait before attempt number `attempt` (1 = first retry), in milliseconds.

        `random` gives floats in [0, 1). What the destination asked for is a lower bound.
        """
        bound_ms = min(self.delay_ms_max, self.first_ms * 2 ** min(attempt - 1, 30))
        return max(asked_ms, int(random() * bound_ms) + 1)


class RetryTimer:
    """When to try again: longer after each failure in a row."""

    def __init__(self, backoff: Backoff, random: Callable[[], float]) -> None:
        self._backoff = backoff
        self._random = random
        self._attempt = 0
        self.at_ms = 0
        """On the clock whose readings `failed` is given; in the past when nothing waits."""

    def failed(self, now_ms: int, asked_ms: int) -> None:
        """Once more; the destination asked for a wait of at least `asked_ms`."""
        self._attempt += 1
        self.at_ms = now_ms + self._backoff.delay_ms(self._attempt, self._random, asked_ms)

    def succeeded(self) -> None:
        """The next failure is the first again."""
        self._attempt = 0
