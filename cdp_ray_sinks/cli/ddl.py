"""`cdp-sinks ddl`: the SQL of ClickHouse's tables."""

from __future__ import annotations

from collections.abc import Sequence

from cdp_ray_sinks.cli.output import print_json
from cdp_ray_sinks.sinks.clickhouse_ddl import (
    PROFILES,
    ddl_text,
    profile_purpose,
    table_statements,
)


def print_ddl(profiles: Sequence[str], database: str | None, as_json: bool) -> int:
    """Print the statements, as a script or as a list."""
    if as_json:
        print_json({"statements": table_statements(profiles, database)})
    else:
        print(ddl_text(profiles, database), end="")
    return 0


def list_profiles(as_json: bool) -> int:
    """Print the names of the profiles, and what each is for."""
    purposes = {name: profile_purpose(name) for name in PROFILES}
    if as_json:
        print_json({"profiles": purposes})
    else:
        width = max(map(len, PROFILES))
        for name, purpose in purposes.items():
            print(f"{name:<{width}}  {purpose}")
    return 0
