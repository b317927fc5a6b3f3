"""What a connection in ack mode has sent and is still owed an answer for."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Final

from cdp_ray_sinks.errors import BatchConflictError
from cdp_ray_sinks.sources.base import Ticket
from cdp_ray_sinks.writers.ack_units import (
    AGAIN,
    CONFLICT,
    SETTLED,
    Preamble,
    encode_answer,
)

LOST: Final = "lost"
"""Of a batch whose owner died; as `delivery.push` has it."""


class AckedStream:
    """Units in the order they came; answers that the socket has no room for wait here."""

    def __init__(self, client: socket.socket) -> None:
        self.preamble: Preamble | None = None
        self.unsettled: deque[Ticket] = deque()
        self._socket = client
        self._settled = 0
        self._told = -1
        self._unsent = b""

    @property
    def is_owed(self) -> bool:
        """Whether there is something to be answered sooner or later."""
        return bool(self.unsettled) or bool(self._unsent) or self._told < self._settled

    def settle(self) -> bool:
        """Answer for what is settled by now; False after a last word, the connection is to go.

        A unit that the process which had it lost is never answered for: it has to come again.
        """
        while self.unsettled and self.unsettled[0].done():
            try:
                outcomes = self.unsettled[0].result(0)
            except BatchConflictError:
                self.say_last(CONFLICT)
                return False
            if LOST in outcomes.values():
                self.say_last(AGAIN)
                return False
            self.unsettled.popleft()
            self._settled += 1
        return self._answer()

    def _answer(self) -> bool:
        """One answer is on its way at a time, because each says all."""
        if not self._unsent:
            if self._told == self._settled:
                return True
            self._told = self._settled
            self._unsent = encode_answer(SETTLED, self._settled)
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:  # whoever reads it finds the same
            self._unsent = b""
        return True

    def say_last(self, code: int) -> None:
        """Say why the connection ends, if there is room for it."""
        with contextlib.suppress(OSError):
            self._socket.send(self._unsent + encode_answer(code, self._settled))
        self._unsent = b""
