"""The words that routers, lanes and producers exchange: plain data, small to pickle."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from cdp_ray_sinks.batch.batch import BatchHeader, Pack

DURABLE: Final = "durable"
SPOOLED: Final = "spooled"
"""Durable in the sink's spool, which goes on by itself."""
DROPPED: Final = "dropped"
DEAD_LETTERED: Final = "dead_lettered"
LOST: Final = "lost"
"""The process that owned the batch died before it arrived; nobody waits for the answer."""

DROPPED_FULL: Final = "dropped_when_full"
DROPPED_OLD: Final = "dropped_when_old"
"""What a spool let go of later: the oldest when it was full, and what was too old."""
DEAD_LETTERED_LATER: Final = "dead_lettered_later"
REFUSED_LATER: Final = "refused_later"
"""What became of a batch that was spooled, when the sink was to get it."""

PENDING: Final = "pending"
"""Taken and not settled yet: ask again by pushing the same batch, which joins the first one."""

REFUSED: Final = "refused"
"""The id came with other content: an error, never an acknowledgement."""

Outcomes: TypeAlias = tuple[tuple[str, str], ...]
"""(sink name, outcome) pairs of one batch."""

Payload: TypeAlias = Any
"""A reference to a pack in the object store, or the pack itself when it is small."""

Low: TypeAlias = tuple[bytes, int, int]
"""(producer, epoch, lowest unsettled sequence)."""


class Group(NamedTuple):
    """Several batches in one call: each header's payload is payloads[places[i]]."""

    headers: list[BatchHeader]
    payloads: list[Payload]
    places: list[int]
    lows: list[Low]

    @property
    def record_bytes(self) -> int:
        """Bytes of records in the group."""
        return sum(header.record_bytes for header in self.headers)


def make_group(batches: list[tuple[BatchHeader, Payload]], lows: list[Low]) -> Group:
    """A group that names each shared payload once."""
    payloads: list[Payload] = []
    places: list[int] = []
    seen: dict[int, int] = {}
    for _, payload in batches:
        place = seen.get(id(payload))
        if place is None:
            place = seen[id(payload)] = len(payloads)
            payloads.append(payload)
        places.append(place)
    return Group([header for header, _ in batches], payloads, places, lows)


def is_inline(payload: Payload) -> bool:
    """Whether the payload travels in the call itself."""
    return isinstance(payload, Pack)
