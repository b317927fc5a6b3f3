"""The control plane of a sink with many lanes: which chain actor writes which workspace.

It decides; the driver, which must own the chain actors so that they outlive this one,
creates them. What it has decided can be told to a restarted one by `adopt`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.metric_export import MetricExport, Ticker, pipeline_of
from cdp_ray_sinks.actors.metric_samples import sink_actor_samples
from cdp_ray_sinks.actors.specs import Identity, SinkSpec

WISHES_WAIT_S = 5.0


class Placement:
    """Which chain of at most `chain_actors_max` has which workspace; plain, no Ray.

    Each workspace gets a chain of its own while there are chains to give; after that it
    shares the one that rendezvous hashing names. Chain numbers are never used twice.
    """

    def __init__(self, chain_actors_max: int) -> None:
        self._chain_actors_max = chain_actors_max
        self._chains: set[int] = set()
        self._assigned: dict[int, int] = {}
        self._next = 0

    @property
    def assigned(self) -> dict[int, int]:
        """Workspace to chain number."""
        return dict(self._assigned)

    def chain_of(self, workspace_id: int) -> int:
        """The chain of a workspace; a number never returned before is to be created."""
        chain = self._assigned.get(workspace_id)
        if chain is None:
            if len(self._chains) < self._chain_actors_max:
                chain = self._next
                self._next += 1
                self._chains.add(chain)
            else:
                chain = max(self._chains, key=lambda number: _weight(workspace_id, number))
            self._assigned[workspace_id] = chain
        return chain

    def adopt(self, assigned: Mapping[int, int]) -> None:
        """Take over what an earlier one decided."""
        self._assigned.update(assigned)
        self._chains.update(assigned.values())
        self._next = max(self._next, *(number + 1 for number in self._chains), 0)

    def forget(self, chain: int) -> None:
        """The chain is gone; its workspaces are placed anew when they come again."""
        self._chains.discard(chain)
        self._assigned = {w: c for w, c in self._assigned.items() if c != chain}


def _weight(workspace_id: int, chain: int) -> int:
    return int(xxhash.xxh3_64_intdigest(b"%d/%d" % (workspace_id, chain)))


class SinkActor:
    """Places workspaces; async, so that a wish can wait for its actor.

    A placement counts only once the driver has noted it: a restarted sink actor must never
    give a workspace to a second chain while the first one still holds its files.
    """

    def __init__(self, spec: SinkSpec) -> None:
        self._spec = spec
        self._placement = Placement(spec.chain_actors_max)
        self._noted: set[int] = set()
        self._wishes: dict[int, int] = {}
        self._retiring: set[int] = set()
        self._is_adopted = False
        self._changed = asyncio.Condition()
        metrics = MetricExport(pipeline_of(spec.name))
        Ticker(lambda: metrics.update(sink_actor_samples(spec.sink_name, self._counts()))).start()

    async def place(self, workspace_ids: Sequence[int]) -> dict[int, str]:
        """The names of the chain actors of those workspaces whose actor runs.

        The driver is told of the others; if there are only such, it waits for one of them.
        """
        async with self._changed:
            while True:
                await self._changed.wait_for(lambda: self._is_adopted)
                found = self._find(workspace_ids)
                if found:
                    return found
                await self._changed.wait()

    def _find(self, workspace_ids: Sequence[int]) -> dict[int, str]:
        """Those that can be had now; the rest becomes wishes."""
        found: dict[int, str] = {}
        wish_count = len(self._wishes)
        for workspace_id in workspace_ids:
            chain = self._placement.chain_of(workspace_id)
            if chain in self._retiring:
                continue
            if workspace_id in self._noted:
                found[workspace_id] = f"{self._spec.chain_prefix}{chain}"
            else:
                self._wishes.setdefault(workspace_id, chain)
        if len(self._wishes) > wish_count:
            self._changed.notify_all()
        return found

    async def retire(self, chain: int) -> None:
        """Place nothing on that chain until `retired` or `keep` is said."""
        async with self._changed:
            self._retiring.add(chain)

    async def retired(self, chain: int) -> None:
        """The chain is gone and has let go of its files."""
        async with self._changed:
            assigned = self._placement.assigned
            self._noted -= {w for w, c in assigned.items() if c == chain}
            self._placement.forget(chain)
            self._retiring.discard(chain)
            self._changed.notify_all()

    async def keep(self, chain: int) -> None:
        """The chain stays after all."""
        async with self._changed:
            self._retiring.discard(chain)
            self._changed.notify_all()

    async def wishes(self) -> tuple[bool, dict[int, int]]:
        """Whether `adopt` was called, and the placements wanted: workspace to chain number.

        Waits a while for something to say.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: bool(self._wishes) or not self._is_adopted),
                    WISHES_WAIT_S,
                )
            return self._is_adopted, dict(self._wishes)

    async def adopt(self, noted: dict[int, int]) -> None:
        """These workspaces have these chains, and the chains run.

        After a start or a restart: all that there are; later: what was wished for.
        """
        async with self._changed:
            self._placement.adopt(noted)
            self._noted.update(noted)
            for workspace_id in noted:
                self._wishes.pop(workspace_id, None)
            self._is_adopted = True
            self._changed.notify_all()

    async def identity(self) -> Identity:
        """Who and where this is."""
        return identity(self._spec.name, "sink")

    async def report(self) -> dict[str, Any]:
        """How many workspaces and chains there are."""
        return self._counts()

    def _counts(self) -> dict[str, Any]:
        assigned = self._placement.assigned
        return {"workspaces": len(assigned), "chains": len(set(assigned.values()))}
