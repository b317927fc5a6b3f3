"""Rows cut into inserts: months, tokens, halves, ids as text; and what error numbers mean."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.files.generation_file import WHOLE_MESSAGE
from cdp_ray_sinks.sinks import clickhouse_errors
from cdp_ray_sinks.sinks.clickhouse_blocks import BlockMaker, Filling, id_texts, token_of
from cdp_ray_sinks.sinks.clickhouse_errors import Cure, cure_of
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import deserialise

IDENTITY = bytes(range(16))
DAY_MS = 86_400_000


def maker(rows_per_insert: int = 100_000, **text_ids: frozenset[str]) -> BlockMaker:
    return BlockMaker(
        RowMaker(),
        rows_per_insert=rows_per_insert,
        compression="none",
        time_zone="UTC",
        text_ids=text_ids,
    )


def filled(*batches: Any) -> Filling:
    filling = Filling()
    for batch in batches:
        filling.add(batch, 0, 0)
    return filling


def months_of(block: Any) -> set[str]:
    times = deserialise(pa.py_buffer(block.payload))["timestamp"].to_pylist()
    return {time.strftime("%Y%m") for time in times}


def test_an_insert_has_rows_of_one_month_and_so_many_at_most(lab: Any) -> None:
    """Each block knows for each of its rows where it comes from."""
    times = [lab.start_ms + 31 * DAY_MS * (place % 3) for place in range(3000)]
    batch = lab.batch([{"n": n} for n in range(3000)], times=times, per_message=10)
    made, _ = maker(400).generation(filled(batch), 7, IDENTITY)
    assert [block.row_count for block in made.blocks] == [400, 400, 200] * 3
    assert all(len(months_of(block)) == 1 and block.has_one_partition for block in made.blocks)
    assert sorted(np.concatenate([b.entries for b in made.blocks]).tolist()) == list(range(3000))
    assert all((b.messages == b.entries // 10).all() for b in made.blocks)
    assert len({block.token for block in made.blocks}) == len(made.blocks)
    assert [block.number for block in made.blocks] == list(range(9))


def test_very_many_months_share_inserts(lab: Any) -> None:
    """Fewer than the server takes in one, and each month in one of them only."""
    times = [lab.start_ms + 31 * DAY_MS * (place % 130) for place in range(650)]
    batch = lab.batch([{"n": n} for n in range(650)], times=times)
    made, _ = maker(220).generation(filled(batch), 7, IDENTITY)
    found = [months_of(block) for block in made.blocks]
    assert sum(map(len, found)) == len(set().union(*found))
    assert max(map(len, found)) <= 50
    assert len(found) < 10
    assert all(block.row_count <= 220 for block in made.blocks)
    assert not any(block.has_one_partition for block in made.blocks)


def test_the_same_batches_make_the_same_bytes(lab: Any) -> None:
    """And another token in another generation, sink or table."""
    batches = [lab.numbered(0, 100), lab.logs(["x"])]
    one, _ = maker().generation(filled(*batches), 7, IDENTITY)
    two, _ = maker().generation(filled(*batches), 7, IDENTITY)
    assert [b.token for b in one.blocks] == [b.token for b in two.blocks]
    assert [bytes(b.payload) for b in one.blocks] == [bytes(b.payload) for b in two.blocks]
    tokens = {
        token_of(identity, table, generation, number, payload)
        for identity in (IDENTITY, bytes(16))
        for table in ("events_v1", "logs_v1")
        for generation in (7, 8)
        for number in (0, 1)
        for payload in (b"a", b"b")
    }
    assert len(tokens) == 32


def test_halves_are_the_block(lab: Any) -> None:
    """Row by row, with where each comes from, under tokens of their own."""
    made, _ = maker().generation(filled(lab.numbered(0, 101, per_message=5)), 7, IDENTITY)
    (block,) = made.blocks
    first, second = maker().halves(made, block, IDENTITY)
    assert (first.row_count, second.row_count) == (50, 51)
    rows = [deserialise(pa.py_buffer(part.payload)) for part in (first, second)]
    whole = deserialise(pa.py_buffer(block.payload))
    assert pa.Table.from_batches(rows).to_pylist() == whole.to_pylist()
    assert [*first.entries, *second.entries] == block.entries.tolist()
    assert len({block.token, first.token, second.token}) == 3
    assert {first.number, second.number} == {1, 2}


def test_messages_that_make_no_row_are_refused_from_the_beginning(lab: Any) -> None:
    """By place; without any row there is no block."""
    batch = lab.batch([{"user_id": "x"}, {"email": "a@b"}], types=2)
    made, _ = maker().generation(filled(lab.numbered(0, 1), batch), 7, IDENTITY)
    assert [(r.batch, r.message, r.entry) for r in made.refusals] == [(1, 0, 0)]
    nothing, counts = maker().generation(filled(lab.batch([{}], types=3)), 8, IDENTITY)
    assert (nothing.blocks, nothing.refusals) == ([], [])
    assert counts.left_out == {"group": 1}
    assert WHOLE_MESSAGE not in {refusal.entry for refusal in made.refusals}


def test_ids_as_text() -> None:
    """Hyphenated, lower case, whatever part of a column they are."""
    ids = [uuid.UUID(int=n * 0x0123456789ABCDEF0123456789AB) for n in range(20)]
    column = pa.array([one.bytes for one in ids], pa.binary(16))
    assert id_texts(column).to_pylist() == [str(one) for one in ids]
    assert id_texts(column.slice(3, 5)).to_pylist() == [str(one) for one in ids[3:8]]
    assert id_texts(column.slice(0, 0)).to_pylist() == []


def test_error_numbers_are_what_they_are_called(lab: Any) -> None:
    """The names beside the numbers are the server's own."""
    source = Path(clickhouse_errors.__file__).read_text(encoding="utf-8")
    named = re.findall(r"^    (\d+),  # ([A-Z0-9_]+)$", source, re.MULTILINE)
    assert len(named) > 80
    codes = ", ".join(code for code, _ in named)
    rows = lab.query(
        f"SELECT c, errorCodeToName(c) FROM (SELECT arrayJoin([{codes}])::UInt32 AS c)"
    )
    assert [(str(code), name) for code, name in rows] == named


@pytest.mark.parametrize(
    ("code", "text", "cure"),
    [
        (252, "Too many parts (3)", Cure.WAIT),
        (252, "Too many partitions for single INSERT block (more than 100)", Cure.FEWER_PARTITIONS),
        (241, "memory", Cure.FEWER_ROWS),
        (469, "constraint", Cure.OTHER_ROWS),
        (60, "no table", Cure.CONFIGURE),
        (99_999, "news", Cure.UNKNOWN),
    ],
)
def test_what_helps_against_an_error(code: int, text: str, cure: Cure) -> None:
    """By number; one number needs its text."""
    assert cure_of(code, text) is cure
