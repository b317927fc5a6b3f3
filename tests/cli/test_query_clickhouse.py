"""`cdp-sinks query chdb://…`: SQL in an embedded ClickHouse, each time in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILL = """
import clickhouse_connect
client = clickhouse_connect.get_client(interface="chdb", path="house")
client.command("CREATE DATABASE cdp")
client.command("CREATE TABLE cdp.events_v1 (n UInt64, id UUID, at DateTime64(3)) ORDER BY n")
client.command(
    "INSERT INTO cdp.events_v1 SELECT number, '00112233-4455-6677-8899-aabbccddeeff',"
    " '2026-01-02 03:04:05.678' FROM numbers(5)"
)
client.close()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `house` is an embedded ClickHouse with a table."""
    made = tmp_path_factory.mktemp("embedded")
    subprocess.run([sys.executable, "-c", FILL], cwd=made, check=True, timeout=120)
    return made


def query(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", "query", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip


def test_rows_come_as_objects_of_json(folder: Path) -> None:
    """Ids hyphenated, times in ISO 8601; the database need not be named."""
    done = query(folder, "chdb://house", "SELECT * FROM events_v1 ORDER BY n LIMIT 2", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["n"] for row in rows] == [0, 1]
    assert rows[0]["id"] == "00112233-4455-6677-8899-aabbccddeeff"
    assert rows[0]["at"].startswith("2026-01-02T03:04:05.678")


def test_a_table_ends_at_its_limit(folder: Path) -> None:
    """And says that there is more."""
    done = query(folder, "chdb://house", "SELECT n FROM events_v1 ORDER BY n", "--limit", "3")
    assert done.stdout.split()[2:] == ["0", "1", "2"]
    assert "the first 3 rows" in done.stderr


@pytest.mark.parametrize(
    ("place", "sql", "says"),
    [
        ("chdb://house", "SELECT * FROM nope", "nope"),
        ("chdb://away", "SELECT 1", "no such folder"),
        ("http://127.0.0.1:1", "SELECT 1", "127.0.0.1"),
        ("http://user:secret@127.0.0.1:1", "SELECT 1", "keys of their own"),
    ],
)
def test_what_does_not_work_is_told_in_a_line(
    folder: Path, place: str, sql: str, says: str
) -> None:
    """With exit code 2, no stack, and nothing made."""
    done = query(folder, place, sql)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "away").exists()
