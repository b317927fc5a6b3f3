"""Blocks of rows: cut by month, turned into bytes, and back."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.writers.clickhouse_tables import (
    MONTH_COLUMNS,
    SCHEMAS,
    TIME_MS_MAX,
    TableRows,
    deserialise,
    serialise,
    split_by_month,
)

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
VALUES: dict[pa.DataType, Any] = {
    pa.binary(16): b"\x01" * 16,
    pa.binary(): b"{}",
    pa.utf8(): "text",
    pa.uint64(): None,
}


def rows_at(table: str, times: list[int]) -> TableRows:
    """Rows of `table` at those times; their order is told by the first text, or the source."""
    count = len(times)
    columns = []
    for field in SCHEMAS[table]:
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(times, pa.int64()).cast(field.type))
        elif pa.types.is_dictionary(field.type):
            words = pa.array([f"word {place % 7}" for place in range(count)], pa.utf8())
            columns.append(words.dictionary_encode())
        else:
            columns.append(pa.array([VALUES[field.type]] * count, field.type))
    rows = pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[table])
    places = np.arange(count, dtype=np.uint32)
    return TableRows(table, rows, places // 10, places, places + 5)


def month_of(time: int, zone: str = "UTC") -> tuple[int, int]:
    local = (EPOCH + datetime.timedelta(milliseconds=time)).astimezone(ZoneInfo(zone))
    return local.year, local.month


def month_start(year: int, month: int) -> int:
    start = datetime.datetime(year, month, 1, tzinfo=datetime.UTC)
    return (start - EPOCH) // datetime.timedelta(milliseconds=1)


@pytest.mark.parametrize("table", SCHEMAS)
@given(
    times=st.lists(st.integers(0, TIME_MS_MAX) | st.integers(0, 10**10), max_size=30),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati"]),
)
def test_months_are_apart_and_all_rows_there(table: str, times: list[int], zone: str) -> None:
    """Each part has one month of that zone, parts rise, rows keep order, places go along."""
    parts = split_by_month(rows_at(table, times), zone)
    column = MONTH_COLUMNS.get(table)
    if column is None:
        assert [part.rows.num_rows for part in parts] == ([len(times)] if times else [])
        return
    seen = []
    for part in parts:
        part.rows.validate(full=True)
        assert part.rows.schema == SCHEMAS[table]
        found = part.rows[column].cast(pa.int64()).to_pylist()
        assert found == [times[place] for place in part.messages.tolist()]
        assert part.messages.tolist() == sorted(part.messages.tolist())
        assert (part.batches == part.messages // 10).all()
        assert (part.entries == part.messages + 5).all()
        (month,) = {month_of(time, zone) for time in found}
        seen.append(month)
    assert seen == sorted(set(seen))
    assert sum(part.rows.num_rows for part in parts) == len(times)


def test_the_first_and_the_last_moment_of_a_month() -> None:
    """A month ends with its last millisecond, also that of a leap year's February."""
    for year, month in [(1970, 2), (2024, 3), (2100, 3), (2106, 3), (2299, 12)]:
        start = month_start(year, month)
        parts = split_by_month(rows_at("logs_v1", [start, start - 1, start + 1]))
        assert [part.messages.tolist() for part in parts] == [[1], [0, 2]]


def test_an_unknown_zone_is_taken_for_utc() -> None:
    """A server may be in a zone that this machine has never heard of."""
    times = [month_start(2026, 5) - 1, month_start(2026, 5)]
    for zone in ("Mars/Olympus", "", "Etc/UTC"):
        parts = split_by_month(rows_at("events_v1", times), zone)
        assert [part.messages.tolist() for part in parts] == [[0], [1]]
    assert len(split_by_month(rows_at("events_v1", times), "Asia/Tokyo")) == 1


def test_two_hundred_months_in_any_order() -> None:
    """As many parts, and each takes only its own words along."""
    months = [(2000 + n // 12, 1 + n % 12) for n in range(200)]
    times = [month_start(*month) for month in months] * 3
    rows = rows_at("events_v1", times)
    many = pa.array([f"a name of some length, number {n}" for n in range(600)]).dictionary_encode()
    columns = [many if name == "event_name" else rows.rows[name] for name in rows.rows.schema.names]
    batch = pa.RecordBatch.from_arrays(columns, schema=rows.rows.schema)
    order = np.random.default_rng(5).permutation(600)
    shuffled = replace(rows, rows=batch).take(order)
    parts = split_by_month(shuffled)
    assert len(parts) == 200
    assert {part.rows.num_rows for part in parts} == {3}
    for part in parts:
        names = [f"a name of some length, number {place}" for place in part.messages.tolist()]
        assert part.rows["event_name"].to_pylist() == names
        assert len(part.rows["event_name"].dictionary) == 3


def test_rows_of_one_month_are_not_copied() -> None:
    """The usual case costs a look at the times."""
    rows = rows_at("events_v1", [5, 7, 6])
    assert split_by_month(rows) == [rows]
    assert split_by_month(rows)[0].rows is rows.rows


@pytest.mark.parametrize("table", SCHEMAS)
@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_bytes_and_back(table: str, compression: Any) -> None:
    """Rows come back as they were, and the same rows are always the same bytes."""
    rows = rows_at(table, list(range(1000))).slice(13, 500)
    block = serialise(rows.rows, compression)
    assert isinstance(block, pa.Buffer)
    again = replace(rows, rows=deserialise(block))
    again.rows.validate(full=True)
    assert again.rows.equals(rows.rows)
    assert serialise(rows.rows, compression).equals(block)
    assert serialise(again.rows, compression).equals(block)
    copied = pa.RecordBatch.from_pylist(rows.rows.to_pylist(), schema=rows.rows.schema)
    assert deserialise(serialise(copied, compression)).to_pylist() == rows.rows.to_pylist()


def test_halves_are_halves() -> None:
    """A block cut in two is two blocks of the same rows, and their places with them."""
    rows = rows_at("context_v1", list(range(101)))
    first, second = rows.slice(0, 50), rows.slice(50)
    assert (first.rows.num_rows, second.rows.num_rows) == (50, 51)
    assert first.messages.tolist() + second.messages.tolist() == list(range(101))
    blocks = [deserialise(serialise(part.rows)) for part in (first, second)]
    assert pa.Table.from_batches(blocks).to_batches()[0].schema == SCHEMAS["context_v1"]
    assert [row for block in blocks for row in block.to_pylist()] == rows.rows.to_pylist()


def test_no_rows_are_a_block_too() -> None:
    """A block without rows is valid bytes; a split has none."""
    rows = rows_at("logs_v1", [])
    assert deserialise(serialise(rows.rows)).num_rows == 0
    assert split_by_month(rows) == []
