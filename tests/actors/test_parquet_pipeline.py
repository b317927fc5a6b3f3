"""The parquet sink behind actors: lanes, drains, dead letters, with a journal and without."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_events, numbers_in_tables
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

Make = Callable[..., PipelineConfig]


def chains_of(pipeline: Pipeline) -> int:
    """How many chain actors run."""
    return sum(actor["kind"] == "chain" for actor in pipeline.status()["actors"])


@pytest.mark.parametrize("journal", ["commit", "off"])
def test_two_chains_share_the_workspaces_and_publish_all_by_the_end(
    make_config: Make, tmp_path: Path, journal: str
) -> None:
    """After the drain each number is in a file, none in the journal."""
    warehouse = {"type": "parquet", "path": tmp_path / "w", "journal": journal,
                 "publish_age_s_max": 1}  # fmt: skip
    config = make_config(sinks={"tables": warehouse}, delivery={"max_chain_actors": 2})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(numbered_events(n, 1 + n % 5, messages=20)) for n in range(60)]
        for ticket in tickets:
            assert ticket.result(60) == {"tables": "durable"}
        assert chains_of(pipeline) == 2
    assert sorted(numbers_in_tables(tmp_path / "w")) == sorted([*range(60)] * 20)
    assert {int(path.name) for path in (tmp_path / "w").glob("[0-9]*")} == {1, 2, 3, 4, 5}
    assert not any(path.stat().st_size for path in (tmp_path / "w/.journal").rglob("*.bin"))
    assert verify_warehouse(tmp_path / "w").ok


def test_without_a_journal_more_than_may_be_held_goes_through_at_once(
    make_config: Make, tmp_path: Path
) -> None:
    """Nobody waits for the age of what is held when nothing more can come because of it."""
    warehouse = {"type": "parquet", "path": tmp_path / "w", "journal": "off",
                 "publish_age_s_max": 300}  # fmt: skip
    delivery = {"window_bytes": 4 * 1024 * 1024, "window_batches": 100}
    config = make_config(sinks={"tables": warehouse}, delivery=delivery)
    began = time.monotonic()
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for n in range(100):
            producer.submit(numbered_events(n, 1 + n % 2, 10_000, messages=20))
    assert time.monotonic() - began < 200
    assert sorted(numbers_in_tables(tmp_path / "w")) == sorted([*range(100)] * 20)


def test_messages_that_do_not_decode_are_dead_letters(
    make_config: Make, maker: Any, tmp_path: Path
) -> None:
    """The rest of their batch lands; a batch of nothing else is a dead letter as a whole."""
    good = maker.message(filler=b'{"n":3}')
    config = make_config(sinks={"tables": {"type": "parquet", "path": tmp_path / "w"}})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        part = producer.submit(maker.batch([good, b"not a message at all", good]))
        whole = producer.submit(maker.batch([b"nor is this one"]))
        assert part.result(60) == {"tables": "durable"}
        assert whole.result(60) == {"tables": "dead_lettered"}
    assert numbers_in_tables(tmp_path / "w") == [3, 3]
    (letters,) = (tmp_path / "state").rglob("dead_letters")
    assert verify(letters / "tables").messages == 2
