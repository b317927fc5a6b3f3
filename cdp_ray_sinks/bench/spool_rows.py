"""What the spool, the accounts and a sink that is away cost, each beside the same without.

Everything is in one pipeline: which sinks a batch goes to is decided by its source. Two sinks
speak to a port where nobody listens, so what goes there is spooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.bench.lanes import submitted_s
from cdp_ray_sinks.bench.limits import file_system_of, prime
from cdp_ray_sinks.bench.material import moved, synthetic_batches
from cdp_ray_sinks.bench.read_back import numbers_found
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline

BATCH_EVENTS: Final = 50_000
GIB: Final = 1024 * 1024 * 1024
NOBODY: Final = "http://127.0.0.1:1"
ROUTES: Final = {
    "direct": ["archive"],
    "spooled": ["away"],
    "alone": ["archive", "tables"],
    "beside": ["archive", "tables", "optional"],
}


def spool_config(directory: Path) -> PipelineConfig:
    """An archive, tables, and two sinks that are away: one that is waited for, one that is not."""
    away = {"type": "clickhouse", "url": NOBODY, "on_full": "spool", "spool_after_ms": 100}
    rules = [{"match": {"source": name}, "sinks": sinks} for name, sinks in ROUTES.items()]
    return PipelineConfig(
        pipeline={"name": "bench-spool", "state_dir": directory / "state"},
        ray={"object_store_bytes": 2 * GIB},
        sinks={
            "archive": {"type": "disk_binary", "path": directory / "archive",
                        "max_in_flight_bytes": GIB},
            "tables": {"type": "parquet", "path": directory / "tables",
                       "max_in_flight_bytes": GIB},
            "away": away,
            "optional": {**away, "required": False},
        },
        routing={"default": ["archive"], "rules": rules},
        delivery={"window_bytes": GIB // 2, "max_chain_actors": 2, "drain_deadline_s": 10},
    )  # fmt: skip


def spool_rows(settings: Settings) -> Iterator[Row]:
    """`spooled`, `accounted` and `isolation`."""
    directory = settings.directory / "spool"
    batches = synthetic_batches(settings.events, settings.shape, BATCH_EVENTS)
    config = spool_config(directory)
    with Pipeline(config, settings.say) as pipeline:
        bench = _Bench(settings, pipeline, config, batches)
        settings.say("spool: all of it by the spool, and straight into an archive")
        spool = config.spool_dir() / "away"
        yield bench.row("spooled", "spooled", "direct", spool, "disk_binary")
        settings.say("accounts: with them and without")
        archive = directory / "archive"
        yield bench.row("accounted", "direct", "direct", archive, "no accounts")
        settings.say("isolation: archive and tables beside a sink that is away, and alone")
        yield bench.row("isolation", "beside", "alone", archive, "no such sink")


class _Bench:
    """Laps of a path and of what it is compared with, in turn, each into a new workspace."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        config: PipelineConfig,
        batches: Sequence[Batch],
    ) -> None:
        self._settings = settings
        self._batches = batches
        self._with = pipeline.producer("with")
        self._without = pipeline.producer("without", keeps_accounts=False)
        self._workspace = 0
        self._bytes = sum(batch.header.record_bytes for batch in batches)
        mounts = Path("/proc/mounts").read_text()
        self._file_system = file_system_of(settings.directory, mounts)

    def row(self, variant: str, path: str, compared: str, base: Path, limit: str) -> Row:
        """One row; `base` is where the path's batches are read back from."""
        laps, read_back = [], self._settings.events
        for lap in range(self._settings.repeat + 1):
            path_s = self._lap(path, has_accounts=True)
            if lap:  # the first lap warms both sides
                found = numbers_found(base, self._workspace, self._settings.events)
                read_back = min(read_back, found)
            limit_s = self._lap(compared, has_accounts=variant != "accounted")
            if lap:
                laps.append(Lap(path_s, limit_s))
        return rate_row(
            "spool",
            variant,
            laps,
            events=self._settings.events,
            record_bytes=self._bytes,
            read_back=read_back,
            limit=limit,
            file_system=self._file_system,
        )

    def _lap(self, source_id: str, *, has_accounts: bool) -> float:
        self._workspace += 1
        sent = [
            Batch(b.header._replace(source_id=source_id), b.records, b.offsets)
            for b in moved(self._batches, self._workspace)
        ]
        prime(self._settings.directory, self._bytes)
        return submitted_s(self._with if has_accounts else self._without, sent)
