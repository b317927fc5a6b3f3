"""What a pipeline's actors report, asked by the pipeline's name from anywhere on the cluster."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

import ray

from cdp_ray_sinks.actors.cluster import join_running
from cdp_ray_sinks.actors.specs import NAMESPACE
from cdp_ray_sinks.delivery.flights import SinkTally
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.metrics import MetricsSnapshot

STATUS_TIMEOUT_S: Final = 5.0


class NoPipelineError(ConfigError):
    """No pipeline of that name runs on the cluster; its text names those that do."""


def status(name: str, address: str | None = None, namespace: str = NAMESPACE) -> dict[str, Any]:
    """The status of a pipeline that runs on a cluster, by its name.

    Raises ConfigError when the cluster can't be reached, and NoPipelineError, which is one,
    when no such pipeline is there.
    """
    join_running(address, namespace)
    return actors_status(name, namespace)


def actors_status(name: str, namespace: str) -> dict[str, Any]:
    """The same on the cluster that this process has joined.

    An actor that does not answer within `STATUS_TIMEOUT_S` is named under `silent` only.
    """
    named = ray.util.list_named_actors(all_namespaces=True)
    found = sorted(
        entry["name"]
        for entry in named
        if entry["namespace"] == namespace and entry["name"].startswith(f"{name}/")
    )
    if not found:
        running = sorted({e["name"].split("/")[0] for e in named if e["namespace"] == namespace})
        known = f"; running: {', '.join(running)}" if running else ""
        raise NoPipelineError(f"no pipeline named {name!r} runs on this cluster{known}")
    asked: list[tuple[str, Any, Any]] = []
    for actor_name in found:
        with contextlib.suppress(ValueError):  # it left between the two questions
            actor: Any = ray.get_actor(actor_name, namespace)
            asked.append((actor_name, actor.identity.remote(), actor.report.remote()))
    actors: list[Any] = []
    reports: dict[str, Any] = {}
    silent: list[str] = []
    until = time.monotonic() + STATUS_TIMEOUT_S
    for actor_name, identity, report in asked:
        try:
            answers = ray.get([identity, report], timeout=max(0.1, until - time.monotonic()))
        except ray.exceptions.RayError:
            silent.append(actor_name)
        else:
            actors.append(answers[0])
            reports[actor_name] = _plain(answers[1])
    return {"pipeline": name, "actors": actors, "reports": reports, "silent": silent}


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """A report with only what JSON knows."""
    plain = dict(report)
    if isinstance(plain.get("metrics"), MetricsSnapshot):
        plain["metrics"] = plain["metrics"].to_dict()
    if "tallies" in plain:
        plain["tallies"] = {
            sink: {n: getattr(t, n) for n in SinkTally.__slots__}
            for sink, t in plain["tallies"].items()
        }
    return plain
