"""Lines on their way from a sink to whoever prints them, in another process.

The sink waits while the buffer is full, so it holds up no one but itself; a line leaves the
buffer when the printer, asking for the next ones, says that it has printed it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

LINES_MAX: Final = 4096
HELD_BYTES_MAX: Final = 4 * 1024 * 1024
TAKEN_LINES_MAX: Final = 1024


class Cursor(NamedTuple):
    """Up to which line of which buffer was printed: that buffer's life, and the line's number."""

    life: int = 0
    number: int = 0


class LineBuffer:
    """Holds at most `lines_max` lines and `held_bytes_max` characters, or one longer line.

    `life` differs from that of any other buffer, and is not 0: a printer may bring the
    cursor of the one before it. One thread puts, one takes.
    """

    def __init__(
        self, life: int, lines_max: int = LINES_MAX, held_bytes_max: int = HELD_BYTES_MAX
    ) -> None:
        self._life = life
        self._lines_max = lines_max
        self._held_bytes_max = held_bytes_max
        self._lines: deque[str] = deque()
        self._held = 0
        self._printed = 0
        self._changed = threading.Condition()

    def put(self, lines: Sequence[str], timeout_ms: int) -> bool:
        """Hand over lines; False if there was no room for all of them in time: none was taken.

        Raises ValueError for more lines than the buffer can ever hold.
        """
        if len(lines) > self._lines_max:
            raise ValueError(f"{len(lines)} lines at once; at most {self._lines_max} fit")
        weight = sum(map(len, lines))

        def has_room() -> bool:
            return not self._lines or (
                len(self._lines) + len(lines) <= self._lines_max
                and self._held + weight <= self._held_bytes_max
            )

        with self._changed:
            if not self._changed.wait_for(has_room, timeout_ms / 1000):
                return False
            self._lines.extend(lines)
            self._held += weight
            self._changed.notify_all()
        return True

    def settle(self, timeout_ms: int) -> bool:
        """Wait until all lines handed over were printed; False if none was for that long."""
        until = time.monotonic() + timeout_ms / 1000
        with self._changed:
            while self._lines:
                before = self._printed
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    return False
                if self._printed > before:
                    until = time.monotonic() + timeout_ms / 1000
        return True

    def take(self, after: Cursor, wait_ms: int) -> tuple[Cursor, list[str]]:
        """The lines behind `after`, up to which all were printed; waits a while for some.

        Returns them with the cursor to come back with. A line whose cursor is not brought
        back is given again.
        """
        with self._changed:
            if after.life == self._life:
                self._let_go(after.number)
            until = time.monotonic() + wait_ms / 1000
            while not self._lines and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            lines = [line for _, line in zip(range(TAKEN_LINES_MAX), self._lines, strict=False)]
            return Cursor(self._life, self._printed + len(lines)), lines

    def _let_go(self, number: int) -> None:
        while self._lines and self._printed < number:
            self._held -= len(self._lines.popleft())
            self._printed += 1
        self._changed.notify_all()
