"""Options of the clickhouse sink: what is taken, what is refused, what nobody gets to see."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placeholders import resolved
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.clickhouse import ClickHouseConfig
from cdp_ray_sinks.sinks.registry import load_config


@pytest.mark.parametrize(
    ("url", "database", "place"),
    [
        ("http://ch:8123", "cdp", {"interface": "http", "host": "ch", "port": 8123}),
        ("http://ch:8123/logs", "logs", {"host": "ch", "port": 8123}),
        ("https://ch.example.com/", "cdp", {"interface": "https", "port": 8443}),
        ("http://[::1]:9000/x", "x", {"host": "::1", "port": 9000}),
        ("chdb:///data/ch", "cdp", {"interface": "chdb", "path": "/data/ch"}),
    ],
)
def test_a_url_names_a_server_or_a_directory(
    url: str, database: str, place: dict[str, Any]
) -> None:
    """The database may follow the port; without it there is an option."""
    address = ClickHouseConfig(url=url).address()
    assert address.database == database
    assert address.client_options().items() >= place.items()


def test_a_relative_directory_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with every path of a configuration."""
    monkeypatch.chdir(tmp_path)
    assert ClickHouseConfig(url="chdb://rows/here").url == f"chdb://{tmp_path}/rows/here"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "clickhouse://h:9000"}, "write http"),
        ({"url": "http://"}, "write http"),
        ({"url": "chdb://"}, "write chdb"),
        ({"url": "http://me:secret@h:8123"}, "keys of their own"),
        ({"url": "http://h:8123/a/b"}, "only a database"),
        ({"url": "http://h:8123?x=1"}, "only a database"),
        ({"url": "http://h:port"}, "url"),
        ({"rows_per_insert": 0}, "rows_per_insert"),
        ({"retry_attempts": 0}, "retry_attempts"),
        ({"compression": "zstd"}, "compression"),
        ({"databse": "x"}, "databse"),
    ],
)
def test_what_can_not_work_is_refused_by_name(options: dict[str, Any], text: str) -> None:
    """Key, value and what is allowed."""
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_config("clickhouse", options)


def test_a_password_is_seen_by_nobody() -> None:
    """Neither in what is printed nor in an error, and a placeholder travels as written."""
    plain = ClickHouseConfig(password="pa55word")
    assert "pa55word" not in repr(plain)
    assert "pa55word" not in repr(plain.address())
    assert "pa55word" not in plain.model_dump_json()
    with pytest.raises(ConfigError) as caught:
        load_config("clickhouse", {"password": "pa55word", "url": "x://y"})
    assert "pa55word" not in str(caught.value)

    written = ClickHouseConfig(password="${CH_PASSWORD}", url="http://${CH_HOST}:8123")
    assert b"pa55word" not in pickle.dumps(written)
    found = resolved(written, {"CH_PASSWORD": "pa55word", "CH_HOST": "ch"}, "sinks.rows")
    assert found.address().password == "pa55word"
    assert found.address().client_options()["host"] == "ch"
    assert "pa55word" not in repr(found)
    with pytest.raises(ConfigError, match="no variable CH_PASSWORD"):
        resolved(written, {"CH_HOST": "ch"}, "sinks.rows")


def test_what_is_probably_not_meant_is_told() -> None:
    """By `validate`: a password in the file, small inserts, schemas that have no table."""
    sinks = {
        "rows": {"type": "clickhouse", "password": "x", "rows_per_insert": 1000},
        "good": {"type": "clickhouse", "password": "${X}", "url": "https://h:8443"},
        "open": {"type": "clickhouse", "url": "https://h:8443", "verify": False},
        "nothing": {"type": "null"},
    }
    rules = [
        {"match": {"schema": ["metric", "trace"]}, "sinks": ["good", "nothing"]},
        {"match": {"schema": ["metric", "log"]}, "sinks": ["good"]},
    ]
    config = PipelineConfig(sinks=sinks, routing={"default": ["rows", "open"], "rules": rules})
    told = config.warnings()
    assert told.pop(3).startswith("sinks.rows.password: a secret that is written out")
    assert told == [
        "sinks.rows.url = 'http://localhost:8123': the password goes over the network in clear",
        "sinks.rows.rows_per_insert = 1000: many small inserts are what ClickHouse is slowest at",
        "sinks.open.verify = false: whoever is on the way may say that it is the server",
        "routing.rules[0].sinks: 'good' keeps only event, log; nothing of this",
    ]


def test_it_needs_a_place_to_remember() -> None:
    """Without a state directory nothing would be once."""
    with pytest.raises(ConfigError, match="'rows' needs a state directory"):
        ClickHouseConfig().build(SinkContext("rows"))
