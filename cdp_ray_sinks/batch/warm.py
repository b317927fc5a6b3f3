"""Compile every kernel once per machine, before anything waits for one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from cdp_ray_sinks.batch.kernels import cache

KERNEL_WARMERS: Final = [
    "cdp_ray_sinks.batch.columns:warm",
    "cdp_ray_sinks.batch.encoding:warm",
    "cdp_ray_sinks.batch.json_lines:warm",
    "cdp_ray_sinks.batch.kernels.column_values:warm",
    "cdp_ray_sinks.batch.kernels.count:warm",
    "cdp_ray_sinks.batch.kernels.envelope:warm",
    "cdp_ray_sinks.batch.kernels.frames:warm",
    "cdp_ray_sinks.batch.kernels.rewrap:warm",
    "cdp_ray_sinks.batch.kernels.running_number:warm",
    "cdp_ray_sinks.batch.kernels.synthetic:warm",
    "cdp_ray_sinks.batch.kernels.time_order:warm",
    "cdp_ray_sinks.batch.text_lines:warm",
]
"""module:function; each runs the kernels of its module on tiny inputs of the real types."""


def kernels_are_warm() -> bool:
    """True if this machine's cache holds all kernels of these sources; compiles nothing."""
    return cache.is_warm(_marker())


def compile_kernels(report: Callable[[str], None]) -> None:
    """Have every kernel compiled and cached, and loaded into this process.

    Takes some tens of seconds where the cache is cold, said once through `report`, and
    about one where it is warm. Processes that come to it together compile one at a time.
    """
    if not kernels_are_warm():
        report("compiling kernels, first run only")
    with cache.one_compiler():
        for warmer in KERNEL_WARMERS:
            module, function = warmer.split(":")
            getattr(import_module(module), function)()
        cache.mark_warm(_marker())


def _marker() -> str:
    return "\n".join(KERNEL_WARMERS)
