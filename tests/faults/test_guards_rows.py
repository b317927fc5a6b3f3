"""What each guard of rows in ClickHouse is for: without it, the same fault doubles rows.

| fault | guard | taken out | then |
| --- | --- | --- | --- |
| an answer is lost | an insert's token is the same each time | it is another | twice |
| SIGKILL after the insert | a generation is on the disk before it is sent | it is not | twice |
| SIGKILL after the ledger | the ledger knows what is there | it knows nothing | twice |
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.generation_file import Generation
from cdp_ray_sinks.files.generation_store import GenerationStore
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.sinks.clickhouse import ClickHouseSink
from cdp_ray_sinks.sinks.clickhouse_client import ClickHouseClient

ROWS = 1000


def write_new(sink: ClickHouseSink, batches: list[Batch]) -> None:
    """As a lane does: what the ledger has is not written."""
    for batch in batches:
        h = batch.header
        if not sink.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum):
            sink.write(batch)


def broken(lab: Any, expected: int) -> set[str]:
    rows, numbers = lab.landed()
    assert numbers == expected
    lab.command("TRUNCATE TABLE {db}.events_v1")
    return {"twice"} if rows > numbers else set()


def test_the_same_insert_has_the_same_token(guards: Any, lab: Any) -> None:
    """The server has the rows, and its answer never comes."""

    def scenario(place: Path) -> set[str]:
        proxy = lab.proxy()
        lost = iter(["lose"])
        proxy.on_request = lambda head: next(lost, "pass") if b"INSERT" in head else "pass"
        sink = lab.sink(place.name, url=proxy.url)
        sink.write(lab.numbered(0, ROWS))
        assert lab.flush(sink)
        sink.close()
        return broken(lab, ROWS)

    insert = ClickHouseClient.insert

    def ever_new(client: Any, table: str, columns: Any, block: Any, token: str) -> None:
        insert(client, table, columns, block, f"{token}-{uuid.uuid4()}")

    guards.show(
        scenario, lambda patch: patch.setattr(ClickHouseClient, "insert", ever_new), "twice"
    )


def test_a_generation_is_on_the_disk_before_it_is_sent(guards: Any, lab: Any) -> None:
    """The process is killed when the rows are there; its successor groups batches otherwise."""

    def scenario(place: Path) -> set[str]:
        proxy = lab.proxy()
        proxy.on_request = lambda head: "lose" if b"INSERT" in head else "pass"
        batches = [lab.numbered(start, ROWS) for start in (0, ROWS, 2 * ROWS)]
        killed = lab.sink(f"{place.name}-killed", url=proxy.url)
        write_new(killed, batches[:2])
        with pytest.raises(TransientError):
            killed.flush()
        left = lab.folder / f"{place.name}-left"
        shutil.copytree(lab.folder / f"{place.name}-killed", left)
        successor = lab.sink(left.name)
        write_new(successor, batches)
        lab.flush(successor)
        successor.close()
        return broken(lab, 3 * ROWS)

    def only_in_memory(store: GenerationStore, generation: Generation) -> None:
        store._open[generation.number] = -1

    guards.show(
        scenario, lambda patch: patch.setattr(GenerationStore, "add", only_in_memory), "twice"
    )


def test_the_ledger_knows_the_batches_that_are_there(guards: Any, lab: Any) -> None:
    """The process is killed when it has answered, the answer is lost, and all comes again."""

    def scenario(place: Path) -> set[str]:
        batches = [lab.numbered(start, ROWS) for start in (0, ROWS)]
        for count in (1, 2):
            sink = lab.sink(place.name)
            write_new(sink, batches[:count])
            lab.flush(sink)
            sink.close()
        return broken(lab, 2 * ROWS)

    guards.show(scenario, lambda patch: patch.setattr(Ledger, "has", lambda *of: False), "twice")
