"""What a chaos run was asked for, and the pipeline that follows from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cdp_ray_sinks.errors import ConfigError

Scenario: TypeAlias = Literal["kills", "outage", "disk"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("kills", "outage", "disk")
NAME: Final = "chaos"
WORKSPACES: Final = 3
EVENT_BYTES: Final = 1000
"""What an event takes on disk at most, over all destinations, journals and spools."""
MIRROR_EVENT_BYTES: Final = 250
VICTIM_SHARE: Final = 0.05
PROBE_EVENTS: Final = 10
PROBE_EVENTS_MAX: Final = 10_000_000
MIB: Final = 1024 * 1024

_CONFIG: Final = """\
[pipeline]
name = "{name}"
state_dir = "{base}/state"

[ray]
object_store_bytes = {store_bytes}

[delivery]
window_bytes = {window_bytes}
max_chain_actors = 6
populate_object_store = false

[sources.steady]
type = "synthetic"
shape = "small"
workspaces = {workspaces}
log_share = 0.1
events = {events}
batch_events = {batch_events}
rate_events_per_s = {rate}

[sources.victim]
type = "synthetic"
enabled = {has_victim}
shape = "small"
workspaces = {workspaces}
events = {victim_events}
start_number = {events}
batch_events = {batch_events}
rate_events_per_s = {victim_rate}

[sinks.archive]
type = "disk_binary"
path = "{base}/archive"
segment_bytes_max = {segment_bytes}

[sinks.tables]
type = "parquet"
path = "{base}/tables"
segment_bytes_max = {segment_bytes}

[sinks.mirror]
type = "disk_binary"
path = "{base}/small/mirror"
compression = "lz4"
on_full = "spool"
"""
_ROWS: Final = """
[sinks.rows]
type = "clickhouse"
url = "{url}"
database = "chaos"
create_tables = true
insert_timeout_s = 10
on_full = "spool"
"""


@dataclass(frozen=True, slots=True)
class ChaosSettings:
    """How long, what happens, how fast events come, where files go.

    `scenarios` are drawn from in turn. `say` is told each fault.
    """

    seconds: float
    seed: int
    scenarios: tuple[Scenario, ...]
    events_per_s: float
    directory: Path
    say: Callable[[str], None]

    @property
    def events(self) -> int:
        """What the steady source makes at most."""
        return max(1000, int(self.seconds * self.events_per_s))

    @property
    def victim_events(self) -> int:
        """What the source makes at most that is killed."""
        return max(1000, int(self.events * VICTIM_SHARE))

    @property
    def first_probe_number(self) -> int:
        """Where the running numbers of the probes begin."""
        return self.events + self.victim_events

    @property
    def mirror_bytes(self) -> int:
        """How large a file system the mirror fits into."""
        return self.events * MIRROR_EVENT_BYTES + 64 * MIB


def bounded_rate(seconds: float, events_per_s: float, directory: Path) -> float:
    """The rate, or a lower one with which the run fits into half of the free disk space.

    Raises ConfigError where that is too little for anything.
    """
    existing = next(p for p in [directory.absolute(), *directory.absolute().parents] if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    rate = min(events_per_s, free_bytes / 2 / EVENT_BYTES / seconds)
    if rate < 1000 and rate < events_per_s:
        raise ConfigError(f"{directory}: {free_bytes / 1e9:.1f} GB are free, which is too little")
    return rate


def config_text(settings: ChaosSettings, clickhouse_url: str | None) -> str:
    """The pipeline's TOML: an archive, tables, a mirror of the archive and, with a URL, rows.

    Archive and tables hold up their sources when they don't take; mirror and rows have spools.
    """
    rate = settings.events_per_s
    text = _CONFIG.format(
        name=f"{NAME}-{os.getpid()}",
        base=settings.directory,
        store_bytes=512 * MIB,
        window_bytes=32 * MIB,
        segment_bytes=16 * MIB,
        workspaces=WORKSPACES,
        events=settings.events,
        victim_events=settings.victim_events,
        has_victim="true" if "kills" in settings.scenarios else "false",
        rate=rate,
        victim_rate=rate * VICTIM_SHARE,
        batch_events=max(10, int(rate / 50)),
    )
    return text if clickhouse_url is None else text + _ROWS.format(url=clickhouse_url)
