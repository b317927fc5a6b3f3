"""The SQL that makes the tables, read from the files in `clickhouse_sql/`.

`tables.sql` has the six tables. A profile is a file beside it: a table that it creates takes
the place of the one of that name, and everything else in it comes behind the tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.validation import did_you_mean

PROFILES: Final = (
    "dedup",
    "codecs",
    "ttl",
    "indexes",
    "views",
    "order_by_event",
    "order_by_device",
    "replicated",
)

_CREATED: Final = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
_NAMED: Final = re.compile(
    r"\b((?:CREATE|ALTER) TABLE|CREATE VIEW|FROM|AS|currentDatabase\(\),) (\w+)"
)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def table_statements(profiles: Sequence[str] = (), database: str | None = None) -> list[str]:
    """The statements that make the tables, in order, without `;`.

    Without a profile these are six CREATE TABLE. With a database all names are qualified with
    it, and it is created first. Raises ConfigError for an unknown profile, for two that create
    the same table, and for a database whose name is no plain word.
    """
    return [_without_comments(part) for part in _parts(profiles, database)]


def ddl_text(profiles: Sequence[str] = (), database: str | None = None) -> str:
    """The same statements as a script to read, with the comments of the files."""
    return "\n\n".join(f"{part};" for part in _parts(profiles, database)) + "\n"


def profile_purpose(profile: str) -> str:
    """What a profile is for: the first line of its file."""
    return _read(profile).partition("\n")[0].removeprefix("-- ")


def _parts(profiles: Sequence[str], database: str | None) -> list[str]:
    """Statements, each with the comments that stand before it."""
    made = {_created(part): part for part in _split(_read("tables"))}
    replaced: dict[str | None, str] = {}
    others: list[str] = []
    for profile in dict.fromkeys(profiles):
        if profile not in PROFILES:
            raise ConfigError(f"profile {profile!r} is not known{did_you_mean(profile, PROFILES)}")
        for part in _split(_read(profile)):
            table = _created(part)
            if table not in made:
                others.append(part)
                continue
            if table in replaced:
                raise ConfigError(f"profiles {replaced[table]} and {profile} both create {table}")
            replaced[table] = profile
            made[table] = part
    parts = [*made.values(), *others]
    return parts if database is None else _placed(parts, database)


def _placed(parts: Sequence[str], database: str) -> list[str]:
    if not _PLAIN_NAME.fullmatch(database):
        raise ConfigError(f"database {database!r}: letters, digits and underscores only")

    def qualified(found: re.Match[str]) -> str:
        if found[1].startswith("currentDatabase"):
            return f"'{database}', {found[2]}"
        is_name = found[1] != "AS" or found[2] != "SELECT"
        return f"{found[1]} {database}.{found[2]}" if is_name else found[0]

    everywhere = " ON CLUSTER '{cluster}'" if any("ON CLUSTER" in part for part in parts) else ""
    return [
        f"CREATE DATABASE IF NOT EXISTS {database}{everywhere}",
        *(_NAMED.sub(qualified, part) for part in parts),
    ]


def _read(name: str) -> str:
    folder = resources.files("cdp_ray_sinks.sinks") / "clickhouse_sql"
    return (folder / f"{name}.sql").read_text(encoding="utf-8")


def _split(text: str) -> list[str]:
    # Only statements end a line with a semicolon; comments have them inside.
    return [part.strip() for part in text.split(";\n") if part.strip()]


def _created(part: str) -> str | None:
    found = _CREATED.search(part)
    return found[1] if found else None


def _without_comments(part: str) -> str:
    return "\n".join(line for line in part.split("\n") if not line.startswith("--"))
