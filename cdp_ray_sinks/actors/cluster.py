"""The Ray cluster a pipeline runs on: joined, or private and our own to stop."""

from __future__ import annotations

import os
from logging import ERROR
from typing import Any

import ray

from cdp_ray_sinks.actors.nodes import alive_nodes, own_node_id
from cdp_ray_sinks.actors.sink_modules import modules_found
from cdp_ray_sinks.actors.state_log import job_logging
from cdp_ray_sinks.actors.store_windows import check_windows, windows_bytes
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError

PRIVATE_STORE_BYTES = 1024 * 1024 * 1024


def connect(config: PipelineConfig) -> bool:
    """Join the configured cluster, or start a private one; whether it is ours to stop.

    Inside a job or where Ray is already initialised that cluster is used. Raises ConfigError
    when the address can't be reached or a store is too small for the producers' windows.
    """
    is_private = False
    if not ray.is_initialized():
        address = config.ray.address or os.environ.get("RAY_ADDRESS")
        if address:
            options = job_logging(config) | modules_found(config.active_sinks())
            _join(address, config.ray.namespace, options)
        else:
            _start_private(config)
            is_private = True
    check_windows(config, alive_nodes(), own_node_id())
    return is_private


def _join(address: str, namespace: str, options: dict[str, Any] | None = None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": ERROR}
    try:
        ray.init(address=address, namespace=namespace, **quiet, **(options or {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"ray.address = {address!r}: {error}") from None


def join_running(address: str | None, namespace: str) -> None:
    """Join a cluster that runs already, the newest of this machine without an address."""
    if not ray.is_initialized():
        _join(address or os.environ.get("RAY_ADDRESS") or "auto", namespace)


def _start_private(config: PipelineConfig) -> None:
    # Read by Ray when it starts: a private cluster of a data pipeline tells nobody of itself.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    store_bytes = config.ray.object_store_bytes or max(
        PRIVATE_STORE_BYTES, 3 * windows_bytes(config)
    )
    ray.init(
        address="local",
        namespace=config.ray.namespace,
        object_store_memory=store_bytes,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=ERROR,
        configure_logging=True,
        **job_logging(config),
        **modules_found(config.active_sinks()),
    )
