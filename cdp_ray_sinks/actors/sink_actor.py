"""The control plane of a sink with many lanes: which chain actor writes which workspace.

It decides; the driver, which must own the chain actors so that they outlive this one,
creates them. What it has decided can be told to a restarted one by `adopt`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.metric_export import MetricExport, Ticker, pipeline_of
from cdp_ray_sinks.actors.metric_samples import sink_actor_samples
from cdp_ray_sinks.actors.specs import Identity, SinkSpec
from cdp_ray_sinks.placement import weight

WISHES_WAIT_S = 5.0


class Placement:
    """Which chain has which workspace, and on which node a chain is; plain, no Ray.

    Rendezvous hashing over the nodes' names says on which node a workspace is. There it gets a
    chain of its own while there are fewer than `chain_actors_max`, after that it shares the one
    that rendezvous hashing names. Chain numbers are never used twice.
    """

    def __init__(self, chain_actors_max: int) -> None:
        self._chain_actors_max = chain_actors_max
        self._nodes: dict[str, str] = {}
        self._chains: dict[int, str] = {}
        self._shares: Counter[int] = Counter()
        self._assigned: dict[int, int] = {}
        self._next = 0

    @property
    def assigned(self) -> dict[int, int]:
        """Workspace to chain number."""
        return dict(self._assigned)

    @property
    def chain_nodes(self) -> dict[int, str]:
        """Chain number to the id of its node."""
        return dict(self._chains)

    def set_nodes(self, nodes: Mapping[str, str]) -> None:
        """Where chains may be from now on: names of nodes to their ids. Chains stay."""
        self._nodes = dict(nodes)

    def chain_of(self, workspace_id: int) -> int:
        """The chain of a workspace; a number never returned before is to be created."""
        chain = self._assigned.get(workspace_id)
        if chain is None:
            node = self._node_of(workspace_id)
            there = [number for number, its in self._chains.items() if its == node]
            chain = next((number for number in there if not self._shares[number]), None)
            if chain is None and len(there) < self._chain_actors_max:
                chain = self._next
                self._next += 1
                self._chains[chain] = node
            elif chain is None:
                chain = max(there, key=lambda number: weight(workspace_id, number))
            self._assigned[workspace_id] = chain
            self._shares[chain] += 1
        return chain

    def _node_of(self, workspace_id: int) -> str:
        if not self._nodes:
            return ""
        return self._nodes[max(self._nodes, key=lambda name: weight(workspace_id, name))]

    def adopt(self, assigned: Mapping[int, int], chain_nodes: Mapping[int, str]) -> None:
        """Take over what an earlier one decided."""
        self._assigned.update(assigned)
        self._shares = Counter(self._assigned.values())
        for chain in self._shares:
            self._chains.setdefault(chain, "")
        self._chains.update(chain_nodes)
        self._next = max(self._next, *(number + 1 for number in self._chains), 0)

    def forget(self, chain: int) -> None:
        """The chain is gone; its workspaces are placed anew when they come again."""
        self._chains.pop(chain, None)
        del self._shares[chain]
        self._assigned = {w: c for w, c in self._assigned.items() if c != chain}


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
            gone = {w for w, c in assigned.items() if c == chain}
            self._noted -= gone
            self._wishes = {w: c for w, c in self._wishes.items() if w not in gone}
            self._placement.forget(chain)
            self._retiring.discard(chain)
            self._changed.notify_all()

    async def keep(self, chain: int) -> None:
        """The chain stays after all."""
        async with self._changed:
            self._retiring.discard(chain)
            self._changed.notify_all()

    async def set_nodes(self, nodes: dict[str, str]) -> None:
        """Where new chains may be: names of nodes to their ids."""
        async with self._changed:
            self._placement.set_nodes(nodes)

    async def wishes(self) -> tuple[bool, dict[int, int], dict[int, str]]:
        """Whether `adopt` was called, and the placements wanted: workspace to chain number,
        chain number to the id of its node.

        Waits a while for something to say.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: bool(self._wishes) or not self._is_adopted),
                    WISHES_WAIT_S,
                )
            nodes = self._placement.chain_nodes
            wanted = {chain: nodes[chain] for chain in self._wishes.values()}
            return self._is_adopted, dict(self._wishes), wanted

    async def adopt(
        self,
        noted: dict[int, int],
        chain_nodes: dict[int, str] | None = None,
        nodes: dict[str, str] | None = None,
    ) -> None:
        """These workspaces have these chains, and the chains run.

        After a start or a restart: all that there are, with the nodes of the chains and those
        that may have some; later: what was wished for.
        """
        async with self._changed:
            if nodes is not None:
                self._placement.set_nodes(nodes)
            self._placement.adopt(noted, chain_nodes or {})
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
