"""What actors are made from: plain data that travels to their node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from cdp_ray_sinks.files.lane_folders import kept_name
from cdp_ray_sinks.routing.table import RoutingTable
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sources.base import SourceConfig

NAMESPACE = "cdp_ray_sinks"


class Identity(TypedDict):
    """Which actor this is and where it runs; `status` lists these."""

    name: str
    kind: str
    pid: int
    node: str


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """A lane of one sink. `kind` is "sink" for a lone lane, "chain" for one of several.

    `state_dir` is the node's folder for what sinks must remember, one below it for each;
    `replica` tells lanes of one sink apart there.
    """

    name: str
    kind: str
    sink_name: str
    config: SinkConfig
    dead_letter_dir: str
    state_dir: str
    populate_object_store: bool = False
    data_threads: int = 8
    held_bytes_max: int = 64 * 1024 * 1024
    held_batches_max: int = 1024
    replica: str = ""

    @property
    def keeps_as(self) -> str:
        """The name under which the lane keeps what must outlive it."""
        return kept_name(self.sink_name, self.replica)


@dataclass(frozen=True, slots=True)
class SpoolSpec:
    """A sink's spool: its lane, where it lies, and the sink's actors: its lanes, or the one
    that is asked for them."""

    lane: LaneSpec
    directory: str
    sink_actors: tuple[str, ...]
    namespace: str
    inline_bytes_max: int
    accounts_dir: str
    in_flight_bytes_max: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """The control plane of a sink with a lane per workspace; its chains' names begin with
    `chain_prefix`, their numbers follow."""

    name: str
    chain_prefix: str
    sink_name: str
    chain_actors_max: int


@dataclass(frozen=True, slots=True)
class JoinSpec:
    """What producers outside of the pipeline's own processes are made with."""

    accounts_dir: str = ""
    accounts_days_max: int = 90
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """A router: the rules, the names of actors per sink and of one per spool.

    Names and not handles: a handle in the arguments would tie restarts to the object store.
    """

    name: str
    table: RoutingTable
    sinks: dict[str, SinkConfig]
    actors: dict[str, tuple[str, ...]]
    namespace: str
    group_batches_max: int
    group_bytes_max: int
    spools: dict[str, str] = field(default_factory=dict)
    join: JoinSpec = JoinSpec()


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source, the bounds of its producer, and where that keeps its accounts.

    `name` is the actor's, `producer_name` differs from `source_name` where a source has
    several, one for each node.
    """

    name: str
    source_name: str
    producer_name: str
    config: SourceConfig
    pipeline: str
    namespace: str
    accounts_dir: str
    accounts_days_max: int
    limits: dict[str, int] = field(default_factory=dict)
