"""How a producer reaches its router, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from cdp_ray_sinks.batch.batch import BatchId, Pack
from cdp_ray_sinks.delivery.push import Group, Outcomes, Payload
from cdp_ray_sinks.errors import CdpError


class LinkError(CdpError):
    """The router could not be reached, or it is not known whether it took the call."""


OWED: Final = 0
"""A required sink has not settled the batch yet."""
REQUIRED_SETTLED: Final = 1
"""Only optional sinks have not settled it yet."""
COMPLETE: Final = 2
"""Every sink has settled it; the router has forgotten it."""


class RouteAnswer(NamedTuple):
    """Per batch of a call: outcomes so far, and OWED, REQUIRED_SETTLED or COMPLETE."""

    outcomes: list[Outcomes]
    states: list[int]


class SettledAnswer(NamedTuple):
    """The batches asked about that are further than was known: their places among those."""

    places: list[int]
    outcomes: list[Outcomes]
    states: list[int]


OnAnswer: TypeAlias = Callable[[RouteAnswer | Exception], None]
OnSettled: TypeAlias = Callable[[SettledAnswer | Exception], None]


class RouterLink(Protocol):
    """A producer's way to its router. Callbacks may run in any thread, once per call."""

    def put(self, pack: Pack) -> Payload:
        """Copy a pack into the object store; the caller's buffers are free on return."""
        ...

    def begin(self, producer: bytes, session: int) -> int:
        """Begin a session at call 1; the one in force. Blocks. Raises LinkError."""
        ...

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        """Send a group; answered once required sinks have settled it, or soon anyway."""
        ...

    def settled(self, known: Sequence[tuple[BatchId, int]], on_answer: OnSettled) -> None:
        """Ask about batches not complete yet; answered when one is further than known, or soon."""
        ...
