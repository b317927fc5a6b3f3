"""Which sinks get a batch: rules over its header, the first match wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.batch.enums import EventType

ROUTES_MAX: Final = 16_384
"""How many answers a table remembers; past it the memory starts afresh."""


def event_type_mask(event_types: Iterable[EventType]) -> int:
    """The bit mask that a header uses for these event types."""
    mask = 0
    for event_type in event_types:
        mask |= 1 << event_type
    return mask


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions on a header. An empty one is not asked; all that are given must hold.

    `event_types` is a mask of bits 1 << EventType: it holds if the batch has at least
    one event of any of these types. The batch is routed whole.
    """

    sources: frozenset[str] = frozenset()
    schemas: frozenset[int] = frozenset()
    workspaces: frozenset[int] = frozenset()
    event_types: int = 0

    def holds(self, header: BatchHeader) -> bool:
        """Whether every given condition holds for the batch."""
        if self.sources and header.source_id not in self.sources:
            return False
        if self.schemas and header.schema_type not in self.schemas:
            return False
        if self.workspaces and header.workspace_id not in self.workspaces:
            return False
        return not self.event_types or bool(self.event_types & header.event_types)

    @property
    def is_everything(self) -> bool:
        """Whether no condition is given, so that any batch matches."""
        return not (self.sources or self.schemas or self.workspaces or self.event_types)


@dataclass(frozen=True, slots=True)
class Rule:
    """Batches that match go to these sinks."""

    match: Match
    sinks: tuple[str, ...]


_Key = tuple[str, int, int, int]


@dataclass(slots=True)
class RoutingTable:
    """All rules in order, and where a batch goes that matches none of them."""

    default: Sequence[str]
    rules: Sequence[Rule] = ()
    _routes: dict[_Key, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Freeze what was given, so that remembered answers stay true."""
        self.default = tuple(self.default)
        self.rules = tuple(self.rules)

    def route(self, header: BatchHeader) -> tuple[str, ...]:
        """The names of the sinks that get this batch, in the order the rule gives them."""
        key = (header.source_id, header.schema_type, header.workspace_id, header.event_types)
        sinks = self._routes.get(key)
        if sinks is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            sinks = self._routes[key] = self._first_match(header)
        return sinks

    def _first_match(self, header: BatchHeader) -> tuple[str, ...]:
        for rule in self.rules:
            if rule.match.holds(header):
                return rule.sinks
        return tuple(self.default)

    def reached(self) -> frozenset[str]:
        """The sinks that some rule or the default names."""
        return frozenset(self.default).union(*(rule.sinks for rule in self.rules))
