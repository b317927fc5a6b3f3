"""`cdp-sinks query`: SQL over a folder of Parquet files, by DuckDB.

Each stream that is there is a view: `events`, `logs`, `snapshots`, `metrics`, `traces`. What
the path of a file says stands in three columns more, `workspace`, `date` and `hour` (null
where a file holds a day); a condition on them is looked up in the names, so that no other
file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cdp_ray_sinks.cli.output import stderr_console
from cdp_ray_sinks.cli.query_output import print_rows
from cdp_ray_sinks.errors import ConfigError

if TYPE_CHECKING:
    import duckdb

STREAMS: Final = ("events", "logs", "snapshots", "metrics", "traces")
BATCH_ROWS: Final = 10_000
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
        print_rows(reader.schema.names, shown, rows, as_json)
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
