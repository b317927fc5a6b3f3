"""How a chain is set up, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdp_ray_sinks.files.rotation_policy import RotationPolicy
from cdp_ray_sinks.files.sync import SyncPolicy


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """How a chain treats its files; see `RotationPolicy`, `SyncPolicy` and `Fence`."""

    policy: RotationPolicy = field(default_factory=RotationPolicy)
    fsync: SyncPolicy = "commit"
    fsync_interval_ms: int = 1000
    open_partitions_max: int = 64
    shared_file_system: bool = False
    lease_s: int = 30


@dataclass(slots=True)
class ChainCounters:
    """What a chain made durable since it was opened, and how often a write failed."""

    batches: int = 0
    messages: int = 0
    events: int = 0
    written_bytes: int = 0
    commits: int = 0
    write_failures: int = 0
