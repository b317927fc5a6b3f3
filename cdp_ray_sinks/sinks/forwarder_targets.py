"""The collectors a forwarder may send to: which one next, and which not for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import TransientError

_FIRST_MS: Final = 50
_DELAY_MS_MAX: Final = 30_000


class _Closes(Protocol):
    def close(self) -> None: ...


Connection = TypeVar("Connection", bound=_Closes)


@dataclass(slots=True)
class _Target(Generic[Connection]):
    name: str
    connection: Connection | None = None
    failures: int = 0
    again_at_ms: int = 0
    error: str = ""


class Targets(Generic[Connection]):
    """Connections to several collectors, made when they are needed.

    "failover": the first that can be had, in the given order, and the first again once it is
    back. "round_robin": one after the other. One that fails is left alone for a time that
    grows, drawn at random from 0 to a bound that doubles.
    """

    def __init__(
        self,
        names: Sequence[str],
        balance: str,
        connect: Callable[[str], Connection],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._targets = [_Target[Connection](name) for name in names]
        self._is_round_robin = balance == "round_robin"
        self._connect = connect
        self._clock = clock
        self._random = random
        self._next = 0
        self.connects = 0

    def pick(self) -> Connection:
        """One that is connected. Raises TransientError that says what is wrong with each."""
        count = len(self._targets)
        first = self._next if self._is_round_robin else 0
        now_ms = self._clock.monotonic_ms()
        for place in range(first, first + count):
            target = self._targets[place % count]
            if target.connection is None:
                # With one target whoever calls waits between two tries.
                if count > 1 and now_ms < target.again_at_ms:
                    continue
                if not self._try(target):
                    continue
            self._next = (place + 1) % count
            assert target.connection is not None
            return target.connection
        raise TransientError("; ".join(t.error for t in self._targets if t.error))

    def _try(self, target: _Target[Connection]) -> bool:
        self.connects += 1
        try:
            target.connection = self._connect(target.name)
        except TransientError as error:
            self._note(target, str(error))
            return False
        return True

    def failed(self, connection: Connection, error: TransientError) -> None:
        """That one is of no use any more; it is closed."""
        connection.close()
        for target in self._targets:
            if target.connection is connection:
                target.connection = None
                self._note(target, str(error))

    def _note(self, target: _Target[Connection], error: str) -> None:
        bound_ms = min(_DELAY_MS_MAX, _FIRST_MS * 2 ** min(target.failures, 20))
        target.failures += 1
        target.error = error
        target.again_at_ms = self._clock.monotonic_ms() + int(self._random() * bound_ms) + 1

    def succeeded(self, connection: Connection) -> None:
        """It has taken something: its next failure is the first again."""
        for target in self._targets:
            if target.connection is connection:
                target.failures, target.error = 0, ""

    def connected(self) -> list[Connection]:
        """Those that are connected now."""
        return [t.connection for t in self._targets if t.connection is not None]

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for target in self._targets:
            if target.connection is not None:
                target.connection.close()
                target.connection = None
