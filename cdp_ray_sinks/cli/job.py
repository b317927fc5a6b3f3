"""What a run must know when it is a Ray job: how long it may leave for, what is deleted after it.

`ray job stop` sends SIGTERM, and SIGKILL after as many seconds as RAY_JOB_STOP_WAIT_TIME_S says,
3 by default. A job that was submitted with `--working-dir` runs in a copy of that folder, which
Ray removes some time after the job; relative paths lead into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.placeholders import paths_in
from cdp_ray_sinks.sinks.base import SinkConfig

STOP_WAIT_S: Final = 3.0
"""What Ray gives a job that says nothing."""
DRAIN_SHARE: Final = 0.6
LEAVE_S_MAX: Final = 5.0
"""How much of it is kept for what follows the drain: closing files, the report, leaving Ray."""


@dataclass(frozen=True, slots=True)
class Job:
    """The job that this process is the driver of. `copy` is its copy of the working directory."""

    stop_wait_s: float = STOP_WAIT_S
    copy: Path | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], directory: Path) -> Job | None:
        """The job that an environment and the process's first directory tell of, if any."""
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in environ:
            return None
        has_copy = False
        with suppress(ValueError, AttributeError):
            described = json.loads(environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])
            has_copy = bool(described.get("runtime_env", {}).get("working_dir"))
        stop_wait_s = STOP_WAIT_S
        with suppress(KeyError, ValueError):
            stop_wait_s = float(int(environ["RAY_JOB_STOP_WAIT_TIME_S"]))
        return cls(stop_wait_s, directory.absolute() if has_copy else None)

    def drain_deadline_s(self, configured_s: float) -> float:
        """How long a drain may take once the job is to stop."""
        left_s = max(DRAIN_SHARE * self.stop_wait_s, self.stop_wait_s - LEAVE_S_MAX)
        return min(configured_s, left_s)

    def warnings(self, config: PipelineConfig) -> list[str]:
        """What of a configuration does not fit a job, one sentence each."""
        found = []
        deadline_s = config.delivery.drain_deadline_s
        if self.drain_deadline_s(deadline_s) < deadline_s:
            found.append(
                f"delivery.drain_deadline_s = {deadline_s:g}, but `ray job stop` kills this job "
                f"after {self.stop_wait_s:g} s: submit it with RAY_JOB_STOP_WAIT_TIME_S = "
                f'"{deadline_s + LEAVE_S_MAX:.0f}" in the env_vars of its runtime environment'
            )
        for name, sink in config.active_sinks().items():
            folders = {*map(Path, sink.owned_folders()), *_written(sink)}
            if any(map(self._is_deleted, folders)):
                found.append(f"sinks.{name}: its folder {_IN_COPY}")
            if sink.prints_lines:
                found.append(
                    f"sinks.{name}: its lines go to the job's log, which Ray lets grow without end"
                )
        if self._is_deleted(config.state_dir()):
            found.append(f"pipeline.state_dir: it {_IN_COPY}")
        return found

    def _is_deleted(self, folder: Path) -> bool:
        return self.copy is not None and folder.absolute().is_relative_to(self.copy)


def _written(sink: SinkConfig) -> list[Path]:
    """Where a sink of somebody's own says it writes; its other paths may be read."""
    return [path for key, path in paths_in(sink).items() if key == "path"]


_IN_COPY: Final = (
    "lies in the job's copy of its working directory, which Ray deletes: name it by an absolute "
    "path, or run with --directory"
)
