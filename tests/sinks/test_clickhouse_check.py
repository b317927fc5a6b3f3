"""What does not fit is told at the start: tables, columns, types, how ids arrive."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse_check import check_tables
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError, Cure


def retype(lab: Any, column: str, kind: str) -> None:
    """Make a table anew with another type in one column."""
    table, name = column.split(".")
    lab.sink().close()
    (statement,) = lab.query(f"SHOW CREATE TABLE {{db}}.{table}")[0]
    lab.command(f"DROP TABLE {{db}}.{table} SYNC")
    lab.command(re.sub(rf"(?m)^ *`{name}` .*?(,?)$", rf"`{name}` {kind}\1", statement))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("events_v1.properties", "Map(String, String)"),
        ("users_v1.email", "Array(String)"),
        ("user_traits.trait_value", "Enum8('a, `b`' = 1)"),
        ("context_v1.source_ip", "FixedString(15)"),
    ],
)
def test_a_type_that_does_not_take_what_is_sent(lab: Any, column: str, kind: str) -> None:
    """It is named, with the server's reason, before a row has been sent."""
    retype(lab, column, kind)
    with pytest.raises(ConfigError, match=r"does not take what is sent \(Code: ") as caught:
        lab.sink(create_tables=False)
    assert f"{column} is {kind}, which" in str(caught.value)
    assert str(caught.value).count("does not take") == 1


@pytest.mark.parametrize(
    ("column", "kind"),
    [("context_v1.locale", "FixedString(4)"), ("logs_v1.level", "Enum8('ERROR' = 3)")],
)
def test_a_narrow_type_is_told_where_clients_choose(lab: Any, column: str, kind: str) -> None:
    """They may never send what it refuses, so the start goes on."""
    retype(lab, column, kind)
    sink = lab.sink(create_tables=False)
    (note,) = sink.notes
    assert note.startswith(f"{column} is {kind}, which does not take what is sent (Code: ")
    sink.write(lab.logs(["an error, which it takes"]))
    sink.flush()
    assert lab.query("SELECT level FROM {db}.logs_v1") == [("ERROR",)]


class Denied:
    """A server that lets its user ask for tables and no more."""

    def __init__(self, client: Any, version: str) -> None:
        self._client = client
        self.version = version

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, sql: str, parameters: Any = None) -> Any:
        """Refuse table functions as the server does without CREATE TEMPORARY TABLE."""
        if " FROM format(" in sql:
            raise ClickHouseError("Code: 497", 497, Cure.CONFIGURE, False)
        return self._client.query(sql, parameters)


@pytest.mark.parametrize(("version", "is_text"), [("26.9.2.1", False), ("25.8.1.3", True)])
def test_who_may_not_ask_goes_by_the_version(lab: Any, version: str, is_text: bool) -> None:
    """How ids arrive differs before 26.3."""
    client: Any = Denied(lab.sink()._client, version)
    shapes = check_tables(client)
    assert shapes.notes == []
    ids = frozenset({"device_id", "session_id"}) if is_text else frozenset()
    assert shapes.text_ids["events_v1"] == ids


def test_a_user_id_may_be_a_uuid(lab: Any) -> None:
    """Our text is one; what fits is nobody's business."""
    lab.sink().close()
    lab.command("DROP TABLE {db}.users_v1 SYNC")
    lab.command(
        "CREATE TABLE {db}.users_v1 (user_id UUID, email String, name Nullable(String), "
        "updated_at DateTime64(6, 'Europe/Paris')) ENGINE = ReplacingMergeTree ORDER BY user_id "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    sink = lab.sink(create_tables=False)
    assert sink.notes == []
    sink.write(lab.batch([{"email": "a@b.co"}], types=2))
    sink.flush()
    asked = "SELECT user_id, toUnixTimestamp64Milli(updated_at) FROM {db}.users_v1"
    assert lab.query(asked) == [(uuid.uuid5(uuid.NAMESPACE_DNS, "a@b.co"), lab.start_ms)]
