"""Pipelines on the shared cluster, and Ray Data without its progress."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import PipelineConfig

MIB = 1024 * 1024
_names = itertools.count(1)


@pytest.fixture
def make_config(
    cluster: None, quiet_ray_data: None, tmp_path: Path
) -> Callable[..., PipelineConfig]:
    """Builds configurations with a name of their own and small windows."""

    def make(**sections: Any) -> PipelineConfig:
        return PipelineConfig(
            pipeline={"name": f"data-{next(_names)}", "state_dir": tmp_path / "state"},
            delivery={"window_bytes": 32 * MIB, "populate_object_store": False},
            **sections,
        )

    return make


@pytest.fixture
def quiet_ray_data(cluster: None) -> Iterator[None]:
    """Its progress would go to the test's output."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
