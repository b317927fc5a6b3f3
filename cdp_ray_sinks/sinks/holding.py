"""How long a sink that is acknowledged by whole files may wait for more before it ends them."""

from __future__ import annotations

from typing import Final

FULL_SHARE: Final = 0.75
"""Of what may be held: then it is published whatever else comes."""
STALLED_SHARE: Final = 0.125
"""Of what may be held: then a moment without anything new means that nothing new can come."""
STALLED_MS: Final = 200


class HoldPolicy:
    """When batches that are held are to be published.

    Before that many bytes or batches are held that nothing more could come; after
    `age_ms_max`; and when nothing came for a moment although a good part is held: the
    sources may be waiting then, over all lanes, for what is held in them.
    """

    def __init__(self, held_bytes_max: int, held_batches_max: int, age_ms_max: int) -> None:
        self._maxima = held_bytes_max, held_batches_max
        self._age_ms_max = age_ms_max
        self._first_ms: int | None = None
        self._last_ms = 0

    def note(self, now_ms: int) -> None:
        """A batch has come."""
        self._first_ms = now_ms if self._first_ms is None else self._first_ms
        self._last_ms = now_ms

    def clear(self) -> None:
        """All was published."""
        self._first_ms = None

    def due_in_ms(self, held_bytes: int, held_batches: int, now_ms: int) -> int:
        """How long to wait for more, 0 for not at all."""
        if self._first_ms is None:
            return 0
        share = max(held_bytes / self._maxima[0], held_batches / self._maxima[1])
        if share >= FULL_SHARE:
            return 0
        wait_ms = self._first_ms + self._age_ms_max - now_ms
        if share >= STALLED_SHARE:
            wait_ms = min(wait_ms, self._last_ms + STALLED_MS - now_ms)
        return max(0, wait_ms)
