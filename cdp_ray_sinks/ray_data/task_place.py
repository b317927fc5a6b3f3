"""Where in a dataset's execution a function of `map_batches` is being called."""

from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.interfaces import TaskContext

from cdp_ray_sinks.errors import ConfigError


def place_of_call(own_id: str, what: str) -> str:
    """Which batch of which task this is, for the one known by `own_id`.

    It is the same when another process tries the task again. Raises ConfigError, with `what` was
    called, outside of a task of Ray Data or in one that Ray Data may begin again from within.
    """
    context = TaskContext.get_current()
    if context is None:
        raise ConfigError(f"{what}: to be called by Ray Data, in dataset.map_batches")
    data = DataContext.get_current()
    if data.retried_map_errors and data.max_map_retries:
        raise ConfigError(
            f"{what}: DataContext.retried_map_errors is set; a task that begins again from "
            "within would count its batches on, and they would be there twice"
        )
    # What a task keeps here is forgotten when another process tries it again.
    key = f"cdp_calls/{own_id}"
    call = context.kwargs.get(key, 0)
    context.kwargs[key] = call + 1
    return f"{context.task_idx}-{call}"
