"""What is looked at before the first insert: tables, columns, how ids arrive, the dedup window."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse_client import FORMAT, ClickHouseClient, quoted
from cdp_ray_sinks.sinks.clickhouse_ddl import table_statements
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError, Cure
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, serialise

DEDUP_WINDOW: Final = 10_000
"""Inserts whose tokens a table of ours remembers."""
_TABLE_EXISTS: Final = 57
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\s*=\s*(\d+)")
_NOT_INSERTABLE: Final = {"MATERIALIZED", "ALIAS", "EPHEMERAL"}


@dataclass(frozen=True, slots=True)
class TableShapes:
    """What was found. `text_ids` are the id columns per table that must be sent as text;
    `notes` what somebody should know, a sentence each."""

    text_ids: Mapping[str, frozenset[str]]
    notes: Sequence[str]


def create_tables(client: ClickHouseClient) -> None:
    """Create the database and the six tables where they are not there, with a dedup window.

    Raises ConfigError if that is not allowed, ClickHouseError if it could not be tried.
    """
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS {quoted(client.address.database)}")
        for statement in table_statements():
            name = re.match(r"CREATE TABLE (\w+)", statement)
            assert name is not None
            placed = statement.replace(name[0], f"CREATE TABLE {client.table_name(name[1])}", 1)
            try:
                client.command(
                    f"{placed} SETTINGS non_replicated_deduplication_window = {DEDUP_WINDOW}"
                )
            except ClickHouseError as error:
                if error.code != _TABLE_EXISTS:
                    raise
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        raise ConfigError(f"create_tables: {error}") from None


def check_tables(client: ClickHouseClient) -> TableShapes:
    """Look at all that inserts rely on.

    Raises ConfigError that names every table and column that is missing, ClickHouseError if
    the server can't be asked.
    """
    takes_bytes = _takes_id_bytes(client)
    missing: list[str] = []
    notes: list[str] = []
    text_ids: dict[str, frozenset[str]] = {}
    for table, schema in SCHEMAS.items():
        columns = _columns(client, table, missing)
        if columns is None:
            continue
        lacking = [name for name in schema.names if name not in columns]
        if lacking:
            missing.append(f"{table} has no column {', '.join(lacking)}")
        ids = {name for name in schema.names if "UUID" in columns.get(name, "")}
        text_ids[table] = frozenset() if takes_bytes else frozenset(ids)
        note = _window_note(client, table)
        if note:
            notes.append(note)
    if missing:
        raise ConfigError(
            f"ClickHouse database {client.address.database!r}: {'; '.join(missing)} "
            "(`cdp-sinks ddl` prints what is needed, create_tables = true makes tables)"
        )
    return TableShapes(text_ids, notes)


def _takes_id_bytes(client: ClickHouseClient) -> bool:
    """Whether 16 bytes arrive in a UUID column as they are; servers before 26.3 differ."""
    probe = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    block = serialise(pa.record_batch({"id": pa.array([probe.bytes], pa.binary(16))}))
    sql = f"SELECT toString(id) FROM format('{FORMAT}', 'id UUID', unhex('{bytes(block).hex()}'))"
    try:
        return client.query(sql) == [(str(probe),)]
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        return False


def _columns(client: ClickHouseClient, table: str, missing: list[str]) -> dict[str, str] | None:
    """The columns that can be inserted into, with their types; None if there is no table."""
    try:
        rows = client.query(f"DESCRIBE TABLE {client.table_name(table)}")
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        missing.append(f"{table}: {error}")
        return None
    return {name: kind for name, kind, default, *_ in rows if default not in _NOT_INSERTABLE}


def _window_note(client: ClickHouseClient, table: str) -> str | None:
    """A sentence if an insert that is repeated may double rows in this table."""
    parameters = {"database": client.address.database, "table": table}
    try:
        found = client.query(
            "SELECT engine, engine_full FROM system.tables "
            "WHERE database = {database:String} AND name = {table:String}",
            parameters,
        )
        default = client.query(
            "SELECT value FROM system.merge_tree_settings "
            "WHERE name = 'non_replicated_deduplication_window'"
        )
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        return f"{table}: can't tell whether repeated inserts are recognised ({error})"
    engine, full = found[0] if found else ("unknown", "")
    if engine.startswith(("Replicated", "Shared")):
        return None
    if not engine.endswith("MergeTree"):
        return f"{table}: engine {engine} does not recognise repeated inserts: at least once"
    window = _WINDOW.search(full)
    if int(window[1] if window else (default[0][0] if default else 0)):
        return None
    return (
        f"{table}: repeated inserts are not recognised, rows land at least once; for once: "
        f"ALTER TABLE {client.table_name(table)} MODIFY SETTING "
        f"non_replicated_deduplication_window = {DEDUP_WINDOW}"
    )
