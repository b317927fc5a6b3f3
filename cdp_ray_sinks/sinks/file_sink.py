"""What all sinks have in common that write a chain of segments for each workspace.

Such a sink is its options, which end in a writer, and a name: see `disk_binary.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, field_validator

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.chain import ChainCounters, ChainOptions
from cdp_ray_sinks.files.chain_set import ChainSet
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.files.follower import Follower
from cdp_ray_sinks.files.landed import Landed, Wanted, count_segments
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.open_segments import SegmentCounters
from cdp_ray_sinks.files.recovery import Damage
from cdp_ray_sinks.files.rotation_policy import RotationPolicy
from cdp_ray_sinks.sinks.base import SinkConfig, SinkContext
from cdp_ray_sinks.writers.base import WriterFactory
from cdp_ray_sinks.writers.lz4_frames import LEVEL_MAX, LEVEL_MIN, Lz4Preset, Lz4Settings


class ChainConfig(SinkConfig):
    """Where a sink's segments are and when they end.

    `fsync`: "commit" acknowledges what is on the disk; "interval" what is written (it
    survives the process, not the machine) and syncs every `fsync_interval_ms`; "off" never
    syncs. A segment ends `lateness_s` after its hour or day, at `segment_bytes_max`, or
    when nothing came for `idle_s`. `max_open_partitions` is per workspace,
    `max_open_files` over all of a lane; None is what its process may have, up to 16,384. On
    a file system that several hosts write set `shared_file_system`: then a successor
    touches what the last writer left only after `lease_s`, or when it is closed itself.
    """

    one_lane_per_workspace: ClassVar[bool] = True
    reads_bytes: ClassVar[bool] = True

    path: str | Path
    rotation: Literal["hourly", "daily"] = "hourly"
    fsync: Literal["commit", "interval", "off"] = "commit"
    fsync_interval_ms: int = Field(default=1000, ge=10)
    segment_bytes_max: int = Field(default=1 << 30, ge=4096)
    lateness_s: int = Field(default=60, ge=0)
    idle_s: int = Field(default=300, ge=1)
    max_open_partitions: int = Field(default=64, ge=1)
    max_open_files: int | None = Field(default=None, ge=8)
    shared_file_system: bool = False
    lease_s: int = Field(default=30, ge=1)

    @field_validator("path")
    @classmethod
    def _names_a_directory(cls, path: str | Path) -> str | Path:
        if not str(path).strip() or "\0" in str(path):
            raise ValueError("must name a directory")
        return path

    def base(self) -> Path:
        """The folder `path` names."""
        return Path(self.path).expanduser().absolute()

    def owned_folders(self) -> Sequence[str]:
        """The folder of the chains."""
        return (str(self.base()),)

    def count_landed(self, wanted: Wanted, state_dir: Path) -> Landed | None:
        """What the segments hold, by their indexes."""
        return count_segments(self.base(), wanted)

    def chain_options(self) -> ChainOptions:
        """The same, as the files know it."""
        policy = RotationPolicy(self.rotation, self.segment_bytes_max, self.lateness_s, self.idle_s)
        return ChainOptions(
            policy,
            self.fsync,
            self.fsync_interval_ms,
            self.max_open_partitions,
            self.shared_file_system,
            self.lease_s,
        )


_CHAIN_COUNTS: Final = tuple(field.name for field in fields(ChainCounters))
_SEGMENT_COUNTS: Final = tuple(field.name for field in fields(SegmentCounters))


class FileSinkConfig(ChainConfig):
    """The same for segments that are read as they are, and whether they are compressed.

    `lz4_preset`: "default" (level 0), "fast" (-5), "max" (9); `lz4_level` says it as a number.
    """

    compression: Literal["none", "lz4"] = "none"
    lz4_preset: Lz4Preset = "default"
    lz4_level: int | None = Field(default=None, ge=LEVEL_MIN, le=LEVEL_MAX)

    def lz4_settings(self) -> Lz4Settings | None:
        """How commits are compressed, None if they are not."""
        if self.compression == "none":
            return None
        return Lz4Settings.of(self.lz4_preset, self.lz4_level)


class FileSink:
    """Writes each workspace's batches to a chain of its own and remembers which it has."""

    def __init__(
        self,
        config: ChainConfig,
        new_writer: WriterFactory,
        context: SinkContext,
        fs: FileSystem | None = None,
        *,
        directory: str = "",
        new_follower: Callable[[int], Follower] | None = None,
    ) -> None:
        """`directory` is that of the segments within `path`."""
        self._base = config.base()
        self._chains = ChainSet(
            self._base / directory,
            new_writer,
            config.chain_options(),
            open_files_max=config.max_open_files,
            clock=context.clock,
            fs=fs,
            new_follower=new_follower,
        )

    def open(self) -> None:
        """Make the directory. Raises ConfigError if it can't be one that we write."""
        self._chains.open()

    def write(self, batch: Batch) -> None:
        """Accept a batch; its workspace's files are opened and recovered if need be."""
        self._chains.append(batch)

    def flush(self) -> None:
        """One write, one index record and one sync per open segment; see `Sink.flush`."""
        self._chains.flush()

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more: the queue behind it is what groups batches."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Seal and sync what is due, in the background."""
        self._chains.tick(now_ms)

    def close(self) -> None:
        """Flush, seal all segments, let go of the directories."""
        self._chains.close()

    def ledger_for(self, workspace_id: int) -> Ledger:
        """The durable batch ids of a workspace; opens its files. Raises as `write` does."""
        return self._chains.chain(workspace_id).ledger

    def release(self, workspace_id: int) -> None:
        """Make a workspace durable, seal it and let go, so that another lane can have it."""
        self._chains.release(workspace_id)

    def recovery_reports(self) -> Mapping[int, tuple[Damage, ...]]:
        """By workspace, what its files were found to lack; workspaces without are left out."""
        return {
            workspace_id: tuple(chain.recovery_report)
            for workspace_id, chain in self._chains.chains.items()
            if chain.recovery_report
        }

    def pools(self) -> Sequence[BufferPool]:
        """Where the buffers come from that it makes bytes in, if it makes any."""
        return ()

    def counters(self) -> dict[str, int]:
        """Sums over the open chains: `ChainCounters`, and `SegmentCounters` as segments_*.

        `pool_hits` and `pool_misses` say how often a buffer was there or had to be made.
        """
        chains = list(self._chains.chains.values())  # at once: the lane opens more meanwhile
        sums = {"workspaces": len(chains)}
        for name in _CHAIN_COUNTS:
            sums[name] = sum(getattr(chain.counters, name) for chain in chains)
        for name in _SEGMENT_COUNTS:
            sums[f"segments_{name}"] = sum(getattr(c.segment_counters, name) for c in chains)
        pools = self.pools()
        if pools:
            sums["pool_hits"] = sum(pool.hits for pool in pools)
            sums["pool_misses"] = sum(pool.misses for pool in pools)
        return sums
