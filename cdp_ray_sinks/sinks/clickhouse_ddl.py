"""The SQL that makes the tables, read from `clickhouse_sql/`."""

from __future__ import annotations

from importlib import resources


def table_statements() -> list[str]:
    """One CREATE TABLE for each of the six tables, without a database and without `;`."""
    folder = resources.files("cdp_ray_sinks.sinks") / "clickhouse_sql"
    text = (folder / "tables.sql").read_text(encoding="utf-8")
    return [statement.strip() for statement in text.split(";") if statement.strip()]
