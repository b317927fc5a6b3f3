"""The chains of one sink: made where its sink actor wants them, retired, moved off nodes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from cdp_ray_sinks.placement import Node

REPORT_TIMEOUT_S: Final = 10.0
CLOSE_IDLE_MS_MAX: Final = 30_000
PART_WAIT_S: Final = 10.0
"""How long a chain that is alive may take to settle what it was sent before it is left."""


class ChainKeeper:
    """Keeps the chains of one sink, in a thread of its own and for who watches the nodes.

    `make_chain` is given a chain's actor name and its node's id, "" for any. `routers` are all
    that may send to a chain: they are told before it goes.
    """

    def __init__(
        self,
        sink_name: str,
        actor: Any,
        prefix: str,
        make_chain: Callable[[str, str], Any],
        routers: Callable[[], Sequence[Any]],
        idle_s: float,
    ) -> None:
        self.sink_name = sink_name
        self.actor = actor
        self._prefix = prefix
        self._make_chain = make_chain
        self._routers = routers
        self._idle_ms_max = idle_s * 1000
        self._retired_at_s = time.monotonic()
        self._changing = threading.RLock()
        self._nodes: dict[str, str] = {}
        self._chains: dict[int, Any] = {}
        self._chain_nodes: dict[int, str] = {}
        self._assigned: dict[int, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{sink_name}", daemon=True)

    def open_first(self, nodes: Sequence[Node]) -> Any:
        """Make the first chain, which shows whether the sink can be opened."""
        self._nodes = {node.name: node.node_id for node in nodes}
        return self._made(0, nodes[0].node_id if nodes else "")

    def start(self) -> None:
        """Begin to make the chains that are wished for."""
        self._thread.start()

    def handles(self) -> list[Any]:
        """All chains."""
        return list(self._chains.values())

    def _made(self, chain: int, node_id: str) -> Any:
        handle = self._chains.get(chain)
        if handle is None:
            handle = self._make_chain(f"{self._prefix}{chain}", node_id)
            self._chains[chain] = handle
            self._chain_nodes[chain] = node_id
        return handle

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                is_adopted, wishes, nodes = ray.get(self.actor.wishes.remote())
                with self._changing:
                    if is_adopted:
                        self._fulfil(wishes, nodes)
                    else:
                        ray.get(
                            self.actor.adopt.remote(self._assigned, self._chain_nodes, self._nodes)
                        )
                    self._retire_idle()
            except ray.exceptions.RayError:
                self._stopped.wait(0.2)

    def _fulfil(self, wishes: dict[int, int], nodes: dict[int, str]) -> None:
        """Make the chains; a wish for a node that is no longer used is taken back."""
        noted = {}
        for workspace_id, chain in wishes.items():
            if nodes[chain] and nodes[chain] not in self._nodes.values():
                ray.get(self.actor.retired.remote(chain))
                continue
            self._made(chain, nodes[chain])
            self._assigned[workspace_id] = noted[workspace_id] = chain
        if noted:
            ray.get(self.actor.adopt.remote(noted))

    # -- chains that go ---------------------------------------------------------------

    def _retire_idle(self) -> None:
        """Take down chains to which nothing came for a while; one always stays."""
        now_s = time.monotonic()
        if (now_s - self._retired_at_s) * 4000 < self._idle_ms_max:
            return
        self._retired_at_s = now_s
        for chain, handle in list(self._chains.items()):
            if len(self._chains) == 1:
                return
            report = ray.get(handle.report.remote(), timeout=REPORT_TIMEOUT_S)
            if report["idle_ms"] > self._idle_ms_max and not report["queued_bytes"]:
                self._retire(chain)

    def _retire(self, chain: int) -> None:
        """Nothing is placed on the chain, the routers let go, the files are sealed, it goes."""
        ray.get(self.actor.retire.remote(chain))
        lane_name = f"{self._prefix}{chain}"
        asked = [r.forget_lane.remote(self.sink_name, lane_name) for r in self._routers()]
        if not all(ray.get(asked)):
            ray.get(self.actor.keep.remote(chain))
            return
        self._close(chain)
        self._forget(chain)

    def use_nodes(self, nodes: Sequence[Node], alive: Sequence[str]) -> list[str]:
        """New chains go to these nodes; chains elsewhere are closed there if their node is
        alive, and their workspaces go on with a chain of one of these. What was moved.
        """
        told: list[str] = []
        with self._changing:
            wanted = {node.name: node.node_id for node in nodes}
            if not wanted:  # nowhere to go: better a node that drains than none
                return told
            if wanted != self._nodes:
                ray.get(self.actor.set_nodes.remote(wanted))
                self._nodes = wanted
            for chain, node_id in list(self._chain_nodes.items()):
                if node_id and node_id not in wanted.values():
                    told.append(self._move(chain, is_alive=node_id in alive))
        return told

    def _move(self, chain: int, *, is_alive: bool) -> str:
        ray.get(self.actor.retire.remote(chain))
        lane_name = f"{self._prefix}{chain}"
        wait_s = PART_WAIT_S if is_alive else 0.0
        asked = [r.part_lane.remote(self.sink_name, lane_name, wait_s) for r in self._routers()]
        for ref in asked:
            with contextlib.suppress(ray.exceptions.RayError):  # it went with its node
                ray.get(ref, timeout=wait_s + REPORT_TIMEOUT_S)
        if is_alive:
            self._close(chain)
        workspaces = sum(1 for its in self._assigned.values() if its == chain)
        self._forget(chain)
        what = "leaves its node" if is_alive else "was lost with its node"
        return f"sink {self.sink_name!r}: chain {chain} {what}; {workspaces} workspaces move"

    def _close(self, chain: int) -> None:
        handle = self._chains.get(chain)
        if handle is None:
            return
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(handle.close.remote(CLOSE_IDLE_MS_MAX))
        ray.kill(handle, no_restart=True)

    def _forget(self, chain: int) -> None:
        self._chains.pop(chain, None)
        self._chain_nodes.pop(chain, None)
        self._assigned = {w: c for w, c in self._assigned.items() if c != chain}
        ray.get(self.actor.retired.remote(chain))

    def stop(self) -> None:
        """Make no more."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for the thread a while."""
        if self._thread.is_alive():
            self._thread.join(REPORT_TIMEOUT_S)
