"""`cdp-sinks bench`: which rows, how they are shown, and the JSON of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from cdp_ray_sinks.bench.rows import Row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.errors import ConfigError

# Which rows belong to which sink; imported when asked for, because some need Ray.
PARTS: Final = {
    "null": (
        "cdp_ray_sinks.bench.null_rows:null_rows",
        "cdp_ray_sinks.bench.kernel_rows:kernel_rows",
    ),
    "disk_binary": (
        "cdp_ray_sinks.bench.disk_rows:disk_rows",
        "cdp_ray_sinks.bench.lz4_rows:lz4_rows",
        "cdp_ray_sinks.bench.workspace_rows:workspace_rows",
        "cdp_ray_sinks.bench.latency_rows:latency_rows",
    ),
    "disk_plaintext": ("cdp_ray_sinks.bench.text_rows:text_rows",),
    "parquet": ("cdp_ray_sinks.bench.parquet_rows:parquet_rows",),
    "clickhouse": ("cdp_ray_sinks.bench.clickhouse_rows:clickhouse_rows",),
    "forwarder": ("cdp_ray_sinks.bench.forwarder_rows:forwarder_rows",),
    "spool": ("cdp_ray_sinks.bench.spool_rows:spool_rows",),
    "nodes": ("cdp_ray_sinks.bench.node_rows:node_rows",),
    "ray_data": ("cdp_ray_sinks.bench.ray_data_rows:ray_data_rows",),
    "http": ("cdp_ray_sinks.bench.http_rows:http_rows",),
    "kernels": ("cdp_ray_sinks.bench.kernel_rows:kernel_rows",),
}


def bench_rows(
    names: Sequence[str], settings: Settings, on_row: Callable[[Row], None]
) -> list[Row]:
    """Measure the named parts (all of them without a name), each row told as it is there.

    Raises ConfigError for a name that is not known.
    """
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise ConfigError(f"bench: {unknown[0]!r} is none of {', '.join(PARTS)}")
    rows = []
    for name in names or PARTS:
        for part in PARTS[name]:
            module, function = part.split(":")
            measure: Callable[[Settings], Iterator[Row]] = getattr(import_module(module), function)
            for row in measure(settings):
                rows.append(row)
                on_row(row)
    return rows


def run_bench(
    names: Sequence[str],
    *,
    shape: str,
    events: int,
    repeat: int,
    directory: Path | None,
    has_peers: bool,
    say: Callable[[str], None],
    on_row: Callable[[Row], None],
) -> list[Row]:
    """As `bench_rows`, in a directory of its own that is removed afterwards."""
    parent = directory or Path.cwd()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="cdp-bench-", dir=parent))
    except OSError as error:
        raise ConfigError(f"bench directory {parent}: {error.strerror}") from None
    try:
        settings = Settings(events, repeat, shape, scratch, say, has_peers=has_peers)
        return bench_rows(names, settings, on_row)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
