"""The control plane of a sink with many lanes: which chain actor writes which workspace.

It decides; the driver, which must own the chain actors so that they outlive this one,
creates them. What it has decided can be told to a restarted one by `adopt`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import xxhash

from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.specs import Identity, SinkSpec

WISHES_WAIT_S = 5.0


class Placement:
    """Which chain of at most `chain_actors_max` has which workspace; plain, no Ray.

    Each workspace gets a chain of its own while there are chains to give; after that it
    shares the one that rendezvous hashing names.
    """

    def __init__(self, chain_actors_max: int) -> None:
        self._chain_actors_max = chain_actors_max
        self._chains: list[int] = []
        self._assigned: dict[int, int] = {}

    @property
    def assigned(self) -> dict[int, int]:
        """Workspace to chain number."""
        return dict(self._assigned)

    def chain_of(self, workspace_id: int) -> int:
        """The chain of a workspace; a number never returned before is to be created."""
        chain = self._assigned.get(workspace_id)
        if chain is None:
            if len(self._chains) < self._chain_actors_max:
                chain = len(self._chains)
                self._chains.append(chain)
            else:
                chain = max(self._chains, key=lambda number: _weight(workspace_id, number))
            self._assigned[workspace_id] = chain
        return chain

    def adopt(self, assigned: Mapping[int, int]) -> None:
        """Take over what an earlier one decided."""
        self._assigned.update(assigned)
        known = max(self._assigned.values(), default=-1)
        self._chains = list(range(max(len(self._chains), known + 1)))


def _weight(workspace_id: int, chain: int) -> int:
    return int(xxhash.xxh3_64_intdigest(b"%d/%d" % (workspace_id, chain)))


class SinkActor:
    """Places workspaces; async, so that a wish can wait for its actor."""

    def __init__(self, spec: SinkSpec) -> None:
        self._spec = spec
        self._placement = Placement(spec.chain_actors_max)
        self._running: set[int] = set()
        self._wishes: dict[int, int] = {}
        self._is_adopted = False
        self._changed = asyncio.Condition()

    async def place(self, workspace_id: int) -> str:
        """The name of the chain actor of a workspace; waits until that runs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_adopted)
            chain = self._placement.chain_of(workspace_id)
            if chain not in self._running and chain not in self._wishes:
                self._wishes[chain] = workspace_id
                self._changed.notify_all()
            await self._changed.wait_for(lambda: chain in self._running)
            return f"{self._spec.chain_prefix}{chain}"

    async def wishes(self) -> tuple[bool, dict[int, int]]:
        """Whether `adopt` was called, and the chains wanted: number to the workspace it is for.

        Waits a while for something to say.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: bool(self._wishes) or not self._is_adopted),
                    WISHES_WAIT_S,
                )
            return self._is_adopted, dict(self._wishes)

    async def adopt(self, assigned: dict[int, int], running: list[int]) -> None:
        """Know these chains: all that there are, after a start or a restart."""
        async with self._changed:
            self._placement.adopt(assigned)
            self._running.update(running)
            for chain in running:
                self._wishes.pop(chain, None)
            self._is_adopted = True
            self._changed.notify_all()

    async def identity(self) -> Identity:
        """Who and where this is."""
        return identity(self._spec.name, "sink")

    async def report(self) -> dict[str, Any]:
        """How many workspaces and chains there are."""
        return {"workspaces": len(self._placement.assigned), "chains": len(self._running)}
