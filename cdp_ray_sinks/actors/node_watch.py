"""Looks at the cluster's nodes once a second and has the actors follow them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import ray

from cdp_ray_sinks.actors.nodes import alive_nodes
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.placement import Node

POLL_S: Final = 1.0
REMIND_LOOKS: Final = 10
JOIN_S: Final = 60.0


class NodeWatch:
    """A thread that calls `follow` with all nodes while any of them come, drain or go.

    What `follow` returns is told to `report`; where it fails it is called again. `remind` is
    called now and then in between, and what it returns is told too.
    """

    def __init__(
        self,
        follow: Callable[[list[Node]], list[str]],
        remind: Callable[[], list[str]],
        report: Callable[[str], None],
    ) -> None:
        self._follow = follow
        self._remind = remind
        self._report = report
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def _run(self) -> None:
        seen: list[Node] = []
        looks = 0
        while not self._stopped.wait(POLL_S):
            try:
                nodes = alive_nodes()
                looks += 1
                if _facts(nodes) == _facts(seen):
                    if looks % REMIND_LOOKS == 0:
                        for text in self._remind():
                            self._report(text)
                    continue
                for text in self._follow(nodes):
                    self._report(text)
                seen = nodes
            except (ray.exceptions.RayError, CdpError, RuntimeError, OSError) as error:
                seen = []
                if not self._stopped.is_set():
                    self._report(f"following the nodes: {str(error).splitlines()[0]}; once more")

    def stop(self) -> None:
        """Look no more; what is under way is finished first."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)


def _facts(nodes: list[Node]) -> set[tuple[str, bool]]:
    return {(node.node_id, node.is_draining) for node in nodes}
