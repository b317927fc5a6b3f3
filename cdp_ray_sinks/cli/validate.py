"""`cdp-sinks validate`: is this configuration one that can run?"""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.cli.output import print_json, say, say_error
from cdp_ray_sinks.config import load
from cdp_ray_sinks.errors import ConfigError


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
    warnings = config.warnings()
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
