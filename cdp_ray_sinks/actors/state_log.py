"""What actors write into Ray's logs: how they began, what goes wrong, and that it is over.

Ray keeps a file for each process; with `logs = "json"` each line there is an object that
names job, node, actor and task besides.
"""

from __future__ import annotations

import logging
from typing import Any

import ray

from cdp_ray_sinks.batch.safe_text import escaped
from cdp_ray_sinks.config import PipelineConfig

logger = logging.getLogger("cdp_ray_sinks")


def job_logging(config: PipelineConfig) -> dict[str, Any]:
    """Arguments of `ray.init`: none for text, Ray's own configuration for JSON.

    WARNING is the level because the driver has the same one, and it is to be quiet.
    """
    if config.ray.logs == "text":
        return {}
    made = ray.LoggingConfig(
        encoding="JSON", log_level="WARNING", additional_log_standard_attrs=["name"]
    )
    return {"logging_config": made}


class StateLog:
    """One actor's lines: one when its problem changes, one when it is over."""

    def __init__(self, actor_name: str) -> None:
        self._fields = {"pipeline": actor_name.split("/")[0], "actor": actor_name}
        self._known = ""

    def tell(self, problem: str | None) -> None:
        """What is wrong now, None or nothing when all is well; the same again says nothing."""
        text = problem or ""
        if text == self._known:
            return
        self._known = text
        said = escaped(text)
        message = f"{self._fields['actor']}: {said or 'well again'}"
        logger.warning(message, extra={**self._fields, "problem": said})
