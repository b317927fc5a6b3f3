"""Draws a look at a pipeline: tables whose least important columns give way on narrow screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cdp_ray_sinks.cli.output import bytes_text, count_text, escaped

if TYPE_CHECKING:
    from rich.console import Group

Row = Mapping[str, Any]
GAP: Final = 2
PROBLEMS_MAX: Final = 5
_COUNTED: Final = ("nodes", "actors")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: what it says of a row. Those with a greater `rank` give way first."""

    head: str
    text: Callable[[Row], str]
    rank: int = 0
    is_left: bool = False


def shown_columns(
    columns: Sequence[Column], rows: Sequence[Row], width: int
) -> list[tuple[Column, list[str]]]:
    """The columns that fit, with their cells; the first one always does."""
    found = [(column, [escaped(column.text(row)) for row in rows]) for column in columns]

    def is_too_wide() -> bool:
        widths = [max(len(text) for text in (column.head, *cells)) for column, cells in found]
        return sum(widths) + GAP * (len(widths) - 1) > width

    while len(found) > 1 and is_too_wide():
        found.remove(max(reversed(found), key=lambda each: each[0].rank))
    return found


def seconds_text(latency_s: float | None) -> str:
    """A latency or a lag for people: 1.2 ms, 35 ms, 4.1 s, 12 min."""
    if latency_s is None:
        return "-"
    if latency_s < 1:
        milliseconds = latency_s * 1000
        return f"{milliseconds:.1f} ms" if 0 < milliseconds < 10 else f"{milliseconds:.0f} ms"
    if latency_s < 600:
        return f"{latency_s:.1f} s"
    return f"{latency_s / 60:.0f} min"


def _number(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else count_text(row[key])


def _size(key: str) -> Callable[[Row], str]:
    return lambda row: bytes_text(row[key])


def _duration(key: str) -> Callable[[Row], str]:
    return lambda row: seconds_text(row[key])


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _megabytes(row: Row) -> str:
    return "-" if row["bytes_per_s"] is None else f"{row['bytes_per_s'] / 1e6:.1f}"


_RATES: Final = (
    Column("events/s", _number("events_per_s")),
    Column("MB/s", _megabytes, 1),
)
_TOTALS: Final = (Column("events", _number("events")), Column("bytes", _size("bytes"), 1))
_LATENCIES: Final = (
    Column("lag", _duration("lag_s"), 2),
    Column("p50", _duration("p50_s"), 4),
    Column("p99", _duration("p99_s"), 1),
)


def _tables(has_rates: bool) -> tuple[tuple[str, tuple[Column, ...]], ...]:
    flow = _RATES if has_rates else _TOTALS
    return (
        ("sources", (
            Column("source", _word("name"), 0, True), *flow,
            Column("in flight", _size("in_flight_bytes"), 3), *_LATENCIES,
            Column("resends", _number("resends"), 6), Column("state", _word("state"), 5),
            Column("node", _word("node"), 7),
        )),
        ("routers", (
            Column("router", _word("name"), 0, True),
            Column("batches/s", _number("batches_per_s"))
            if has_rates else Column("batches", _number("batches")),
            Column("held", _number("held_batches"), 3), Column("queue", _size("queued_bytes"), 2),
            Column("in flight", _size("in_flight_bytes"), 3), Column("lag", _duration("lag_s"), 1),
            Column("recoveries", _number("recoveries"), 5), Column("node", _word("node"), 7),
        )),
        ("sinks", (
            Column("sink", _word("name"), 0, True), *flow,
            Column("queue", _size("queued_bytes"), 3),
            Column("in flight", _size("in_flight_bytes"), 5),
            Column("spool", _size("spool_bytes"), 3), *_LATENCIES,
            Column("errors", _number("errors"), 2),
            Column("dropped", _number("dropped_events"), 6),
            Column("dead letters", _number("dead_letters"), 7),
            Column("lanes", _number("lanes"), 8), Column("state", _word("state"), 4),
        )),
        ("workspaces", (
            Column("workspace", _word("workspace"), 0, True), *flow,
            Column("in flight", _size("in_flight_bytes"), 3), *_LATENCIES,
            Column("lost", _number("lost_events"), 5),
        )),
    )  # fmt: skip


def drawn(found: Mapping[str, Any], width: int, height: int | None = None) -> Group:
    """The look as something that rich prints, no wider than `width` and no higher than `height`.

    Workspaces give way to a low screen, the least busy first.
    """
    from rich.console import Group
    from rich.text import Text

    lines: list[Text] = [_cut(line, width) for line in _heading(found)]
    left = None if height is None else height - len(lines)
    for key, columns in _tables(found["interval_s"] is not None):
        rows = found[key]
        if left is not None:
            rows = rows[: max(0, left - 2)]
            left -= len(rows) + 2 if rows else 0
        if rows:
            lines.append(Text())
            lines += _table(columns, rows, width)
    return Group(*lines)


def _heading(found: Mapping[str, Any]) -> Iterator[str]:
    parts = [f"pipeline {found['pipeline']}"]
    parts += [f"{found[what]} {what if found[what] != 1 else what[:-1]}" for what in _COUNTED]
    if found["interval_s"] is not None:
        parts.append(f"over {found['interval_s']:.1f} s")
    yield "   ".join(parts)
    if found["is_restarted"]:
        yield "! it was started anew since the last look"
    for name in found["silent"]:
        yield f"! {escaped(name)} does not answer"
    for text in found["problems"][:PROBLEMS_MAX]:
        yield f"! {escaped(text)}"
    if len(found["problems"]) > PROBLEMS_MAX:
        yield f"! and {len(found['problems']) - PROBLEMS_MAX} more; see status"


def _cut(line: str, width: int) -> Any:
    from rich.text import Text

    text = line if len(line) <= width else line[: max(0, width - 1)] + "…"
    return Text(text, style="bold red" if line.startswith("!") else "bold", no_wrap=True)


def _table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Iterator[Any]:
    from rich.text import Text

    shown = shown_columns(columns, rows, width)
    widths = [max(len(text) for text in (column.head, *cells)) for column, cells in shown]

    def line(cells: Sequence[str], style: str) -> Text:
        parts = [
            cell.ljust(wide) if column.is_left else cell.rjust(wide)
            for (column, _), wide, cell in zip(shown, widths, cells, strict=True)
        ]
        return Text((" " * GAP).join(parts)[:width].rstrip(), style=style, no_wrap=True)

    yield line([column.head for column, _ in shown], "dim")
    for place, row in enumerate(rows):
        is_bad = row.get("problem") or row.get("state") in ("retrying", "failed")
        yield line([cells[place] for _, cells in shown], "red" if is_bad else "")
