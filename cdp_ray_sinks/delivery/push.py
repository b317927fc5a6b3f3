"""The words that routers, lanes and producers exchange: plain data, small to pickle."""

from __future__ import annotations

from collections.abc import Iterable
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


GROUP_SHARED_MAX: Final = 512
"""Batches in one call, however few objects they share."""


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


def fitting(
    batches: Iterable[tuple[BatchHeader, Payload]], batches_max: int, bytes_max: int
) -> tuple[int, int]:
    """How many of the batches one call carries, at least one, and their bytes of records.

    Batches in a row that share an object count as one, because what costs is the reference.
    """
    count = object_count = group_bytes = 0
    last: Payload = None
    for header, payload in batches:
        if count == GROUP_SHARED_MAX:
            break
        is_other = payload is not last or not count
        if count and (
            object_count + is_other > batches_max or group_bytes + header.record_bytes > bytes_max
        ):
            break
        count += 1
        object_count += is_other
        group_bytes += header.record_bytes
        last = payload
    return count, group_bytes


def is_inline(payload: Payload) -> bool:
    """Whether the payload travels in the call itself."""
    return isinstance(payload, Pack)
