"""Which source types there are, and where each lives."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceConfig
from cdp_ray_sinks.validation import validated

SOURCES: Final[Mapping[str, str]] = {
    "tcp": "cdp_ray_sinks.sources.tcp:TcpConfig",
    "http": "cdp_ray_sinks.sources.http:HttpConfig",
    "synthetic": "cdp_ray_sinks.sources.synthetic:SyntheticConfig",
}


def source_config_class(source_type: str) -> type[SourceConfig]:
    """The config model of a source type; ConfigError names the known ones otherwise."""
    try:
        module, name = SOURCES[source_type].split(":")
    except KeyError:
        known = ", ".join(sorted(SOURCES))
        raise ConfigError(f"unknown source type {source_type!r}; known: {known}") from None
    found: type[SourceConfig] = getattr(import_module(module), name)
    return found


def load_source_config(
    source_type: str, options: Mapping[str, Any], where: str = ""
) -> SourceConfig:
    """A checked config from plain options; ConfigError says which key, value and why.

    `where` is what the errors call the table, "source of type …" by default.
    """
    plain = {"type": source_type, **options}
    where = where or f"source of type {source_type!r}"
    return validated(source_config_class(source_type), plain, where)
