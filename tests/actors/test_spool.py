"""A sink with a spool: its trouble is nobody else's, and nothing is lost or doubled by it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_batch

Make = Callable[..., PipelineConfig]
WORKSPACE = 7


def spooling(make_config: Make, base: Path, **options: Any) -> PipelineConfig:
    sink = {"type": "disk_binary", "path": str(base), "on_full": "spool", "spool_after_ms": 300}
    return make_config(sinks={"archive": {**sink, **options}, "other": {"type": "null"}})


def block(base: Path) -> Path:
    """Let the workspace's folder be impossible: a file has its name."""
    base.mkdir(parents=True, exist_ok=True)
    place = base / str(WORKSPACE)
    place.write_text("in the way")
    return place


def sequences(base: Path) -> list[int]:
    """What the archive holds, in its order."""
    damage: list[object] = []
    found = [batch.header.sequence for _, batch in read_batches([base], damage.append)]
    assert damage == []
    return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.05)


def gate(pipeline: Pipeline) -> dict[str, Any]:
    """What the router says of the sink's spool."""
    reports = pipeline.status()["reports"]
    (router,) = [report for name, report in reports.items() if name.endswith("/router")]
    return dict(router["sinks"]["archive"]["spool"])


def test_what_a_sink_does_not_take_is_spooled_and_lands_later_in_order(
    make_config: Make, tmp_path: Path
) -> None:
    """Tickets are done while the sink is down; when it is back all of it is there, once."""
    base = tmp_path / "archive"
    place = block(base)
    with Pipeline(spooling(make_config, base)) as pipeline:
        producer = pipeline.producer("test")
        tickets = [producer.submit(numbered_batch(n, WORKSPACE)) for n in range(40)]
        results = [ticket.result(120) for ticket in tickets]
        assert results == [{"archive": "spooled", "other": "durable"}] * 40
        assert gate(pipeline)["state"] == "spooling"
        place.unlink()
        wait_for(lambda: gate(pipeline)["state"] == "direct")
        last = producer.submit(numbered_batch(40, WORKSPACE)).result(120)
        assert last["archive"] == "durable"
    assert sequences(base) == list(range(41))


def test_what_is_left_in_a_spool_goes_on_with_the_next_run(
    make_config: Make, tmp_path: Path
) -> None:
    """The first run ends well, says what waits, and the second one delivers it first."""
    base = tmp_path / "archive"
    place = block(base)
    config = spooling(make_config, base)
    said: list[str] = []
    with Pipeline(config, said.append) as pipeline:
        producer = pipeline.producer("test")
        for number in range(10):
            producer.submit(numbered_batch(number, WORKSPACE))
    assert any("10 batches" in text and "stay in its spool" in text for text in said), said
    assert pipeline.summary()["sinks"]["archive"]["left_in_spool"] == 10
    place.unlink()
    with Pipeline(config) as again:
        more = again.producer("more", epoch=2)
        for number in range(10, 15):
            more.submit(numbered_batch(number, WORKSPACE))
    assert len(sequences(base)) == 15
    assert sequences(base)[:10] == list(range(10))


def test_what_does_not_fit_the_deadline_of_a_drain_is_spooled(
    make_config: Make, tmp_path: Path
) -> None:
    """However long it would be waited for otherwise; the report says how much that is."""
    base = tmp_path / "archive"
    block(base)
    config = spooling(make_config, base, spool_after_ms=3_600_000)
    said: list[str] = []
    pipeline = Pipeline(config, said.append)
    pipeline.start()
    producer = pipeline.producer("test")
    tickets = [producer.submit(numbered_batch(n, WORKSPACE)) for n in range(10)]
    pipeline.drain(10)
    pipeline.stop()
    assert [ticket.result(0)["archive"] for ticket in tickets] == ["spooled"] * 10
    assert any("10 batches" in text and "stay in its spool" in text for text in said), said
    assert pipeline.summary()["sinks"]["archive"]["left_in_spool"] == 10


def test_a_frozen_chain_holds_up_nobody_and_doubles_nothing(
    make_config: Make, tmp_path: Path
) -> None:
    """SIGSTOP: no answer ever comes, so what was sent to it is spooled as well."""
    base = tmp_path / "archive"
    with Pipeline(spooling(make_config, base)) as pipeline:
        producer = pipeline.producer("test")
        assert producer.submit(numbered_batch(0, WORKSPACE)).result(120)["archive"] == "durable"
        actors = pipeline.status()["actors"]
        (chain,) = [actor["pid"] for actor in actors if actor["kind"] == "chain"]
        os.kill(chain, signal.SIGSTOP)
        try:
            tickets = [producer.submit(numbered_batch(n, WORKSPACE)) for n in range(1, 20)]
            assert {t.result(120)["archive"] for t in tickets} == {"spooled"}
        finally:
            os.kill(chain, signal.SIGCONT)
        wait_for(lambda: gate(pipeline)["state"] == "direct")
    assert sequences(base) == list(range(20))


def test_a_killed_spool_goes_on_where_it_was(make_config: Make, tmp_path: Path) -> None:
    """SIGKILL of the spool's actor, with batches in it and the sink still down."""
    base = tmp_path / "archive"
    place = block(base)
    with Pipeline(spooling(make_config, base)) as pipeline:
        producer = pipeline.producer("test")
        tickets = [producer.submit(numbered_batch(n, WORKSPACE)) for n in range(10)]
        assert {ticket.result(120)["archive"] for ticket in tickets} == {"spooled"}
        actors = pipeline.status()["actors"]
        (spool,) = [actor["pid"] for actor in actors if actor["kind"] == "spool"]
        os.kill(spool, signal.SIGKILL)
        tickets = [producer.submit(numbered_batch(n, WORKSPACE)) for n in range(10, 20)]
        assert {ticket.result(30)["archive"] for ticket in tickets} == {"spooled"}
        place.unlink()
        wait_for(lambda: gate(pipeline)["state"] == "direct")
    assert sequences(base) == list(range(20))
