"""What bare Ray does with the same bytes: the limits that the paths are compared with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from cdp_ray_sinks.batch.batch import Pack


class _Echo:
    def echo(self, payload: object) -> int:
        return 1


class _Relay:
    def __init__(self, following: Any) -> None:
        self._following = following

    def relay(self, payload: object) -> int:
        answer: int = ray.get(self._following.echo.remote(payload))
        return answer


def put_s(packs: Sequence[Pack], held_count_max: int) -> float:
    """Seconds that `ray.put` alone needs for the packs, holding a few references at a time."""
    held: deque[Any] = deque(maxlen=held_count_max)
    began = time.perf_counter()
    for pack in packs:
        held.append(ray.put(pack))
    return time.perf_counter() - began


class TwoCalls:
    """Two plain actors one behind the other: the least that two hops can cost."""

    def __init__(self) -> None:
        options = {"num_cpus": 0, "enable_task_events": False}
        self._echo: Any = ray.remote(_Echo).options(**options).remote()
        self._relay: Any = ray.remote(_Relay).options(**options).remote(self._echo)
        self._payload = np.zeros(2048, np.uint8)

    def call_s(self) -> float:
        """Seconds of one call there and back through both."""
        began = time.perf_counter()
        ray.get(self._relay.relay.remote(self._payload))
        return time.perf_counter() - began

    def close(self) -> None:
        """Take both down."""
        ray.kill(self._relay)
        ray.kill(self._echo)
