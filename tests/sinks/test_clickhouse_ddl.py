"""The tables are those that were asked for, word for word, and the engine takes every profile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.cli.main import app
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.clickhouse_check import DEDUP_WINDOW
from cdp_ray_sinks.sinks.clickhouse_ddl import (
    PROFILES,
    ddl_text,
    profile_purpose,
    table_statements,
)
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import (
    MONTH_COLUMNS,
    SCHEMAS,
    serialise,
    split_by_month,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "clickhouse_tables.sql"
UNTESTED = {"replicated"}
COMBINED = [
    [],
    *[[profile] for profile in PROFILES if profile not in UNTESTED],
    ["order_by_event", "codecs", "dedup", "ttl", "indexes", "views"],
    ["views", "indexes", "ttl", "dedup", "codecs", "order_by_device"],
]
TIMES_MS = [1_767_225_600_000, 4_291_747_200_000, 2**63 - 1]
"""2026, 2106 and beyond every calendar: a time to live must not take the later two for old."""


def printed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["ddl", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_tables_are_word_for_word() -> None:
    """What the command prints without options is the golden file, byte for byte."""
    assert printed() == GOLDEN.read_text()
    assert ddl_text() == GOLDEN.read_text()


def test_rows_have_the_columns_of_the_tables() -> None:
    """The same names, in the same order, and months where a table is partitioned by them."""
    found = {}
    for statement in table_statements():
        name = re.match(r"CREATE TABLE (\w+) \(", statement)
        assert name
        found[name[1]] = re.findall(r"^    (\w+) ", statement, re.MULTILINE)
        month = re.search(r"PARTITION BY toYYYYMM\((\w+)\)", statement)
        assert (month[1] if month else None) == MONTH_COLUMNS.get(name[1])
    assert found == {table: schema.names for table, schema in SCHEMAS.items()}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_says_what_it_is_for(profile: str) -> None:
    """Its first line is a sentence, which the list shows; one without a test says so."""
    assert re.fullmatch(r"[A-Z].{20,110}[.:]", profile_purpose(profile))
    assert profile_purpose(profile) in printed("--list")
    assert ("UNTESTED" in profile_purpose(profile)) == (profile in UNTESTED)
    text = printed("--profile", profile)
    statements = table_statements([profile])
    assert text.count(";\n") == len(statements)
    assert len(re.findall(r"^(?:CREATE|ALTER) ", text, re.MULTILINE)) == len(statements)
    assert all(re.match(r"CREATE |ALTER ", statement) for statement in statements)
    tables = [re.findall(r"CREATE TABLE (\w+)", made)[0] for made in statements[:6]]
    assert sorted(tables) == sorted(SCHEMAS)


def test_the_window_is_that_of_tables_that_the_sink_makes() -> None:
    """All six, and as long."""
    alters = table_statements(["dedup"])[6:]
    ending = f"MODIFY SETTING non_replicated_deduplication_window = {DEDUP_WINDOW}"
    assert sorted(alters) == sorted(f"ALTER TABLE {table} {ending}" for table in SCHEMAS)


def test_profiles_that_do_not_fit_together_are_refused() -> None:
    """Two ways of making one table: neither is silently left out."""
    with pytest.raises(ConfigError, match="order_by_event and order_by_device both create events"):
        table_statements(["order_by_event", "order_by_device"])
    assert table_statements(["dedup", "dedup"]) == table_statements(["dedup"])
    output = printed("--profile", "order_by_device", "--profile", "replicated", code=2)
    assert "both create events_v1" in output


def test_wrong_names_are_refused() -> None:
    """An unknown profile names the nearest; a database is a plain word."""
    assert "did you mean 'codecs'?" in printed("--profile", "codec", code=2)
    for name in ("a b", "x;DROP", "1a", "", "`q`", "ü"):
        with pytest.raises(ConfigError, match="letters, digits and underscores"):
            table_statements(database=name)


def test_json_has_one_text_for_each_statement() -> None:
    """Without comments and semicolons, ready to be sent one by one."""
    found = json.loads(printed("--json", "--profile", "ttl"))
    assert found == {"statements": table_statements(["ttl"])}
    assert not any(";" in text or "--" in text for text in found["statements"])
    assert json.loads(printed("--json", "--list"))["profiles"].keys() == set(PROFILES)


def test_a_database_stands_before_every_name() -> None:
    """In tables, views and what they read from; and it is created first."""
    statements = table_statements(["views", "ttl", "replicated"], "shop")
    assert statements[0] == "CREATE DATABASE IF NOT EXISTS shop ON CLUSTER '{cluster}'"
    assert table_statements(database="shop")[0] == "CREATE DATABASE IF NOT EXISTS shop"
    text = "\n".join(statements)
    names = r"\b(?:CREATE TABLE|ALTER TABLE|CREATE VIEW|FROM|AS) (\S+)"
    assert {name.split(".")[0] for name in re.findall(names, text)} == {"shop"}
    assert "Distributed('{cluster}', 'shop', events_v1, " in text
    assert "currentDatabase" not in text


def blocks(folder: Path) -> dict[str, tuple[list[Path], int]]:
    """Files to insert, and how many rows, for each table: some of every kind and time."""
    count = 100 * len(TIMES_MS)
    times = pa.array(TIMES_MS * 100, pa.int64())
    ids = pa.array([bytes([1 + n % 7]) * 16 for n in range(count)], pa.binary(16))
    made = []
    for kind, payload in ((1, "{}"), (2, '{"email":"u%d","a":1}'), (6, '{"locale":"zh-Hant-TW"}')):
        payloads = pa.array([payload % n if "%" in payload else payload for n in range(count)])
        names = pa.array([f"name {n % 5}" for n in range(count)])
        kinds = pa.array([kind] * count, pa.uint8())
        events = encode_events(kinds, times, ids, ids, names, None, payloads, events_per_message=50)
        made.append((1, events))
    sources = pa.array(["host"] * count)
    entries = encode_logs(
        kinds, None, times, ids, sources, sources, payloads, events_per_message=50
    )
    made.append((2, entries))
    batches = []
    for schema, (records, offsets) in made:
        messages = len(offsets) - 1
        header = BatchHeader(
            NO_PRODUCER, 0, 0, schema, 0, 1, "test", 0, messages, count, len(records), 0
        )
        batches.append(Batch(header, records, offsets))
    found: dict[str, tuple[list[Path], int]] = {}
    for table, rows in RowMaker().rows_of(batches).tables.items():
        paths = []
        for place, month in enumerate(split_by_month(rows)):
            paths.append(folder / f"{table}-{place}.arrow")
            paths[-1].write_bytes(serialise(month.rows))
        found[table] = (paths, rows.rows.num_rows)
    assert set(found) == set(SCHEMAS)
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the engine says to each of COMBINED, in a database each, with rows in every table."""
    folder = tmp_path_factory.mktemp("engine")
    files = blocks(folder)
    scripts = []
    for place, profiles in enumerate(COMBINED):
        database = f"db{place}"
        script = table_statements(profiles, database)
        for table, (paths, _) in files.items():
            columns = ", ".join(SCHEMAS[table].names)
            script += [
                f"INSERT INTO {database}.{table} ({columns}) FROM INFILE '{path}' "
                "FORMAT ArrowStream"
                for path in paths
            ]
            script.append(f"OPTIMIZE TABLE {database}.{table} FINAL")
        script += [f"SELECT count() FROM {database}.{table}" for table in files]
        scripts.append(script)
    untested = [
        "SELECT formatQuery('" + statement.replace("\\", "\\\\").replace("'", "\\'") + "')"
        for statement in table_statements(sorted(UNTESTED), "db")
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("embedded_engine.py"))],
        input=json.dumps({"folder": str(folder / "data"), "scripts": [*scripts, untested]}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("place", range(len(COMBINED)), ids=lambda place: "+".join(COMBINED[place]))
def test_the_engine_takes_the_tables_and_their_rows(answers: list[Any], place: int) -> None:
    """Each profile alone and all together: tables are made, rows go in, none goes missing."""
    answer = answers[place]
    assert not isinstance(answer[-1], dict), answer[-1]
    counts = [int(rows[0][0]) for rows in answer[-len(SCHEMAS) :]]
    # Users are replaced by their key, of which there are as many as e-mail addresses.
    assert counts == [300] * len(SCHEMAS)


def test_the_untested_profile_is_at_least_sql(answers: list[Any]) -> None:
    """The engine's parser takes each of its statements."""
    answer = answers[-1]
    assert not isinstance(answer[-1], dict), answer[-1]
    assert len(answer) == 13
