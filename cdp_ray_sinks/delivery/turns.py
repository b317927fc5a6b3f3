"""Numbered calls in order: sessions that take their calls one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cdp_ray_sinks.errors import SequenceGapError

GAP_WAIT_MS_MAX = 10_000


class Turns:
    """Admits calls by (caller, session, number), numbers from 1, in order.

    Calls run in threads and may overtake one another by a little, so an early one waits for
    those before it; a gap that stays open for `gap_wait_ms_max` is refused.
    """

    def __init__(self, gap_wait_ms_max: int = GAP_WAIT_MS_MAX) -> None:
        self._gap_wait_s = gap_wait_ms_max / 1000
        self._changed = threading.Condition()
        self._sessions: dict[str, tuple[int, int]] = {}

    def begin(self, caller: str, session: int) -> int:
        """Begin a session; calls of the caller's older sessions are refused from now on.

        Returns the session in force: a newer one than asked for if there is one. Whoever takes
        sessions from a clock that was set back must ask for one above that.
        """
        with self._changed:
            known = self._sessions.get(caller)
            if known is None or session > known[0]:
                self._sessions[caller] = (session, 1)
            self._changed.notify_all()
            return self._sessions[caller][0]

    @contextmanager
    def turn(self, caller: str, session: int, number: int) -> Iterator[None]:
        """Hold the turn of that call. Raises SequenceGapError if it can't have one."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_settled(caller, session, number), self._gap_wait_s
            )
            current, following = self._sessions.get(caller, (0, 0))
            if current != session:
                raise SequenceGapError(f"{caller}: session {session} is over or never said hello")
            if number != following:
                raise SequenceGapError(f"{caller}: call {number} came, {following} is next")
            yield
            self._sessions[caller] = (session, following + 1)
            self._changed.notify_all()

    def _is_settled(self, caller: str, session: int, number: int) -> bool:
        current, following = self._sessions.get(caller, (0, 0))
        return current != session or number <= following
