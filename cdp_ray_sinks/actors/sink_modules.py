"""The modules of custom sinks, as workers find them or do not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
from ray.job_config import JobConfig

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sinks.custom import folder_of

_MISSED: Final = re.compile(r"No module named '([^']+)'|Can't get attribute '[^']+' on .*")


def modules_found(sinks: Mapping[str, SinkConfig]) -> dict[str, Any]:
    """Arguments of `ray.init` with which workers of this machine find the sinks' modules.

    None inside a job, whose working directory they have, nor for the driver's, which they have
    as well.
    """
    folders = {folder_of(sink) for sink in sinks.values()} - {None, Path.cwd()}
    if not folders or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    return {"job_config": JobConfig(_py_driver_sys_path=sorted(map(str, folders)))}


@contextmanager
def modules_missed(sinks: Mapping[str, SinkConfig]) -> Iterator[None]:
    """Where an actor can't be made because its node lacks a sink's module, that is said.

    Raises ConfigError that names the sink, its type and what is missing.
    """
    try:
        yield
    except ray.exceptions.ActorDiedError as error:
        missed = _MISSED.search(str(error))
        own = [name for name, sink in sinks.items() if _is_of(sink, missed)] if missed else []
        if missed is None or not own:
            raise
        raise ConfigError(
            f"sinks.{own[0]}.type = {sinks[own[0]].type!r}: {missed[0]} on a node of the cluster; "
            "run it as a job with --working-dir, or install the module on every node"
        ) from None


def _is_of(sink: SinkConfig, missed: re.Match[str]) -> bool:
    """Whether the sink's class may have been what was missed."""
    is_named = missed[1] is None or f"{type(sink).__module__}.".startswith(f"{missed[1]}.")
    return folder_of(sink) is not None and is_named
