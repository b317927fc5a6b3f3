"""Which sink types there are, and where each lives."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sinks.custom import custom_class, is_custom
from cdp_ray_sinks.validation import shown, validated

SINKS: Final[Mapping[str, str]] = {
    "clickhouse": "cdp_ray_sinks.sinks.clickhouse:ClickHouseConfig",
    "null": "cdp_ray_sinks.sinks.null:NullConfig",
    "stdout": "cdp_ray_sinks.sinks.stdout:StdoutConfig",
    "disk_binary": "cdp_ray_sinks.sinks.disk_binary:DiskBinaryConfig",
    "disk_plaintext": "cdp_ray_sinks.sinks.disk_plaintext:DiskPlaintextConfig",
    "forwarder": "cdp_ray_sinks.sinks.forwarder:ForwarderConfig",
    "parquet": "cdp_ray_sinks.sinks.parquet:ParquetConfig",
}


def config_class(sink_type: str) -> type[SinkConfig]:
    """The config model of a sink type, ours or "module:Class"; ConfigError says what is wrong."""
    if is_custom(sink_type):
        return custom_class(sink_type)
    try:
        module, name = SINKS[sink_type].split(":")
    except KeyError:
        known = ", ".join(sorted(SINKS))
        raise ConfigError(f"unknown sink type {sink_type!r}; known: {known}") from None
    found: type[SinkConfig] = getattr(import_module(module), name)
    return found


def load_config(sink_type: str, options: Mapping[str, Any], where: str = "") -> SinkConfig:
    """A checked config from plain options; ConfigError says which key, value and why.

    `where` is what the errors call the table, "sink of type …" by default.
    """
    where = where or f"sink of type {sink_type!r}"
    plain = {"type": sink_type, **options}
    if not is_custom(sink_type):
        return validated(config_class(sink_type), plain, where)
    try:
        model = config_class(sink_type)
    except ConfigError as error:
        raise ConfigError(f"{where}.type = {shown(sink_type)}: {error}") from None
    if model.model_fields["type"].default:  # it has a name of its own
        del plain["type"]
    try:
        return validated(model, plain, where)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a validator may raise what it likes
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from None
