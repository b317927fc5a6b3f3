"""Whether ClickHouse still has the rows that the sink was told are there.

What the tables hold is compared with what the sink's state directory says: rows per table,
because no column of the tables says whose a row is, and of all lanes together. Tables whose
engine merges rows away are left out, and where rows have a time to live fewer of them are no
difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
from cdp_ray_sinks.files.lane_folders import lane_folders
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
    """What the state directories of all lanes say has landed, and what the tables hold.

    `directory` is the first lane's. Without an answer of the server, or of an engine that
    another process has, `unread` says so. Raises OSError.
    """
    landed = Landed(is_all_known=True)
    before = {lane: _known(lane) for lane in lane_folders(directory)}
    try:
        found = _asked(address)
    except (ClickHouseError, ConfigError) as error:
        found, landed.unread = {}, f"{address.url}: {error}"
    lanes = lane_folders(directory)
    generations = [one for lane in lanes for one in _open_generations(lane, landed)]
    under_way = open_rows(generations)  # read before what is finished: none is missed
    after = {}
    for lane in lanes:
        after[lane], ledger = _known_and_ledger(lane, landed)
        for place, count in after[lane].places.items():
            landed.add(Origin(b"", 0, place.workspace_id, place.hour), count)
        landed.found |= found_in_ledger(ledger.snapshot(), wanted)
    hours = [known.kept_from_hour for known in after.values() if known.kept_from_hour is not None]
    landed.kept_from_hour = max(hours, default=None)
    for table, (rows, note) in found.items():
        more = None if tables_are_shared else under_way.get(table, 0)
        told = list(before.values()), list(after.values())
        landed.tables.append(_table_count(table, rows, note, *told, more))
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
    before: Sequence[LandedRows],
    after: Sequence[LandedRows],
    under_way: int | None,
) -> TableCount:
    """Lanes as they were before and after the rows were counted; `under_way` rows may be there
    besides, None for any number."""
    old = _rows_of_nobody(table, after)
    if rows is not None and old is None:
        rows, note = None, "not counted: the sink has not looked at it yet"
    low = (old or 0) + sum(known.rows.get(table, RowCount()).landed for known in before)
    high: int | None = None
    if under_way is not None:
        counts = [known.rows.get(table, RowCount()) for known in after]
        high = (old or 0) + under_way + sum(count.landed + count.unsure for count in counts)
    return TableCount(table, 0 if note == _TIME_TO_LIVE else low, high, rows, note)


def _rows_of_nobody(table: str, lanes: Sequence[LandedRows]) -> int | None:
    """The rows that no lane has sent, None while one that has sent some did not look.

    A lane that opens later takes rows of the others for such: the first one saw the fewest.
    """
    looked = [known.before for known in lanes if known.before is not None]
    if not looked or any(known.before is None and known.rows for known in lanes):
        return None
    return min(known.get(table, 0) for known in looked)


def _known(directory: Path) -> LandedRows:
    path = directory / FILE_NAME
    known, _ = parse_landed_rows(path.read_bytes() if path.exists() else b"")
    return known


def _open_generations(directory: Path, landed: Landed) -> Sequence[Generation]:
    """What is on its way; what ends meanwhile is counted as ended."""
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
    return found


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
