"""A training set from an archive: will an order be returned? Read in batches, held out by order.

    python examples/06_training_set.py

Needs the archive of 04_enrich_with_ray_data.py.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import ray

from cdp_ray_sinks import read_archive

ARCHIVE = Path("quickstart-data/orders/archive")
RATE = 0.1


def features(rows: dict[str, Any]) -> dict[str, Any]:
    """Numbers of each event: those of its payload, and whether its name is the one to learn."""
    facts = [json.loads(payload) for payload in rows["payload"]]
    is_gold = [fact["tier"] == "gold" for fact in facts]
    return {
        "order": np.array([fact["order"] for fact in facts]),
        "inputs": np.array([[1, fact["items"], g] for fact, g in zip(facts, is_gold, strict=True)]),
        "is_returned": rows["event_name"].astype(str) == "Order Returned",
    }


def main() -> None:
    """Fit a logistic regression batch by batch, and ask it about orders that it has not seen."""
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # no plans, no progress
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = read_archive(ARCHIVE, workspaces=[7], columns=["event_name", "payload"])
    made = rows.map_batches(features).materialize()
    weights = np.zeros(3)
    for batch in made.iter_batches(batch_size=256, local_shuffle_buffer_size=4096):
        seen = batch["order"] % 5 != 0
        inputs, answers = batch["inputs"][seen], batch["is_returned"][seen]
        guesses = 1 / (1 + np.exp(-inputs @ weights))
        weights -= RATE * inputs.T @ (guesses - answers) / len(answers)

    unseen = right = returned = 0
    for batch in made.iter_batches(batch_size=None):
        held_out = batch["order"] % 5 == 0
        guesses = batch["inputs"][held_out] @ weights > 0
        unseen += len(guesses)
        right += int(np.sum(guesses == batch["is_returned"][held_out]))
        returned += int(np.sum(batch["is_returned"][held_out]))
    always = max(returned, unseen - returned)
    print(
        f"{right / unseen:.0%} of {unseen} unseen orders told right, {always / unseen:.0%} by habit"
    )
    assert right > always


if __name__ == "__main__":
    main()
