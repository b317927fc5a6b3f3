"""A backfill: an archive into Parquet tables over the cluster. A second run adds nothing.

    python examples/05_archive_to_parquet.py

Needs the archive of 04_enrich_with_ray_data.py; writes to quickstart-data/backfill. What it runs is
`cdp-sinks replay ARCHIVE --into FILE`; the pipeline in the file may have any sinks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

ARCHIVE = Path("quickstart-data/orders/archive").absolute()
BASE = Path("quickstart-data/backfill").absolute()
PIPELINE = f"""
[pipeline]
name = "backfill"
state_dir = "{BASE}/state"

[sinks.tables]
type = "parquet"
path = "{BASE}/tables"
compression = "zstd"
"""


def replay() -> dict[str, Any]:
    """Send the whole archive to the sinks of the pipeline; what was sent."""
    command = [sys.executable, "-m", "cdp_ray_sinks", "replay", str(ARCHIVE)]
    into = ["--into", str(BASE / "pipeline.toml"), "--json"]
    done = subprocess.run([*command, *into], check=True, stdout=subprocess.PIPE)
    sent: dict[str, Any] = json.loads(done.stdout)
    return sent


def rows_in_tables() -> int:
    """As the files' footers say."""
    return sum(pq.read_metadata(path).num_rows for path in BASE.rglob("*.parquet"))


def main() -> None:
    """Replay the archive twice."""
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir(parents=True)
    (BASE / "pipeline.toml").write_text(PIPELINE)
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # that cluster for replay
    sent = replay()
    rows = rows_in_tables()
    print(f"{sent['events']} events sent in {sent['parts']} parts, {rows} rows in the tables")
    assert rows == sent["events"] > 0
    replay()
    print(f"sent again: {rows_in_tables()} rows")
    assert rows_in_tables() == rows


if __name__ == "__main__":
    main()
