"""The connections of a source that use ack mode: what they send, and what they are told."""

from __future__ import annotations

from collections.abc import Iterator

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.sources.acked_stream import AckedStream
from cdp_ray_sinks.sources.connection import Connection
from cdp_ray_sinks.sources.unit_taker import Refusal, UnitTaker


class AckedConnections:
    """Used by the source's thread. Its counts are added to the source's `counters`."""

    def __init__(self, units: UnitTaker, counters: dict[str, int]) -> None:
        self._units = units
        self._counters = counters
        self._owed: dict[Connection, AckedStream] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def take(self, buffer: Bytes, end: int, connection: Connection, acked: AckedStream) -> int:
        """Take every whole unit; where the rest begins, -1 if the connection is to be closed."""
        units, counters = self._units, self._counters
        before = units.units, units.messages, units.events
        try:
            position = units.take(buffer, end, connection)
        except Refusal as refusal:
            counters["units_refused"] += 1
            acked.say_last(refusal.code)
            position = -1
        counters["units"] += units.units - before[0]
        counters["messages"] += units.messages - before[1]
        counters["events"] += units.events - before[2]
        if position >= 0 and acked.preamble is not None:
            self._owed[connection] = acked
        return position

    def settle(self) -> Iterator[Connection]:
        """Answer for all that is settled by now; those that have had their last word."""
        for connection, acked in list(self._owed.items()):
            if not acked.settle():
                yield connection
            elif not acked.is_owed:
                del self._owed[connection]

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._owed.pop(connection, None)
