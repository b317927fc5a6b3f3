"""Custom sinks in actors: their modules are found, or it is said that they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cdp_ray_sinks.actors.sink_modules import modules_found
from cdp_ray_sinks.actors.status import NoPipelineError
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.pipeline import Pipeline

MODULE = """
from cdp_ray_sinks import NullSink, SinkConfig

class Quiet(SinkConfig):
    def build(self, context): return NullSink()
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """A pipeline with a sink whose module this process alone can find."""
    (tmp_path / "far_sink.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "far_sink", raising=False)
    return PipelineConfig(
        pipeline={"name": tmp_path.name, "state_dir": tmp_path / "state"},
        delivery={"window_bytes": 16 * 1024 * 1024},
        sinks={"nothing": {"type": "null"}, "far": {"type": "far_sink:Quiet"}},
    )


def test_workers_are_told_of_a_folder_they_would_not_look_in(
    config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the working directory, which Ray tells them of, nor inside a job."""
    found = modules_found(config.active_sinks())
    assert found["job_config"]._py_driver_sys_path == [str(tmp_path)]
    monkeypatch.chdir(tmp_path)
    assert modules_found(config.active_sinks()) == {}
    monkeypatch.chdir("/")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert modules_found(config.active_sinks()) == {}


@pytest.mark.usefixtures("cluster")
def test_a_node_without_the_module_is_told(config: PipelineConfig) -> None:
    """The sink, its type, what is missing and what to do."""
    said = r"^sinks\.far\.type = 'far_sink:Quiet': No module named 'far_sink' on a node .* job with"
    pipeline = Pipeline(config)
    with pytest.raises(ConfigError, match=said):
        pipeline.start()
    with pytest.raises(NoPipelineError):  # nothing is left of it
        pipeline.status()
