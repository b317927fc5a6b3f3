"""`cdp-sinks query`: SQL over Parquet files and what the rows look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_ray_sinks.bench.material import moved, synthetic_batches
from cdp_ray_sinks.cli.query import query_files
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.writers.parquet import ParquetFile


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workspaces and hours and one daily file, under a path that SQL and globs read badly."""
    base = tmp_path_factory.mktemp("it's [a] *place?")
    batches = synthetic_batches(100, "tell", 100)
    for workspace_id, place in [(1, "13"), (1, "14"), (2, "13"), (3, "")]:
        folder = base / str(workspace_id) / "2026-11-22" / place
        folder.mkdir(parents=True)
        for name in ("events", "events-1") if place == "14" else ("events",):
            file = ParquetFile(folder / f"{name}.parquet", "events", workspace_id)
            file.add(moved(batches, workspace_id))
            file.finish({})
    return base


def rows(capsys: pytest.CaptureFixture[str], path: Path, sql: str) -> list[dict[str, object]]:
    assert query_files(path, sql, 1000, as_json=True) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_path_gives_workspace_date_and_hour(
    capsys: pytest.CaptureFixture[str], warehouse: Path
) -> None:
    """A daily file has no hour; all files of a stream are one table."""
    sql = "SELECT workspace, date, hour, count(*) AS n FROM events GROUP BY ALL ORDER BY ALL"
    assert [tuple(row.values()) for row in rows(capsys, warehouse, sql)] == [
        (1, "2026-11-22", 13, 100),
        (1, "2026-11-22", 14, 200),
        (2, "2026-11-22", 13, 100),
        (3, "2026-11-22", None, 100),
    ]


def test_a_condition_on_the_path_opens_no_other_file(
    capsys: pytest.CaptureFixture[str], warehouse: Path
) -> None:
    """The files that can't match are left out by their names."""
    sql = "EXPLAIN ANALYZE SELECT min(timestamp) FROM events WHERE workspace = 2 AND hour = 13"
    (plan,) = rows(capsys, warehouse, sql)
    assert "Total Files Read: 1" in str(plan)


def test_a_file_is_a_table_too(capsys: pytest.CaptureFixture[str], warehouse: Path) -> None:
    """One file, or one workspace's folder."""
    one = warehouse / "1/2026-11-22/14/events-1.parquet"
    assert rows(capsys, one, "SELECT count(*) AS n FROM events") == [{"n": 100}]
    assert rows(capsys, warehouse / "2", "SELECT count(*) AS n FROM events") == [{"n": 100}]


def test_json_says_every_type(capsys: pytest.CaptureFixture[str], warehouse: Path) -> None:
    """Times in ISO 8601, ids hyphenated, bytes in base64, exact numbers as text."""
    sql = """SELECT make_timestamptz(1767225600123000) AS t, device_id, 'x'::BLOB AS b,
        1.50::DECIMAL(4,2) AS d, {'a': [1, 2]} AS s, true AS yes, NULL AS none, 'nan'::DOUBLE AS f
        FROM events LIMIT 1"""
    (row,) = rows(capsys, warehouse, sql)
    assert len(str(row.pop("device_id"))) == 36
    assert row == {
        "t": "2026-01-01T00:00:00.123000Z", "b": "eA==", "d": "1.50", "s": {"a": [1, 2]},
        "yes": True, "none": None, "f": "NaN",
    }  # fmt: skip


def test_a_table_ends_at_its_limit_and_says_so(
    capsys: pytest.CaptureFixture[str], warehouse: Path
) -> None:
    """Nothing is cut where nobody looks at a terminal; control characters are escaped."""
    sql = "SELECT payload, 'a' || chr(27) || 'b' AS odd, 7 AS n, 8 AS n FROM events"
    assert query_files(warehouse, sql, 3, as_json=False) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["payload", "odd", "n", "n"]
    assert len(lines) == 5
    assert all("a\\x1bb" in line and line.split()[-2:] == ["7", "8"] for line in lines[2:])
    assert "the first 3 rows" in err


def test_a_limit_that_fits_says_nothing(
    capsys: pytest.CaptureFixture[str], warehouse: Path
) -> None:
    """No row is left out, so nothing is to be said."""
    assert query_files(warehouse, "SELECT 1 AS one", 1, as_json=False) == 0
    out, err = capsys.readouterr()
    assert out.split()[::2] == ["one", "1"]
    assert not err


@pytest.mark.parametrize(
    ("sql", "says"),
    [("SELEC 1", "syntax error"), ("SELECT * FROM logs", "the tables here: events")],
)
def test_sql_that_does_not_run_is_told(warehouse: Path, sql: str, says: str) -> None:
    """With what there is to ask."""
    with pytest.raises(ConfigError, match=says):
        query_files(warehouse, sql, 10, as_json=False)


def test_a_folder_without_files_is_told(tmp_path: Path) -> None:
    """Neither is a typing error taken for an empty answer."""
    with pytest.raises(ConfigError, match="no Parquet files"):
        query_files(tmp_path, "SELECT 1", 10, as_json=False)
    with pytest.raises(ConfigError, match="no such file"):
        query_files(tmp_path / "away", "SELECT 1", 10, as_json=False)
