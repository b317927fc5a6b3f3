"""How a producer reaches its router, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from cdp_ray_sinks.batch.batch import BatchId, Pack
from cdp_ray_sinks.delivery.push import Group, Outcomes, Payload
from cdp_ray_sinks.errors import CdpError


class LinkError(CdpError):
    """The router could not be reached, or it is not known whether it took the call."""


class RouteAnswer(NamedTuple):
    """Per batch of a call: outcomes so far, and whether every sink has settled it."""

    outcomes: list[Outcomes]
    is_complete: list[bool]


OnAnswer: TypeAlias = Callable[[RouteAnswer | Exception], None]


class RouterLink(Protocol):
    """A producer's way to its router. Callbacks may run in any thread, once per call."""

    def put(self, pack: Pack) -> Payload:
        """Copy a pack into the object store; the caller's buffers are free on return."""
        ...

    def begin(self, producer: bytes, session: int) -> None:
        """Begin a session at call 1; blocks. Raises LinkError."""
        ...

    def route(
        self, producer: bytes, session: int, number: int, group: Group, on_answer: OnAnswer
    ) -> None:
        """Send a group; answered once every required sink has settled all of it."""
        ...

    def settled(self, batch_ids: Sequence[BatchId], on_answer: OnAnswer) -> None:
        """Ask about batches that an optional sink still owed; answered when none does."""
        ...
