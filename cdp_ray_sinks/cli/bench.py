"""`cdp-sinks bench`: rates beside what the machine allows, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from cdp_ray_sinks.bench.command import run_bench
from cdp_ray_sinks.bench.rows import Row
from cdp_ray_sinks.cli.output import bytes_text, count_text, print_json, results_apart, say, to_json
from cdp_ray_sinks.errors import ConfigError

TABLE_COLUMNS = 150


def run_benchmarks(
    names: Sequence[str],
    shape: str,
    event_count: int,
    repeat: int,
    directory: Path | None,
    json_file: Path | None,
    has_peers: bool = False,
) -> int:
    """Measure and print; `json_file` gets the rows too, `-` puts them on stdout instead.

    1 if a row did not read back what it wrote.
    """
    is_stdout = str(json_file) == "-"
    if json_file is not None and not is_stdout:
        try:
            json_file.touch()  # not after minutes of measuring
        except OSError as error:
            raise ConfigError(f"--json {json_file}: {error.strerror}") from None
    with results_apart() as results:
        rows = run_bench(
            names,
            shape=shape,
            events=event_count,
            repeat=repeat,
            directory=directory,
            has_peers=has_peers,
            say=say,
            on_row=lambda row: say(row_text(row)),
        )
        plain = [row.to_dict() for row in rows]
        if is_stdout:
            print_json(plain, results)
        else:
            print_rows(rows, results)
    if json_file is not None and not is_stdout:
        json_file.write_text(to_json(plain) + "\n")
    return 0 if all(row.read_back == row.events for row in rows if row.file_system) else 1


def row_text(row: Row) -> str:
    """A row on one line, as it is told while the next one is measured."""
    return f"{row.sink} {row.variant}: " + "  ".join(part for part in _cells(row)[2:] if part)


def print_rows(rows: Sequence[Row], out: TextIO) -> None:
    """The rows as a table."""
    from rich.console import Console
    from rich.table import Table

    width = None if out.isatty() else TABLE_COLUMNS
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("sink", "variant"):
        table.add_column(head)
    for head in ("events/s", "bytes/s", "p50, p99"):
        table.add_column(head, justify="right")
    for head in ("compared with", "ratio (min-max)", "on", "remark"):
        table.add_column(head)
    for row in rows:
        table.add_row(*_cells(row))
    Console(file=out, highlight=False, markup=False, width=width).print(table)


def _cells(row: Row) -> list[str]:
    limit = row.limit or ""
    if row.limit_bytes_per_s is not None:
        limit += f" {bytes_text(row.limit_bytes_per_s)}/s"
    elif row.limit_p50_us is not None:
        limit += f" {row.limit_p50_us:,.1f} us"
    times = [f"{time_us:,.1f} us" for time_us in (row.p50_us, row.p99_us) if time_us is not None]
    if row.ns_per_event is not None:
        times.append(f"{row.ns_per_event:.1f} ns/event")
    if row.bytes_per_event is not None:
        times.append(f"{row.bytes_per_event:.1f} B/event")
    if row.limit_bytes_per_event is not None:
        limit += f" {row.limit_bytes_per_event:.1f} B/event"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    if row.ratio_min is not None and row.ratio_max is not None:
        ratio += f" ({row.ratio_min:.2f}-{row.ratio_max:.2f})"
    remarks = ["suspect: a slow machine"] if row.suspect else []
    if row.private_bytes is not None:
        remarks.append(f"{bytes_text(row.private_bytes)} private memory")
    if row.file_system and row.read_back != row.events:
        remarks.append(f"read back {count_text(row.read_back)} of {count_text(row.events)}")
    return [
        row.sink,
        row.variant,
        "" if row.events_per_s is None else f"{row.events_per_s / 1e6:,.1f} M",
        "" if row.bytes_per_s is None else f"{bytes_text(row.bytes_per_s)}",
        ", ".join(times),
        limit,
        ratio,
        row.file_system or "",
        "; ".join(remarks),
    ]
