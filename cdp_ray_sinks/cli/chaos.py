"""`cdp-sinks chaos`: faults into a pipeline of its own, and whether every promise held."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TextIO

from cdp_ray_sinks.chaos.report import Report
from cdp_ray_sinks.chaos.settings import SCENARIOS, ChaosSettings, Scenario, bounded_rate
from cdp_ray_sinks.cli.output import bytes_text, count_text, escaped, print_json, results_apart, say
from cdp_ray_sinks.cli.running import use_auth_token
from cdp_ray_sinks.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

TABLE_COLUMNS = 110
RAY_LOG = "ray.log"


def chaos(
    minutes: float,
    seed: int,
    scenario: Scenario | None,
    events_per_s: float,
    directory: Path | None,
    as_json: bool,
) -> int:
    """Run it, print what was found; 1 if anything promised was broken.

    Without `directory` it is one below the working directory, which goes afterwards unless
    something was broken.
    """
    use_auth_token(os.environ)
    from cdp_ray_sinks.chaos.run import run_chaos  # brings Ray, which reads that when imported

    parent = directory or Path.cwd()
    rate = bounded_rate(minutes * 60, events_per_s, parent)
    if rate < events_per_s:
        say(f"{count_text(rate)} events/s, so that half of the free disk space is enough")
    scratch = _made_directory(directory)
    scenarios = SCENARIOS if scenario is None else (scenario,)
    person = sys.stderr

    def tell(text: str) -> None:
        person.write(escaped(text) + "\n")
        person.flush()

    settings = ChaosSettings(minutes * 60, seed, scenarios, rate, scratch, tell)
    is_kept = directory is not None
    try:
        with results_apart() as results:
            # Ray tells of every process that is killed, at length.
            with (
                (scratch / RAY_LOG).open("w") as log,
                redirect_stderr(log),
                redirect_stdout(log),
            ):
                report = run_chaos(settings, is_kept)
            is_kept = is_kept or bool(report.broken)
            if as_json:
                print_json(report.to_dict(), results)
            else:
                print_report(report, results)
        if is_kept:
            say(f"kept: {scratch}; cdp-sinks audit {scratch / 'chaos.toml'}")
    finally:
        if not is_kept:
            shutil.rmtree(scratch, ignore_errors=True)
    return 1 if report.broken else 0


def _made_directory(directory: Path | None) -> Path:
    """An empty folder, absolute. Raises ConfigError."""
    try:
        if directory is None:
            return Path(tempfile.mkdtemp(prefix="cdp-chaos-", dir=Path.cwd()))
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"--directory {directory}: it must be empty or not be there")
    except OSError as error:
        raise ConfigError(f"chaos directory: {error}") from None
    return directory.absolute()


def print_report(report: Report, out: TextIO) -> None:
    """The faults, the destinations, memory, and the verdict."""
    from rich.console import Console

    width = None if out.isatty() else TABLE_COLUMNS
    console = Console(file=out, highlight=False, markup=False, width=width)
    _print_faults(report, console)
    _print_destinations(report, console)
    _print_memory(report, console)
    for text in report.left_out:
        console.print(f"left out: {text}")
    again = f"--minutes {report.seconds / 60:g} --seed {report.seed}"
    if len(report.scenarios) == 1:
        again += f" --scenario {report.scenarios[0]}"
    if report.broken:
        console.print(f"\nBROKEN ({again})", style="bold red")
        for text in report.broken:
            console.print(f"  {text}", style="red")
    else:
        console.print(f"\nnothing lost, nothing twice ({again})", style="bold green")


def _print_faults(report: Report, console: Console) -> None:
    from rich.table import Table

    kinds: dict[tuple[str, str], list[float]] = {}
    lasted: dict[tuple[str, str], float] = {}
    for one in report.injected:
        key = (one.scenario, one.what)
        kinds.setdefault(key, []).append(60.0 if one.settled_s is None else one.settled_s)
        lasted[key] = max(lasted.get(key, 0.0), one.lasted_s)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scenario")
    table.add_column("fault")
    for head in ("times", "longest", "settled after, median", "max"):
        table.add_column(head, justify="right")
    for (scenario, what), times in sorted(kinds.items()):
        longest = f"{lasted[scenario, what]:.1f} s" if "SIGKILL" not in what else ""
        cells = [str(len(times)), longest, f"{median(times):.2f} s", f"{max(times):.2f} s"]
        table.add_row(scenario, what, *cells)
    console.print(table)
    kills = report.kill_times_s
    if kills:
        console.print(
            f"after SIGKILL of any one actor every workspace was settled again within "
            f"{median(kills):.2f} s (median), {kills[-1]:.2f} s (max)"
        )
    if report.longest_meanwhile_s is not None:
        console.print(
            f"while a sink with a spool was away others waited {report.longest_meanwhile_s:.2f} s "
            "at most"
        )
    console.print()


def _print_destinations(report: Report, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("destination")
    for head in ("events", "lost", "twice", "strange", "out of order", "damaged", "by the spool"):
        table.add_column(head, justify="right")
    for one in report.destinations:
        order = "not kept" if one.disordered is None else count_text(one.disordered)
        counts = [count_text(n) for n in (one.found, one.lost, one.twice, one.strange)]
        spooled = count_text(report.sinks.get(one.name, {}).get("spooled", 0))
        cells = [*counts, order, str(len(one.damage)), spooled]
        table.add_row(f"{one.name} ({one.type})", *cells, style=None if one.ok else "red")
    console.print(table)
    audit = "clean" if report.audit.ok else "DIFFERS"
    console.print(f"audit: {audit}; drained in {report.drain_s:.1f} s\n")


def _print_memory(report: Report, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("private memory of")
    for head in ("lives", "longest", "early", "late", ""):
        table.add_column(head, justify="right")
    lives: dict[str, int] = {}
    for life in report.memory:
        lives[life.name] = lives.get(life.name, 0) + 1
    shown = {life.name: life for life in reversed(report.memory)}  # the longest of each name
    for name, life in sorted(shown.items()):
        flat = {True: "flat", False: "GROWS", None: "too short to tell"}[life.is_flat]
        sizes = [bytes_text(life.early_bytes), bytes_text(life.late_bytes)]
        table.add_row(name, str(lives[name]), f"{life.lived_s:.0f} s", *sizes, flat)
    console.print(table)
