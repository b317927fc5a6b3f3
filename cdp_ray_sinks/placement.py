"""On which nodes of a cluster something runs: the keys, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator

NAME_LABEL: Final = "cdp-node"
"""A node's label with its name, for nodes whose host name is not theirs alone."""
_SELECTOR: Final = re.compile(r"(!?)(?:in\(([^()]+)\)|([^()!]*))")


class PlacementConfig(BaseModel):
    """`[sinks.NAME.placement]`, `[sources.NAME.placement]`: which nodes, and what each takes.

    Nodes that match are those with all of `resources` and with the labels of
    `label_selector`, or of the first of `fallback` that any node has. `per_node` means each
    of them; `replicas` so many lanes on them. `num_cpus` and `resources` are what one lane
    or source reserves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_node: bool = False
    replicas: int = Field(default=1, ge=1, le=1000)
    resources: dict[str, float] = Field(default_factory=dict)
    label_selector: dict[str, str] = Field(default_factory=dict)
    fallback: tuple[dict[str, str], ...] = ()
    num_cpus: float = Field(default=0, ge=0, allow_inf_nan=False)

    @field_validator("label_selector")
    @classmethod
    def _is_selector(cls, selector: dict[str, str]) -> dict[str, str]:
        for key, value in selector.items():
            if not _SELECTOR.fullmatch(value):
                raise ValueError(f"{key} = {value!r}: write 'a', '!a', 'in(a,b)' or '!in(a,b)'")
        return selector

    @field_validator("fallback")
    @classmethod
    def _are_selectors(cls, selectors: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        return tuple(cls._is_selector(selector) for selector in selectors)

    @field_validator("resources")
    @classmethod
    def _are_amounts(cls, resources: dict[str, float]) -> dict[str, float]:
        for key, amount in resources.items():
            if not 0 < amount < 1e9 or key in ("CPU", "GPU", "memory"):
                raise ValueError(f"{key} = {amount}: a custom resource and an amount above 0")
        return resources

    def selectors(self) -> Sequence[Mapping[str, str]]:
        """The selectors, in the order in which they are tried."""
        return (self.label_selector, *self.fallback)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive. `name` stays when its Ray is started again, `node_id` does not."""

    node_id: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    is_draining: bool = False


def matching(placement: PlacementConfig, nodes: Iterable[Node]) -> list[Node]:
    """The nodes on which something may be placed, by name; none that is draining."""
    able = [
        node
        for node in sorted(nodes, key=lambda node: (node.name, node.node_id))
        if not node.is_draining
        and all(node.resources.get(key, 0) >= much for key, much in placement.resources.items())
    ]
    for selector in placement.selectors():
        found = [node for node in able if _has_labels(node.labels, selector)]
        if found:
            return found
    return []


def _has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    for key, text in selector.items():
        found = _SELECTOR.fullmatch(text)
        assert found is not None
        wanted = [part.strip() for part in (found[2] or found[3] or "").split(",")]
        if (labels.get(key) in wanted) == bool(found[1]):
            return False
    return True


def weight(what: int | str, where: int | str) -> int:
    """For rendezvous hashing: `what` belongs where this is highest."""
    return int(xxhash.xxh3_64_intdigest(f"{what}/{where}".encode()))
