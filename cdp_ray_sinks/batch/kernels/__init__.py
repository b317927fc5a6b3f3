"""Compiled kernels; importing any of them first chooses the place of their cache."""

from cdp_ray_sinks.batch.kernels import cache

__all__ = ["cache"]
