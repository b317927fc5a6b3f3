"""`cdp-sinks query`: SQL over a folder of Parquet files, by DuckDB.

Each stream that is there is a view: `events`, `logs`, `snapshots`, `metrics`, `traces`. What
the path of a file says stands in three columns more, `workspace`, `date` and `hour` (null
where a file holds a day); a condition on them is looked up in the names, so that no other
file is opened.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cdp_ray_sinks.cli.output import count_text, escaped, say, stderr_console, to_json
from cdp_ray_sinks.errors import ConfigError

if TYPE_CHECKING:
    import duckdb
    from rich.console import Console

STREAMS: Final = ("events", "logs", "snapshots", "metrics", "traces")
BATCH_ROWS: Final = 10_000
_GAP: Final = 3
_PLACE = r"/(\d+)/(\d{4}-\d\d-\d\d)/(?:(\d\d)/)?[^/]+$"


def query_files(path: Path, sql: str, limit: int, as_json: bool) -> int:
    """Run one statement and print its rows: a table, or one JSON object each.

    A table ends after `limit` rows and says so. Raises ConfigError for SQL that does not
    run, for a folder without Parquet files, and if DuckDB is not installed.
    """
    connection = _connect()
    streams = _add_views(connection, path)
    try:
        with stderr_console().status("running the query"):
            result = connection.sql(sql)
            if result is None:
                return 0
            reader = result.to_arrow_reader(BATCH_ROWS)
            rows = _rows(reader)
            shown = [] if as_json else list(islice(rows, limit))
        if as_json:
            _print_json(reader.schema.names, rows)
        else:
            _print_table(reader.schema.names, shown)
            if next(rows, None) is not None:
                say(f"the first {count_text(limit)} rows; --limit shows more, --json all of them")
    except _duckdb().Error as error:
        raise ConfigError(f"{error}\nthe tables here: {', '.join(streams)}") from None
    return 0


def _rows(reader: Any) -> Iterator[tuple[Any, ...]]:
    for batch in reader:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("query needs DuckDB: pip install 'cdp-ray-sinks[query]'") from None
    return duckdb


def _connect() -> duckdb.DuckDBPyConnection:
    connection: duckdb.DuckDBPyConnection = _duckdb().connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


def _add_views(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """A view for each stream; the names of those that are there."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    found = []
    for stream in STREAMS:
        files = _files_of(path, stream)
        if files is None:
            continue
        connection.execute(
            f"""CREATE VIEW {stream} AS SELECT * EXCLUDE (filename),
            TRY_CAST(regexp_extract(filename, '{_PLACE}', 1) AS BIGINT) AS workspace,
            TRY_CAST(regexp_extract(filename, '{_PLACE}', 2) AS DATE) AS date,
            TRY_CAST(regexp_extract(filename, '{_PLACE}', 3) AS INTEGER) AS hour
            FROM read_parquet({files}, filename = true, union_by_name = true)"""
        )
        found.append(stream)
    if not found:
        raise ConfigError(f"{path}: no Parquet files of events, logs, … are there")
    return found


def _files_of(path: Path, stream: str) -> str | None:
    """The SQL list of patterns that name a stream's files, None if there are none."""
    if path.is_file():
        name = path.name
        if name == f"{stream}.parquet" or name.startswith(f"{stream}-"):
            return f"[{_quoted(_literal(path.absolute()))}]"
        return None
    patterns = [
        f"{_literal(path.absolute())}/**/{name}"
        for name in (f"{stream}.parquet", f"{stream}-*.parquet")
        if next(path.rglob(name), None) is not None
    ]
    return f"[{', '.join(map(_quoted, patterns))}]" if patterns else None


def _literal(path: Path) -> str:
    """A path in which nothing is a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _print_json(names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    for row in rows:
        sys.stdout.write(to_json(dict(zip(names, map(_plain, row), strict=True))) + "\n")


def _plain(value: Any) -> Any:
    """What JSON can say: times in ISO 8601, bytes in base64, exact numbers as text."""
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | UUID | timedelta):
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
