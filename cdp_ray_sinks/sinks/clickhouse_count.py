"""Whether ClickHouse still has the rows that the sink was told are there.

What the tables hold is compared with what the sink's state directory says: rows per table,
because no column of the tables says whose a row is. Tables whose engine merges rows away are
left out, and where rows have a time to live fewer of them are no difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.commit_index import Commit, commit_ledger, parse_index
from cdp_ray_sinks.files.generation_file import Generation, parse_generation
from cdp_ray_sinks.files.generation_store import GENERATION_NAME, LEDGER_NAME
from cdp_ray_sinks.files.landed import Landed, Origin, TableCount, Wanted, found_in_ledger
from cdp_ray_sinks.files.landed_rows import (
    FILE_NAME,
    Added,
    LandedRows,
    RowCount,
    open_rows,
    parse_landed_rows,
)
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.sinks.clickhouse_client import Address, ClickHouseClient
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS

_KEEPS_ROWS: Final = ("MergeTree", "Distributed")
_TIME_TO_LIVE: Final = "its rows have a time to live, so fewer are no difference"
_MERGES_ROWS: Final = re.compile("Replacing|Summing|Aggregating|Collapsing|Graphite|Coalescing")


def count_landed(
    address: Address, directory: Path, wanted: Wanted, *, tables_are_shared: bool
) -> Landed:
    """What the state directory says has landed, and what the tables hold.

    Without an answer of the server, or of an engine that another process has, `unread` says so.
    Raises OSError.
    """
    landed = Landed(is_all_known=True)
    before = _known(directory)
    try:
        found = _asked(address)
    except (ClickHouseError, ConfigError) as error:
        found, landed.unread = {}, f"{address.url}: {error}"
    under_way = _open_generations(directory, landed)  # before what is finished: none is missed
    after, ledger = _known_and_ledger(directory, landed)
    for place, count in after.places.items():
        landed.add(Origin(b"", 0, place.workspace_id, place.hour), count)
    landed.kept_from_hour = after.kept_from_hour
    landed.found = found_in_ledger(ledger.snapshot(), wanted)
    for table, (rows, note) in found.items():
        more = None if tables_are_shared else under_way.get(table, 0)
        landed.tables.append(_table_count(table, rows, note, before, after, more))
    return landed


def counted_rows(client: ClickHouseClient) -> dict[str, int]:
    """The rows of the tables in which they can be counted. Raises ClickHouseError."""
    found = {table: _rows_of(client, table)[0] for table in SCHEMAS}
    return {table: rows for table, rows in found.items() if rows is not None}


def _asked(address: Address) -> dict[str, tuple[int | None, str]]:
    client = ClickHouseClient(address, {})
    client.open()
    try:
        return {table: _rows_of(client, table) for table in SCHEMAS}
    finally:
        client.close()


def _rows_of(client: ClickHouseClient, table: str) -> tuple[int | None, str]:
    described = client.query(
        "SELECT engine, engine_full FROM system.tables "
        "WHERE database = {database:String} AND name = {table:String}",
        {"database": client.address.database, "table": table},
    )
    if not described:
        return 0, "there is no such table"
    engine, full = described[0]
    if not engine.endswith(_KEEPS_ROWS) or _MERGES_ROWS.search(engine):
        return None, f"not counted: its engine, {engine}, keeps no row for each that was sent"
    rows = int(client.query(f"SELECT count() FROM {client.table_name(table)}")[0][0])
    return rows, _TIME_TO_LIVE if " TTL " in full else ""


def _table_count(
    table: str,
    rows: int | None,
    note: str,
    before: LandedRows,
    after: LandedRows,
    under_way: int | None,
) -> TableCount:
    """`under_way` rows may be there besides, None for any number."""
    old = 0 if after.before is None else after.before.get(table, 0)
    low = before.rows.get(table, RowCount()).landed
    high = after.rows.get(table, RowCount())
    if rows is not None and after.before is None:
        rows, note = None, "not counted: the sink has not looked at it yet"
    return TableCount(
        table,
        low=0 if note == _TIME_TO_LIVE else old + low,
        high=None if under_way is None else old + high.landed + high.unsure + under_way,
        found=rows,
        note=note,
    )


def _known(directory: Path) -> LandedRows:
    path = directory / FILE_NAME
    known, _ = parse_landed_rows(path.read_bytes() if path.exists() else b"")
    return known


def _open_generations(directory: Path, landed: Landed) -> Mapping[str, int]:
    """Rows per table of what is on its way; what ends meanwhile is counted as ended."""
    found: list[Generation] = []
    for path in directory.glob("generation-*"):
        if GENERATION_NAME.fullmatch(path.name) is None:
            continue
        try:
            generation, _ = parse_generation(memoryview(path.read_bytes()), str(path))
        except FileNotFoundError:
            continue
        except CorruptSegmentError as error:
            landed.problems.append(str(error))
            continue
        found.append(generation)
    return open_rows(found)


def _known_and_ledger(directory: Path, landed: Landed) -> tuple[LandedRows, Ledger]:
    """Both as of one moment: the ledger has a generation a little before it is counted."""
    while True:
        before = _known(directory)
        ledger, commits = _ledger(directory, landed)
        known = _known(directory)
        if before.numbers <= known.numbers:  # else the ledger was written anew meanwhile
            for commit in commits:
                known.add(Added.of(None, commit))
            return known, ledger


def _ledger(directory: Path, landed: Landed) -> tuple[Ledger, Sequence[Commit]]:
    path, ledger = directory / LEDGER_NAME, Ledger()
    if not path.exists():
        return ledger, []
    try:
        contents = parse_index(path.read_bytes(), str(path))
    except CorruptSegmentError as error:
        landed.problems.append(str(error))
        return ledger, []
    ledger.merge(contents.ledger)
    ledger.merge(commit_ledger(contents.commits))
    return ledger, contents.commits
