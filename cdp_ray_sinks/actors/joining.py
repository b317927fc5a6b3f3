"""How a process that is none of a pipeline's own joins it, by the pipeline's name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import ray

from cdp_ray_sinks.actors.near import nearest_router
from cdp_ray_sinks.actors.router_link import RayRouterLink
from cdp_ray_sinks.actors.specs import JoinSpec
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.producer import Producer, ProducerLimits
from cdp_ray_sinks.errors import ConfigError

JOIN_TIMEOUT_S = 60.0


def producer_limits(config: PipelineConfig) -> dict[str, int]:
    """What each producer of the pipeline is bounded by, as `ProducerLimits` names it."""
    delivery = config.delivery
    return {
        "window_bytes": delivery.window_bytes,
        "window_batches": delivery.window_batches,
        "group_batches_max": delivery.group_batches_max,
        "group_bytes_max": delivery.group_bytes_max,
        "inline_bytes_max": delivery.inline_bytes_max,
    }


def join_spec(config: PipelineConfig) -> JoinSpec:
    """What the router tells those who join."""
    delivery = config.delivery
    return JoinSpec(str(config.accounts_dir()), delivery.accounts_days_max, producer_limits(config))


class Joined:
    """A pipeline that runs on this cluster, as seen from any of its processes.

    Raises ConfigError when there is none of that name.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self.name = name
        self._namespace = namespace
        self._router: Any = self._find()
        if self._router is None:
            raise ConfigError(
                f"no pipeline named {name!r} runs on this cluster in namespace {namespace!r}"
            )
        self._spec: JoinSpec = ray.get(self._router.join.remote(), timeout=JOIN_TIMEOUT_S)

    def _find(self) -> Any:
        try:
            return nearest_router(self.name, self._namespace)
        except ValueError:
            return None

    def is_there(self) -> bool:
        """Whether the pipeline still runs; so it does while its router is being restarted."""
        return self._find() is not None

    def producer(self, name: str) -> Producer:
        """A producer of this process, of a name that no other has at the time."""
        spec = self._spec
        return Producer(
            name,
            RayRouterLink(self._router),
            random.random,
            limits=ProducerLimits(**spec.limits),
            accounts_dir=Path(spec.accounts_dir),
            accounts_days_max=spec.accounts_days_max,
        )
