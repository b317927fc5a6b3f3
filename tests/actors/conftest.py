"""One small Ray cluster for all tests that need one; each test names its own pipeline."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cdp_ray_sinks.config import PipelineConfig

MIB = 1024 * 1024
_names = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A private cluster of this test session."""
    with tempfile.TemporaryDirectory(prefix="cdp-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=400 * MIB,
            include_dashboard=False,
            log_to_driver=False,
            namespace="cdp_ray_sinks",
            _temp_dir=temp,
        )
        yield
        ray.shutdown()


@pytest.fixture
def make_config(cluster: None, tmp_path: Path) -> Callable[..., PipelineConfig]:
    """Builds configurations with a name of their own and small windows."""

    def make(**sections: Any) -> PipelineConfig:
        delivery = {"window_bytes": 64 * MIB, "populate_object_store": False}
        delivery.update(sections.pop("delivery", {}))
        pipeline = {"name": f"test-{next(_names)}", "state_dir": tmp_path / "state"}
        return PipelineConfig(pipeline=pipeline, delivery=delivery, **sections)

    return make
