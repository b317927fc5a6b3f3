"""What is looked at before the first insert: tables, columns, how ids arrive, the dedup window."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse_client import FORMAT, ClickHouseClient, quoted
from cdp_ray_sinks.sinks.clickhouse_ddl import table_statements
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError, Cure
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, TIME, serialise

DEDUP_WINDOW: Final = 10_000
"""Inserts whose tokens a table of ours remembers."""
_TABLE_EXISTS: Final = 57
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\s*=\s*(\d+)")
_NOT_INSERTABLE: Final = {"MATERIALIZED", "ALIAS", "EPHEMERAL"}
_ACCESS_DENIED: Final = 497
_ID_BYTES_SINCE: Final = (26, 3)
"""The version from which on 16 bytes of Arrow are a UUID."""
_USUAL_TEXTS: Final = {
    "user_id": "1fc6d52a-760d-5acb-8859-a11cb4ba8517",
    "level": "INFO",
    "locale": "en-US",
}
_USUAL_NUMBER: Final = 1_767_225_600_000
_CHOSEN_BY_CLIENTS: Final = {"level", "locale"}
"""Columns of which clients may send no value that a narrower type refuses."""


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

    Raises ConfigError that names every table and column that is missing or of a type that does
    not take what is sent, ClickHouseError if the server can't be asked.
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
        sent = [name for name in schema.names if name in columns and name not in text_ids[table]]
        for name, why in _refused_columns(client, schema, {n: columns[n] for n in sent}).items():
            what = f"{table}.{name} is {columns[name]}, which does not take what is sent ({why})"
            (notes if name in _CHOSEN_BY_CLIENTS else missing).append(what)
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
    row = pa.record_batch({"id": pa.array([probe.bytes], pa.binary(16))})
    try:
        return client.query(f"SELECT toString(id) FROM {_as_read(row, ['UUID'])}") == [
            (str(probe),)
        ]
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        return error.code == _ACCESS_DENIED and _version_of(client) >= _ID_BYTES_SINCE


def _version_of(client: ClickHouseClient) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", client.version)[:2])


def _as_read(row: pa.RecordBatch, kinds: Sequence[str]) -> str:
    """A table function that reads a row as columns of those types, as an insert would."""
    structure = ", ".join(
        f"{quoted(name)} {kind}" for name, kind in zip(row.schema.names, kinds, strict=True)
    )
    escaped = structure.replace("\\", "\\\\").replace("'", "\\'")
    return f"format('{FORMAT}', '{escaped}', unhex('{bytes(serialise(row)).hex()}'))"


def _refused_columns(
    client: ClickHouseClient, schema: pa.Schema, columns: Mapping[str, str]
) -> dict[str, str]:
    """The columns whose types do not take a usual value, each with the server's words.

    None for a user who may not ask; what is refused then is told by the first insert.
    """
    row = pa.record_batch({name: _usual(schema.field(name)) for name in columns})
    if not columns or _refusal(client, row, list(columns.values())) is None:
        return {}
    alone = {name: _refusal(client, row.select([name]), [columns[name]]) for name in columns}
    return {name: why for name, why in alone.items() if why is not None}


def _refusal(client: ClickHouseClient, row: pa.RecordBatch, kinds: Sequence[str]) -> str | None:
    try:
        client.query(f"SELECT ignore(*) FROM {_as_read(row, kinds)}")
    except ClickHouseError as error:
        if error.cure is Cure.WAIT:
            raise
        return None if error.code == _ACCESS_DENIED else str(error)
    return None


def _usual(field: pa.Field) -> pa.Array:
    """One value such as a column is sent."""
    if field.type == pa.binary(ID_BYTES):
        return pa.array([uuid.UUID(_USUAL_TEXTS["user_id"]).bytes], field.type)
    if field.type == pa.binary():
        return pa.array([b"{}"], field.type)
    if field.type in (TIME, pa.uint64()):
        return pa.array([_USUAL_NUMBER], field.type)
    return pa.array([_USUAL_TEXTS.get(field.name, "usual")]).cast(field.type)


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
