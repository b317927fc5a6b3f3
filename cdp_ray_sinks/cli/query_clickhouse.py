"""`cdp-sinks query chdb://FOLDER`: SQL in an embedded ClickHouse, or on a server over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from pydantic import SecretStr

from cdp_ray_sinks.cli.output import stderr_console
from cdp_ray_sinks.cli.query_output import print_rows
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig
from cdp_ray_sinks.sinks.clickhouse_client import EMBEDDED, check_engine

SCHEMES: Final = (EMBEDDED, "http://", "https://")
USER, PASSWORD = "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"  # names of environment variables


def query_clickhouse(url: str, sql: str, limit: int, as_json: bool) -> int:
    """Run one statement in the database `cdp`, or the one that the URL names.

    A server takes user and password from CLICKHOUSE_USER and CLICKHOUSE_PASSWORD. Raises
    ConfigError for SQL that does not run and for an engine that can't be opened, such as an
    embedded one that a running pipeline has open.
    """
    try:
        config = ClickHouseConfig(
            url=url,
            username=os.environ.get(USER, "default"),
            password=SecretStr(os.environ.get(PASSWORD, "")),
        )
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from None
    address = config.address()
    if address.is_embedded:
        check_engine()
        folder = Path(address.url.removeprefix(EMBEDDED))
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder")
    options: dict[str, Any] = {**address.client_options(), "database": address.database}
    try:
        with stderr_console().status("running the query"):
            client = clickhouse_connect.get_client(autogenerate_session_id=False, **options)
            result = client.query(sql)
    except ClickHouseError as error:
        raise ConfigError(_reason(error, address.is_embedded)) from None
    rows = [tuple(row) for row in result.result_rows]
    print_rows(result.column_names, rows[:limit], iter(rows[limit:]), as_json)
    client.close()
    return 0


def _reason(error: Exception, is_embedded: bool) -> str:
    """The engine's own words, without its stack."""
    text = str(error).strip().splitlines()[0]
    if is_embedded and "EmbeddedServer" in text:
        return "a process has that folder open; ask when its pipeline has ended"
    return text
