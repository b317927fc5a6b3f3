"""Rows of a query as a person or a program reads them: a table, or an object of JSON each."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cdp_ray_sinks.cli.output import count_text, escaped, say, to_json

if TYPE_CHECKING:
    from rich.console import Console

_GAP: Final = 3


def print_rows(
    names: Sequence[str],
    first: Sequence[tuple[Any, ...]],
    others: Iterator[tuple[Any, ...]],
    as_json: bool,
) -> None:
    """A table of the `first` rows, which says so if there are `others`; as JSON all of them."""
    if as_json:
        _print_json(names, chain(first, others))
        return
    _print_table(names, first)
    if next(others, None) is not None:
        say(f"the first {count_text(len(first))} rows; --limit shows more, --json all of them")


def _print_json(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        sys.stdout.write(to_json(dict(zip(names, map(_plain, row), strict=True))) + "\n")


def _plain(value: Any) -> Any:
    """What JSON can say: times in ISO 8601, bytes in base64, exact numbers as text."""
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | UUID | timedelta | IPv4Address | IPv6Address):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "")
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping | list | tuple):
        return to_json(_plain(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return escaped(str(value))


def _print_table(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """A table; on a terminal too narrow for it, each row as a paragraph of its own."""
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_text(value) for value in row] for row in rows]
    needed = sum(
        max(cell_len(cell) for cell in column) + _GAP
        for column in zip([escaped(name) for name in names], *cells, strict=True)
    )
    console = Console(highlight=False)
    if console.is_terminal and needed > console.width:
        _print_paragraphs(console, names, cells)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(names):
        is_number = bool(rows) and all(_is_number(row[place]) for row in rows)
        table.add_column(Text(escaped(name)), justify="right" if is_number else "left")
    for line in cells:
        table.add_row(*map(Text, line))
    Console(highlight=False, width=max(needed, 1)).print(table)


def _print_paragraphs(
    console: Console, names: Sequence[str], cells: Sequence[Sequence[str]]
) -> None:
    width = max(map(len, names))
    for number, line in enumerate(cells, 1):
        console.rule(f"row {number}", align="left", style="dim")
        for name, cell in zip(names, line, strict=True):
            text = f"{escaped(name):>{width}}  {cell}"
            console.print(text, markup=False, no_wrap=True, overflow="ellipsis")


def _is_number(value: Any) -> bool:
    return value is None or (
        isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    )
