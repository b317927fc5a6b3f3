"""The audit of real runs: clean whatever was killed, and exact about what is taken away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.audit import audit_pipeline
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.delivery.audit import Audit, Folders, SinkAudit, audit
from cdp_ray_sinks.files.landed import Count, Place
from cdp_ray_sinks.pipeline import Pipeline, SourceFailedError
from cdp_ray_sinks.testing import RECEIVED_AT_MS, numbered_batch, numbered_events

Make = Callable[..., PipelineConfig]
HOUR_MS = 3_600_000
HOUR = RECEIVED_AT_MS // HOUR_MS
MIB = 1024 * 1024


def audited(config: PipelineConfig) -> Audit:
    folders = Folders(
        config.accounts_dir(), config.spool_dir(), config.dead_letter_dir(), config.sinks_dir()
    )
    return audit(config.active_sinks(), folders)


def sink_of(found: Audit, name: str) -> SinkAudit:
    (sink,) = [sink for sink in found.sinks if sink.name == name]
    return sink


def events(sink: SinkAudit) -> dict[str, int]:
    return {outcome: count.events for outcome, count in sink.outcomes.items()}


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.05)


def pids(pipeline: Pipeline, kind: str) -> list[int]:
    return [actor["pid"] for actor in pipeline.status()["actors"] if actor["kind"] == kind]


def three_sinks(base: Path) -> dict[str, dict[str, Any]]:
    return {
        "archive": {"type": "disk_binary", "path": base / "archive"},
        "text": {"type": "disk_plaintext", "path": base / "text", "compression": "lz4"},
        "tables": {"type": "parquet", "path": base / "tables"},
    }


def test_a_run_with_kills_is_clean_also_while_it_goes_on(make_config: Make, tmp_path: Path) -> None:
    """Router and chains killed under load; the audit looks all the time and never complains."""
    config = make_config(sinks=three_sinks(tmp_path), delivery={"max_chain_actors": 3})
    seen: list[Audit] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(audited(config))
            time.sleep(0.1)

    watcher = threading.Thread(target=look)
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        watcher.start()
        try:
            for number in range(240):
                at_ms = RECEIVED_AT_MS + number // 80 * HOUR_MS
                producer.submit(numbered_events(number, 1 + number % 3, 3000, 2, at_ms))
                if number in (60, 150):
                    os.kill(pids(pipeline, "chain")[0], signal.SIGKILL)
                if number == 100:
                    os.kill(pids(pipeline, "router")[0], signal.SIGKILL)
                time.sleep(0.005)
            producer.flush(60)
        finally:
            stop.set()
            watcher.join()
    assert [each.sinks for each in seen if not each.ok] == []
    assert seen
    found = audited(config)
    assert found.ok
    assert not found.is_moving
    assert found.accepted.events == 480
    for sink in found.sinks:
        assert sink.found == sink.expected == Count(240, 480, 480)
        assert sink.problems == []


def test_what_is_taken_away_is_named(make_config: Make, tmp_path: Path) -> None:
    """A Parquet file, a segment, part of one, lines: which sink, workspace, hour, how many."""
    config = make_config(sinks=three_sinks(tmp_path))
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(60):
            at_ms = RECEIVED_AT_MS + number // 20 * HOUR_MS
            producer.submit(numbered_events(number, 1 + number % 2, 500, 5, at_ms))
    assert audited(config).ok
    next(tmp_path.glob("tables/1/*/00/events.parquet")).unlink()
    shutil.rmtree(next(tmp_path.glob("archive/2/*/01")))
    next(tmp_path.glob("text/1/*/02/events.log.lz4")).unlink()
    found = audited(config)
    assert not found.ok
    said = {
        sink.name: [(d.kind, d.place, d.by.events) for d in sink.differences]
        for sink in found.sinks
    }
    assert said == {
        "tables": [("missing", Place(1, HOUR), 50)],
        "archive": [("missing", Place(2, HOUR + 1), 50)],
        "text": [("missing", Place(1, HOUR + 2), 50)],
    }


def test_several_runs_add_up_and_what_is_strange_is_told_apart(
    make_config: Make, tmp_path: Path
) -> None:
    """Three epochs into one archive; then data of an unknown producer in it."""
    config = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "archive"}})
    other = make_config(sinks={"archive": {"type": "disk_binary", "path": tmp_path / "archive"}})
    for _ in range(3):
        with Pipeline(config) as pipeline:
            producer = pipeline.producer("mine")
            for number in range(10):
                producer.submit(numbered_batch(number))
    assert sink_of(audited(config), "archive").found == Count(30, 30, 30)
    assert audited(config).ok
    shutil.move(config.state_dir(), tmp_path / "aside")
    with Pipeline(other) as pipeline:
        pipeline.producer("mine").submit(numbered_batch(10, workspace_id=2)).result(30)
    shutil.rmtree(config.accounts_dir())
    shutil.move(tmp_path / "aside" / "accounts", config.accounts_dir())
    (difference,) = sink_of(audited(config), "archive").differences
    assert (difference.kind, difference.place, difference.by.events) == (
        "not accounted for", Place(2, HOUR), 1,
    )  # fmt: skip


def test_a_killed_source_leaves_batches_that_are_looked_for(
    make_config: Make, tmp_path: Path
) -> None:
    """What it had under way may have landed or not; neither is a difference."""
    config = make_config(
        sources={"made": {"type": "synthetic", "events": 5_000_000, "batch_events": 1000,
                          "workspaces": 3}},
        sinks=three_sinks(tmp_path),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        wait_for(lambda: events(sink_of(audited(config), "text")).get("durable", 0) > 20_000)
        os.kill(pids(pipeline, "source")[0], signal.SIGKILL)
        with pytest.raises(SourceFailedError, match="made"):
            pipeline.wait()
    found = audited(config)
    assert found.ok
    in_flight = sum(count.batches for count in found.in_flight.values())
    assert in_flight > 0
    for sink in found.sinks:
        settled = sink.outcomes["durable"].batches
        assert settled + in_flight == found.accepted.batches
        assert sink.found == sink.expected
        assert sink.answerless.batches <= in_flight
        assert sink.found is not None
        assert sink.found.batches == settled + sink.answerless.batches


def test_what_went_by_the_spool_is_where_it_is_accounted(make_config: Make, tmp_path: Path) -> None:
    """While it waits, after the next run has delivered it, and when the spool is taken away."""
    place = tmp_path / "archive" / "7"
    place.parent.mkdir()
    place.write_text("in the way")
    sink = {"type": "disk_binary", "path": tmp_path / "archive", "on_full": "spool",
            "spool_after_ms": 200}  # fmt: skip
    config = make_config(sinks={"archive": sink})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(20):
            producer.submit(numbered_batch(number, 7))
        producer.flush(30)
    found = audited(config)
    assert found.ok
    assert events(sink_of(found, "archive")) == {"spooled": 20}
    assert sink_of(found, "archive").left_in_spool == Count(20, 20, 20)
    shutil.copytree(config.spool_dir(), tmp_path / "kept")
    shutil.rmtree(config.spool_dir())
    (difference,) = sink_of(audited(config), "archive").differences
    assert (difference.kind, difference.by.events) == ("missing", 20)
    shutil.copytree(tmp_path / "kept", config.spool_dir())
    place.unlink()
    with Pipeline(config) as again:
        again.producer("more").submit(numbered_batch(20, 7)).result(30)
    found = audited(config)
    assert found.ok
    assert sink_of(found, "archive").found == Count(21, 21, 21)
    assert sink_of(found, "archive").left_in_spool == Count()
    # As a kill leaves it that comes before the spool has noted what is delivered.
    shutil.rmtree(config.spool_dir())
    shutil.copytree(tmp_path / "kept", config.spool_dir())
    assert audited(config).ok


def test_dropped_batches_and_dead_letters_are_accounted(make_config: Make, tmp_path: Path) -> None:
    """A frozen sink that drops, and one that refuses; dead letters that are gone are missing."""
    config = make_config(
        sinks={
            "tables": {"type": "parquet", "path": tmp_path / "tables"},
            "archive": {"type": "disk_binary", "path": tmp_path / "archive", "on_full": "drop",
                        "max_in_flight_bytes": MIB},
        },
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        producer.submit(numbered_events(0)).result(30)
        reports = pipeline.status()["actors"]
        (frozen,) = [a["pid"] for a in reports if "/chain/archive/" in a["name"]]
        os.kill(frozen, signal.SIGSTOP)
        try:
            for number in range(1, 30):
                producer.submit(numbered_batch(number))  # which is no message at all
            wait_for(lambda: "dead_lettered" in events(sink_of(audited(config), "tables")))
        finally:
            os.kill(frozen, signal.SIGCONT)
    found = audited(config)
    assert found.ok, found
    archive, tables = events(sink_of(found, "archive")), events(sink_of(found, "tables"))
    assert archive["durable"] + archive["dropped"] == 30
    assert archive["dropped"] > 0
    assert tables == {"durable": 1, "dead_lettered": 29}
    shutil.rmtree(config.dead_letter_dir() / "tables")
    (difference,) = sink_of(audited(config), "tables").differences
    assert (difference.kind, difference.place) == ("dead letters missing", Place(1, HOUR))
    assert difference.by.messages == 29


def test_what_is_refused_out_of_the_spool_is_a_dead_letter(
    make_config: Make, tmp_path: Path
) -> None:
    """Its ticket said spooled; the accounts say what became of it."""
    place = tmp_path / "tables" / ".journal" / "1"
    sink = {"type": "parquet", "path": tmp_path / "tables", "on_full": "spool",
            "spool_after_ms": 200}  # fmt: skip
    config = make_config(sinks={"tables": sink})
    with Pipeline(config) as pipeline:
        place.write_text("in the way")
        producer = pipeline.producer("mine")
        for number in range(6):
            made = numbered_batch(number) if number % 2 else numbered_events(number)
            assert producer.submit(made).result(30) == {"tables": "spooled"}
        place.unlink()
        wait_for(lambda: events(sink_of(audited(config), "tables")).get("dead_lettered_later") == 3)
    found = audited(config)
    assert found.ok, found
    assert sink_of(found, "tables").found == Count(3, 3, 3)


def test_the_command_says_what_is_missing_and_its_code_too(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """0 when all is there, then 1; as text and as JSON."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pipeline.toml"
    path.write_text(
        """
        [pipeline]
        name = "audited"
        state_dir = "state"
        [delivery]
        window_bytes = 16_777_216
        populate_object_store = false
        [sources.made]
        type = "synthetic"
        events = 20_000
        workspaces = 2
        [sinks.tables]
        type = "parquet"
        path = "tables"
        [sinks.nothing]
        type = "null"
        """
    )
    with Pipeline(load(path)) as pipeline:
        pipeline.wait()
    capsys.readouterr()
    assert audit_pipeline(path, as_json=False) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("accepted: 20,000 events in ")
    assert out[1].split()[:3] == ["tables", "ok", "20,000"]
    assert out[2].split()[:4] == ["nothing", "not", "kept", "20,000"]
    for file in tmp_path.glob("tables/2/*/*/events.parquet"):
        file.unlink()
    assert audit_pipeline(path, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert {d["workspace"] for d in found["sinks"]["tables"]["differences"]} == {2}
    missing = sum(
        d["accounted"]["events"] - d["found"]["events"]
        for d in found["sinks"]["tables"]["differences"]
    )
    assert missing == 10_000
    assert audit_pipeline(path, as_json=False) == 1
    text = capsys.readouterr().out
    assert "tables   DIFFERS" in text
    assert "workspace 2, 20" in text
    assert "events missing (accounted 10,000, found 0)" in text
