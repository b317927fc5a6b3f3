"""`cdp-sinks status`: a running pipeline's actors and what they report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, TextIO

from cdp_ray_sinks.cli.look import Look, view
from cdp_ray_sinks.cli.output import count_text, escaped, print_json, results_apart
from cdp_ray_sinks.cli.running import noted_address, notes_folder, use_auth_token
from cdp_ray_sinks.cli.top_view import drawn

TABLE_COLUMNS: Final = 140


def show_status(name: str, address: str | None, namespace: str, as_json: bool) -> int:
    """Print the status; ConfigError if no such pipeline runs there.

    Without an address: the one that a `run` of that name noted on this machine, then
    RAY_ADDRESS, then the newest cluster of the machine.
    """
    use_auth_token(os.environ)
    from cdp_ray_sinks import pipeline

    with results_apart() as results:
        address = address or noted_address(notes_folder(os.environ), name)
        found = pipeline.status(name, address, namespace)
        if as_json:
            print_json(found, results)
        else:
            print_actors(found, results)
            print_totals(found, results)
            for line in said(found):
                print(escaped(line), file=results)
    return 0


def print_actors(found: Mapping[str, Any], out: TextIO) -> None:
    """A table of the actors."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, highlight=False, markup=False)
    console.print(f"pipeline {found['pipeline']}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("actor", "kind", "pid", "node"):
        table.add_column(head)
    for actor in found["actors"]:
        table.add_row(actor["name"], actor["kind"], str(actor["pid"]), str(actor["node"])[:12])
    console.print(table)


def print_totals(found: Mapping[str, Any], out: TextIO) -> None:
    """What sources, router, sinks and the busiest workspaces did since their processes began."""
    from rich.console import Console

    width = None if out.isatty() else TABLE_COLUMNS
    console = Console(file=out, highlight=False, markup=False, width=width)
    console.print(drawn(view(Look(0.0, found)), console.width))


def said(found: Mapping[str, Any]) -> list[str]:
    """What the sinks have to say, a line each: notes, what they are retried for, counts."""
    lines = []
    for name, report in found["reports"].items():
        if "sink" not in report:  # a source or the router
            continue
        counted = [f"{count_text(n)} {what}" for what, n in report["counters"].items() if n]
        told = list(report["notes"])
        told += [f"retrying: {report['last_error']}"] if report["last_error"] else []
        told += [f"counted: {', '.join(counted)}"] if counted else []
        lines += [f"{name}: {text}" for text in told]
    return lines
