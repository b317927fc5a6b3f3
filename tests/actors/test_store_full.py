"""An object store that others have filled: slower, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_batch, numbers_in

MIB = 1024 * 1024
BATCHES = 60
RECORD_BYTES = 2 * MIB


def test_batches_pass_through_a_store_that_is_full(
    make_config: Callable[..., PipelineConfig], tmp_path: Path
) -> None:
    """Its room is held by objects that are in use, which can be neither moved nor thrown out."""
    config = make_config(
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "archive"}},
        delivery={"window_bytes": 32 * MIB},
    )
    store_bytes = int(ray.cluster_resources()["object_store_memory"])
    with Pipeline(config) as pipeline:
        references = [
            ray.put(np.zeros(16 * MIB, np.uint8)) for _ in range(store_bytes // MIB // 16)
        ]
        held = ray.get(references)  # mapped here, so they stay where they are
        producer = pipeline.producer("mine")
        tickets = [
            producer.submit(numbered_batch(n, 1 + n % 2, RECORD_BYTES)) for n in range(BATCHES)
        ]
        for ticket in tickets:
            assert ticket.result(120) == {"archive": "durable"}
        assert sum(view.nbytes for view in held) > 0.9 * store_bytes
        del held, references
    assert sorted(numbers_in(tmp_path / "archive")) == list(range(BATCHES))
    assert verify(tmp_path / "archive").ok
