"""Orders from a Dataset, enriched, into an archive and Parquet tables at once; read back as rows.

    python examples/04_enrich_with_ray_data.py

Writes to quickstart-data/orders under the folder in which it is started.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.data.expressions import col

from cdp_ray_sinks import (
    CdpDatasink,
    DiskBinaryConfig,
    ParquetConfig,
    PipelineConfig,
    read_archive,
)

BASE = Path("quickstart-data/orders").absolute()
ORDERS = 50_000
TIERS = np.random.default_rng(7).choice(["new", "regular", "gold"], size=1000)
NEW_YEAR_MS = 1_767_225_600_000  # 2026-01-01


def orders(rows: dict[str, Any]) -> dict[str, Any]:
    """What a shop would have in a table; made up, the same each time."""
    number = rows["id"]
    dice = np.random.default_rng(int(number[0]))
    return {
        "order": number,
        "customer": dice.integers(len(TIERS), size=len(number)),
        "items": dice.integers(1, 9, size=len(number)),
        "created": NEW_YEAR_MS + number * 1000,
        "luck": dice.random(len(number)),
    }


def enriched(rows: dict[str, Any], tiers: Any) -> dict[str, Any]:
    """An event for each order, with the customer's tier, which the order does not say."""
    tier = tiers[rows["customer"]]
    comes_back = rows["luck"] < 0.1 * rows["items"] - 0.3 * (tier == "gold")
    facts = zip(rows["order"], tier, rows["items"], comes_back, strict=True)
    return {
        "created": rows["created"],
        "kind": np.where(comes_back, "Order Returned", "Order Kept"),
        "who": np.array([str(uuid.UUID(int=int(customer))) for customer in rows["customer"]]),
        "payload": np.array(
            [json.dumps({"order": int(n), "tier": str(t), "items": int(i)}) for n, t, i, _ in facts]
        ),
    }


def main() -> None:
    """Write, then read what was written and count it."""
    shutil.rmtree(BASE, ignore_errors=True)
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # no plans, no progress
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = PipelineConfig(
        pipeline={"name": "orders", "state_dir": BASE / "state"},
        sinks={
            "archive": DiskBinaryConfig(path=BASE / "archive"),
            "tables": ParquetConfig(path=BASE / "tables"),
        },
    )
    columns = {"timestamp": "created", "event_name": "kind", "device_id": "who"}
    sink = CdpDatasink(config=config, columns=columns, workspace_id=7)
    events = ray.data.range(ORDERS).map_batches(orders).map_batches(partial(enriched, tiers=TIERS))
    events.write_datasink(sink)
    print("written:", sink.report.outcomes)

    found = read_archive(BASE / "archive", columns=["event_name"])
    kept = found.filter(expr=col("event_name") == "Order Kept").count()
    print(f"{found.count()} orders read back, of which {kept} were kept")
    assert found.count() == ORDERS


if __name__ == "__main__":
    main()
