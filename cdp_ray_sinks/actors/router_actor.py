"""The router as an async Ray actor."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from cdp_ray_sinks.actors.garbage import collect_rarely
from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.metric_export import MetricExport, pipeline_of, tick_for_ever
from cdp_ray_sinks.actors.metric_samples import WorkspaceLabels, router_samples
from cdp_ray_sinks.actors.nodes import own_node_id
from cdp_ray_sinks.actors.specs import Identity, JoinSpec, RouterSpec
from cdp_ray_sinks.delivery.push import Group, Payload
from cdp_ray_sinks.delivery.wire import (
    decode_answer,
    decode_call,
    decode_known,
    encode_answer,
    encode_call,
)
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.placement import weight
from cdp_ray_sinks.routing.lane_sender import LaneLink, LaneLostError
from cdp_ray_sinks.routing.router import Router, SinkRoute
from cdp_ray_sinks.sinks.base import SinkConfig

_LOST = (ray.exceptions.RayError, CdpError)


class RayLaneLink:
    """A lane actor as the router sees it; whatever goes wrong means asking again."""

    def __init__(self, actor_name: str, namespace: str) -> None:
        self._handle = _find(actor_name, namespace)

    async def hello(self, router_id: str, session: int) -> int:
        """Begin a session; the one in force. Raises LaneLostError."""
        try:
            in_force: int = await self._handle.hello.remote(router_id, session)
        except _LOST as error:
            raise LaneLostError(_first_line(error)) from None
        return in_force

    async def push(self, router_id: str, session: int, number: int, group: Group) -> list[str]:
        """Push a group. Raises LaneLostError."""
        try:
            call, references = encode_call((router_id, session, number), group)
            outcomes: list[str] = decode_answer(await self._handle.push.remote(call, references))
        except _LOST as error:
            raise LaneLostError(_first_line(error)) from None
        return outcomes


class LoneLanes:
    """The places of a sink without chains: its one lane, or one of several.

    With a lane for each node, all of a node's batches go to its own; else rendezvous hashing
    gives each workspace one, which is the same for every router and in every run.
    """

    def __init__(self, actor_names: Sequence[str], namespace: str, own_lane: str = "") -> None:
        self.actor_names = tuple(actor_names)
        self._namespace = namespace
        self._own_lane = own_lane

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        """The lane of each. Raises LaneLostError while there is none."""
        names = self.actor_names
        if self._own_lane in names:
            return dict.fromkeys(workspace_ids, self._own_lane)
        if not names:
            raise LaneLostError("no node that has a lane of this sink")
        return {w: max(names, key=lambda name: weight(w, name)) for w in workspace_ids}

    async def link(self, lane_name: str) -> LaneLink:
        """The way to it. Raises LaneLostError when its actor is not there."""
        return RayLaneLink(lane_name, self._namespace)


class ChainLanes:
    """The places of a sink with chains: its sink actor is asked."""

    def __init__(self, actor_name: str, namespace: str) -> None:
        self._actor_name = actor_name
        self._namespace = namespace
        self._sink_actor: Any = None

    async def place(self, workspace_ids: Sequence[int]) -> Mapping[int, str]:
        """Their chains, see `SinkActor.place`. LaneLostError while the sink actor is away."""
        if self._sink_actor is None:
            self._sink_actor = _find(self._actor_name, self._namespace)
        try:
            found: dict[int, str] = await self._sink_actor.place.remote(list(workspace_ids))
        except _LOST as error:
            raise LaneLostError(_first_line(error)) from None
        return found

    async def link(self, lane_name: str) -> LaneLink:
        """The way to a chain. Raises LaneLostError when its actor is not there."""
        return RayLaneLink(lane_name, self._namespace)


class RaySpoolPlace:
    """A sink's spool as the router sees it."""

    def __init__(self, actor_name: str, namespace: str) -> None:
        self._actor_name = actor_name
        self._namespace = namespace

    async def lane(self) -> LaneLink:
        """The way to it. Raises LaneLostError when its actor is not there."""
        return RayLaneLink(self._actor_name, self._namespace)

    async def progress(self) -> tuple[int, int]:
        """Ask its actor. Raises LaneLostError."""
        try:
            handle = _find(self._actor_name, self._namespace)
            answer: tuple[int, int] = await handle.progress.remote()
        except _LOST as error:
            raise LaneLostError(_first_line(error)) from None
        return answer


def has_lanes(config: SinkConfig) -> bool:
    """Whether a sink may have several lanes."""
    placement = config.placement
    is_many = placement is not None and (placement.per_node or placement.replicas > 1)
    return config.one_lane_per_workspace or is_many


def lanes_of(
    config: SinkConfig, actor_names: Sequence[str], namespace: str, node_id: str = ""
) -> LoneLanes | ChainLanes:
    """How the lanes of a sink are found from a node."""
    if config.one_lane_per_workspace:
        return ChainLanes(actor_names[0], namespace)
    is_per_node = config.placement is not None and config.placement.per_node
    own = next((n for n in actor_names if n.endswith(f"/{node_id[:12]}")), "") if node_id else ""
    return LoneLanes(actor_names, namespace, own if is_per_node else "")


def _find(actor_name: str, namespace: str) -> Any:
    try:
        return ray.get_actor(actor_name, namespace)
    except ValueError:
        raise LaneLostError(f"there is no actor {actor_name!r}") from None


class RouterActor:
    """One router; its methods are those of `routing.router.Router`."""

    def __init__(self, spec: RouterSpec) -> None:
        self._spec = spec
        self._router: Router | None = None
        self._places: dict[str, LoneLanes | ChainLanes] = {}

    def _live(self) -> Router:
        """The router, made on first use because it belongs to the event loop."""
        if self._router is None:
            collect_rarely()
            spec = self._spec
            sinks = {}
            for name, config in spec.sinks.items():
                spool = spec.spools.get(name)
                lanes = lanes_of(config, spec.actors[name], spec.namespace, own_node_id())
                self._places[name] = lanes
                sinks[name] = SinkRoute(
                    name,
                    has_lanes(config),
                    config.required,
                    config.on_full,
                    config.max_in_flight_bytes,
                    self._places[name],
                    None if spool is None else RaySpoolPlace(spool, spec.namespace),
                    config.spool_after_ms / 1000,
                )
            self._router = Router(
                spec.name,
                spec.table,
                sinks,
                random.random,
                time.time_ns,
                group_batches_max=spec.group_batches_max,
                group_bytes_max=spec.group_bytes_max,
            )
            self._metrics = asyncio.create_task(tick_for_ever(_exporter(spec.name, self._router)))
        return self._router

    async def begin(self, producer: bytes, session: int) -> int:
        """Begin a producer's session; the one in force."""
        return self._live().begin(producer, session)

    async def route(self, call: bytes, references: list[Payload]) -> bytes:
        """Route a group; answers when required sinks have settled it, or soon anyway."""
        (producer, session, number), group = decode_call(call, references)
        return encode_answer(await self._live().route(producer, session, number, group))

    async def settled(self, known: bytes) -> bytes:
        """Answer when one of these batches is further than known, or soon anyway."""
        return encode_answer(await self._live().settled(decode_known(known)))

    async def forget_lane(self, sink_name: str, lane_name: str) -> bool:
        """Let go of a lane; False if anything is still under way to it."""
        return self._live().forget_lane(sink_name, lane_name)

    async def part_lane(self, sink_name: str, lane_name: str, wait_s: float) -> None:
        """Leave a lane that goes; see `Router.part_lane`."""
        await self._live().part_lane(sink_name, lane_name, wait_s)

    async def set_lanes(self, sink_name: str, lane_names: Sequence[str]) -> None:
        """Which lanes a sink without chains has from now on."""
        self._live()
        places = self._places[sink_name]
        if isinstance(places, LoneLanes):
            places.actor_names = tuple(lane_names)

    async def spool_rest(self) -> None:
        """Sinks that have a spool are no longer waited for."""
        for gate in self._live().gates.values():
            gate.spool_rest()

    async def identity(self) -> Identity:
        """Who and where this is."""
        return identity(self._spec.name, "router")

    async def join(self) -> JoinSpec:
        """What a producer of another process is to be made with."""
        return self._spec.join

    async def report(self) -> dict[str, Any]:
        """Queues and errors per sink."""
        return self._live().state()


def _exporter(name: str, router: Router) -> Callable[[], None]:
    """What hands on the router's numbers."""
    metrics, workspaces = MetricExport(pipeline_of(name)), WorkspaceLabels()

    def export() -> None:
        router.flow.rank()
        metrics.update(router_samples(router.state()))
        metrics.update(workspaces.samples(*router.flow.workspace_totals()))

    return export


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
