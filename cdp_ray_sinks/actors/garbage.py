"""How often an actor's process looks for cyclic garbage."""

from __future__ import annotations

import gc

YOUNG_OBJECTS_MAX = 20_000


def collect_rarely() -> None:
    """Leave what was imported alone, and look at what is new only when there is much of it.

    An actor imports a million objects that live as long as it does and then makes few
    cycles, but as many objects as there are batches and workspaces: left as it is, Python
    spends a third of a busy actor's time looking at them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
