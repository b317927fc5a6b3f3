"""`cdp-sinks validate`: is this configuration one that can run?"""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.cli.output import print_json, say, say_error
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placeholders import exposure_of, paths_in, secret_files_in


def validate_config(path: Path, as_json: bool) -> int:
    """Print what is wrong or odd; 0 if it can run, 2 if not."""
    try:
        config = load(path)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "errors": str(error).split("\n"), "warnings": []})
        else:
            say_error(str(error))
        return 2
    warnings = config.warnings() + _exposed_secrets(config)
    if as_json:
        print_json({"ok": True, "errors": [], "warnings": warnings})
        return 0
    for warning in warnings:
        say(f"warning: {warning}")
    sources, sinks = config.active_sources(), config.active_sinks()
    rules = config.routing.rules if config.routing else ()
    print(f"{path}: ok")
    print(f"  sources: {', '.join(f'{name} ({s.type})' for name, s in sources.items())}")
    print(f"  sinks: {', '.join(f'{name} ({s.type})' for name, s in sinks.items())}")
    print(f"  routing: {len(rules)} rules, default {', '.join(config.routing_table().default)}")
    return 0


def _exposed_secrets(config: PipelineConfig) -> list[str]:
    """Files of secrets on this machine that any of its users may read."""
    files = {
        path: f"sources.{name}.{key}"
        for name, source in config.active_sources().items()
        for key, path in paths_in(source).items()
        if key == "api_keys"
    }
    for name, sink in config.active_sinks().items():
        files |= dict.fromkeys(secret_files_in(sink), f"sinks.{name}")
    for name, source in config.active_sources().items():
        files |= dict.fromkeys(secret_files_in(source), f"sources.{name}")
    found = ((where, exposure_of(path)) for path, where in files.items())
    return [f"{where}: {text}" for where, text in found if text]
