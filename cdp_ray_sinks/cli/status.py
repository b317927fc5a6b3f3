"""`cdp-sinks status`: a running pipeline's actors and what they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdp_ray_sinks.cli.output import print_json


def show_status(name: str, address: str | None, as_json: bool) -> int:
    """Print the status; ConfigError if no such pipeline runs there."""
    from cdp_ray_sinks import pipeline

    found = pipeline.status(name, address)
    if as_json:
        print_json(found)
    else:
        print_actors(found)
    return 0


def print_actors(found: Mapping[str, Any]) -> None:
    """A table of the actors on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"pipeline {found['pipeline']}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("actor", "kind", "pid", "node"):
        table.add_column(head)
    for actor in found["actors"]:
        table.add_row(actor["name"], actor["kind"], str(actor["pid"]), str(actor["node"]))
    console.print(table)
