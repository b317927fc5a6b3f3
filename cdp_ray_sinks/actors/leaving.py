"""Leaving in time: what does not fit the deadline of a drain goes to the spools."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import ray

SPOOL_SHARE: Final = 0.5
"""After this share of a deadline the rest is spooled; spools are emptied while there is time."""
_ASK_S: Final = 5.0


@contextmanager
def rest_spooled(routers: Callable[[], Collection[Any]], deadline_s: float) -> Iterator[None]:
    """For the block in which producers are drained."""

    def ask() -> None:
        with suppress(ray.exceptions.RayError):  # a router that is lost begins with waiting anew
            ray.get([router.spool_rest.remote() for router in routers()], timeout=_ASK_S)

    timer = threading.Timer(SPOOL_SHARE * deadline_s, ask)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
