"""The one place that speaks to ClickHouse: a server over HTTP, or the engine inside the process.

Both go through the official client library. It would send an insert of its own accord again
when a connection breaks; a `pa.Buffer` as the body keeps it from that, because retrying, with
the token that tells a second insert from the first, is done by who calls this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import Error

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError, Cure, clickhouse_error

FORMAT: Final = "ArrowStream"
EMBEDDED: Final = "chdb://"
_OWN_SETTINGS: Final[Mapping[str, Any]] = {
    "async_insert": 0,  # since 26.3 on by default; our blocks are large, and have tokens
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",
}

# What the library has to say about each failed request is in the errors it raises.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Address:
    """Where ClickHouse is: a directory for the embedded engine, or a server."""

    url: str
    database: str
    username: str = "default"
    password: str = field(default="", repr=False)
    verify: bool = True
    ca_cert: str | None = None
    connect_timeout_s: int = 10
    insert_timeout_s: int = 60

    @property
    def is_embedded(self) -> bool:
        """Whether the engine runs inside this process."""
        return self.url.startswith(EMBEDDED)

    def client_options(self) -> dict[str, Any]:
        """What the client library calls it."""
        if self.is_embedded:
            return {"interface": "chdb", "path": self.url.removeprefix(EMBEDDED)}
        parts = urlsplit(self.url)
        return {
            "interface": parts.scheme,
            "host": parts.hostname,
            "port": parts.port or (8443 if parts.scheme == "https" else 8123),
            "username": self.username,
            "password": self.password,
            "verify": self.verify,
            "ca_cert": self.ca_cert,
            "connect_timeout": self.connect_timeout_s,
            "send_receive_timeout": self.insert_timeout_s,
            "compress": False,
            "query_retries": 0,
        }


class ClickHouseClient:
    """A connected client; its methods may be called by several threads.

    Each of them raises ClickHouseError. `open` first.
    """

    def __init__(self, address: Address, settings: Mapping[str, Any]) -> None:
        self.address = address
        self._settings = dict(settings)
        self._insert_settings: dict[str, Any] = {}
        self._client: Any = None
        self.version = ""
        self.time_zone = "UTC"

    def open(self) -> None:
        """Connect. Raises ConfigError without the chdb package, or for an unknown setting."""
        if self.address.is_embedded:
            check_engine()
        try:
            self._client = clickhouse_connect.get_client(
                autogenerate_session_id=False, **self.address.client_options()
            )
        except Error as error:
            raise clickhouse_error(error) from None
        known = self._client.server_settings
        unknown = [name for name in self._settings if name not in known]
        if unknown:
            raise ConfigError(f"settings: ClickHouse has no setting {unknown[0]!r}")
        if known["insert_deduplication_token"].readonly:
            raise ConfigError(
                f"user {self.address.username!r} may not change settings (readonly), as each "
                "insert has to"
            )
        own = {name: value for name, value in _OWN_SETTINGS.items() if name in known}
        self._insert_settings = {**self._settings, **own}
        self.version = str(self._client.server_version)
        self.time_zone = str(self.query("SELECT timezone()")[0][0])

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Sequence[Any]]:
        """The rows of a query without a database of its own."""
        try:
            rows: list[Sequence[Any]] = self._client.query(sql, parameters=parameters).result_rows
        except Error as error:
            raise clickhouse_error(error) from None
        return rows

    def command(self, sql: str) -> None:
        """Do what a statement says."""
        try:
            self._client.command(sql)
        except Error as error:
            raise clickhouse_error(error) from None

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        block: pa.Buffer,
        token: str,
        settings: Mapping[str, Any] | None = None,
        block_format: str = FORMAT,
    ) -> None:
        """Insert one block; on return its rows are there, or were already.

        Rows under a token that the table has seen are left out by the server.
        """
        every = {**self._insert_settings, "insert_deduplication_token": token, **(settings or {})}
        try:
            self._client.raw_insert(
                self.table_name(table), list(columns), block, settings=every, fmt=block_format
            )
        except Error as error:
            raise clickhouse_error(error) from None
        except OSError as error:  # the embedded engine takes the block from a file
            raise ClickHouseError(str(error), None, Cure.WAIT, False) from error

    def table_name(self, table: str) -> str:
        """A table with its database, quoted."""
        return f"{quoted(self.address.database)}.{quoted(table)}"

    def close(self) -> None:
        """Let go of connections or engine. Safe to call twice."""
        if self._client is not None:
            self._client.close()
            self._client = None


def quoted(name: str) -> str:
    """A name as SQL takes any name."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def check_url(url: str) -> None:
    """Raise ValueError unless it is one that `Address` takes."""
    if url.startswith(EMBEDDED):
        if not url.removeprefix(EMBEDDED).strip("/"):
            raise ValueError("write chdb:///absolute/path or chdb://relative/path")
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write http://host:port, https://host:port or chdb:///path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("user and password have keys of their own")
    if parts.query or parts.fragment or "/" in unquote(parts.path.strip("/")):
        raise ValueError("only a database may follow the port")
    try:
        port = parts.port
    except ValueError:  # its text shows what stands there, which may be half of a password
        raise ValueError("the port is not a number up to 65535") from None
    if port == 0:
        raise ValueError("port 0 is none to connect to")


def check_engine() -> None:
    """Raise ConfigError if the embedded engine is not installed."""
    try:
        import chdb  # noqa: F401 - large, and only for those who embed it
    except ImportError as error:
        raise ConfigError(
            f"the embedded ClickHouse is not installed: pip install 'cdp-ray-sinks[chdb]' ({error})"
        ) from None
