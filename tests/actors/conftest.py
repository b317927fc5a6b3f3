"""One small Ray cluster for all tests that need one; each test names its own pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import PipelineConfig

MIB = 1024 * 1024
_names = itertools.count(1)


@pytest.fixture
def make_config(cluster: None, tmp_path: Path) -> Callable[..., PipelineConfig]:
    """Builds configurations with a name of their own and small windows."""

    def make(**sections: Any) -> PipelineConfig:
        delivery = {"window_bytes": 64 * MIB, "populate_object_store": False}
        delivery.update(sections.pop("delivery", {}))
        pipeline = {"name": f"test-{next(_names)}", "state_dir": tmp_path / "state"}
        return PipelineConfig(pipeline=pipeline, delivery=delivery, **sections)

    return make
