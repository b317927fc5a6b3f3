"""The clickhouse sink in a pipeline of real actors, with a server that comes and goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from cdp_ray_sinks.actors import supervisor
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.cli.audit import audit_pipeline
from cdp_ray_sinks.cli.deadletters import list_dead_letters
from cdp_ray_sinks.cli.status import said
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.pipeline import Pipeline

Make = Callable[..., PipelineConfig]
KEYS = "feed1e11feed1e11feed1e11feed1e11:1\n000102030405060708090a0b0c0d0e0f:2\n"


def sink_to(lab: Any, **options: Any) -> dict[str, Any]:
    plain = {"type": "clickhouse", "url": lab.server.url, "database": lab.database}
    return {**plain, "create_tables": True, **options}


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> Any:
    """What it gives once that is something."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.05)
    return found


def report_of(pipeline: Pipeline, end: str) -> Any:
    """What the actor whose name ends so tells of itself in `status`."""
    reports = pipeline.status()["reports"]
    return next((report for name, report in reports.items() if name.endswith(end)), {})


def test_rows_land_and_dead_letters_are_counted(make_config: Make, lab: Any) -> None:
    """What the summary says is what is there."""
    config = make_config(sinks={"rows": sink_to(lab)})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        producer.submit(lab.numbered(0, 5000, per_message=100))
        producer.submit(lab.batch([{"user_id": "nobody"}], types=2))
        ticket = producer.submit(lab.logs(["a line"]))
        assert ticket.result(60) == {"rows": "durable"}
        producer.flush(60)
    assert lab.landed() == (5000, 5000)
    rows = pipeline.summary()["sinks"]["rows"]
    assert (rows["events"], rows["batches"], rows["dead_letters"]) == (5002, 3, 1)
    assert config.pipeline.state_dir is not None
    reasons = config.pipeline.state_dir / "dead_letters" / "rows" / "reasons.jsonl"
    assert "no e-mail" in json.loads(reasons.read_text())["reason"]


def test_what_somebody_should_know_of_the_tables_is_told(make_config: Make, lab: Any) -> None:
    """When the pipeline starts, and in its status, with the events that are counted."""
    lab.sink().close()
    lab.command("ALTER TABLE {db}.users_v1 RESET SETTING non_replicated_deduplication_window")
    told: list[str] = []
    with Pipeline(make_config(sinks={"rows": sink_to(lab)}), told.append) as pipeline:
        producer = pipeline.producer("mine")
        producer.submit(lab.batch([{"group_id": "g"}] * 3, types=3))
        producer.submit(lab.batch([{"n": 1}], times=2**62))
        producer.flush(60)
        status = pipeline.status()
    assert any("sink 'rows': users_v1: repeated inserts are not" in text for text in told), told
    lines = [line.partition("/sink/rows: ")[2] for line in said(status)]
    (note,) = [line for line in lines if line.startswith("users_v1: repeated inserts are not")]
    assert "MODIFY SETTING non_replicated_deduplication_window" in note
    (counted,) = [line for line in lines if line.startswith("counted: ")]
    assert "3 left_out_group" in counted
    assert "1 times_cut" in counted
    assert "1 events_v1_rows" in counted


def test_tables_that_are_not_there_refuse_the_start(make_config: Make, lab: Any) -> None:
    """Whether the sink has a spool or not: waiting would not make them."""
    with pytest.raises(ConfigError, match=r"sink 'rows'.*events_v1.*cdp-sinks ddl"):
        Pipeline(make_config(sinks={"rows": sink_to(lab, create_tables=False)})).start()


def test_a_server_that_is_away_at_the_start_costs_nobody_anything(
    make_config: Make,
    lab_of: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches are spooled; once it is there they land, once."""
    monkeypatch.setattr(supervisor, "SPOOLED_TIMEOUT_S", 0.5)
    server = ClickHouseServer(tmp_path / "server")
    lab = lab_of(server)
    told: list[str] = []
    config = make_config(sinks={"rows": sink_to(lab), "nothing": {"type": "null"}})
    try:
        with Pipeline(config, told.append) as pipeline:
            assert any("'rows': not to be had, its batches are spooled" in t for t in told), told
            producer = pipeline.producer("mine")
            tickets = [producer.submit(lab.numbered(n * 100, 100)) for n in range(20)]
            assert tickets[-1].result(60) == {"rows": "spooled", "nothing": "durable"}
            server.start()
            producer.submit(lab.numbered(2000, 100))
            producer.flush(60)
        assert lab.landed() == (2100, 2100)
    finally:
        server.kill()


def test_a_server_that_is_away_for_a_while_costs_nobody_anything(
    make_config: Make, lab_of: Callable[..., Any], tmp_path: Path
) -> None:
    """SIGKILL in the middle: the rest is spooled, and lands in order when it is back."""
    with ClickHouseServer(tmp_path / "server") as server:
        lab = lab_of(server)
        rows = sink_to(lab, inserts_at_once=1, rows_per_insert=300, spool_after_ms=300)
        archive = {"type": "disk_binary", "path": tmp_path / "archive"}
        config = make_config(sinks={"rows": rows, "archive": archive})
        with Pipeline(config) as pipeline:
            producer = pipeline.producer("mine")
            tickets = [producer.submit(lab.numbered(n * 100, 100)) for n in range(20)]
            producer.flush(60)
            # A server that takes longer than 300 ms over an insert has its batches spooled.
            wait_for(lambda: lab.landed() == (2000, 2000))
            tickets += [producer.submit(lab.numbered(n * 100, 100)) for n in range(20, 30)]
            server.kill()
            tickets += [producer.submit(lab.numbered(n * 100, 100)) for n in range(30, 60)]
            assert tickets[-1].result(60) == {"rows": "spooled", "archive": "durable"}
            assert all(ticket.result(60)["archive"] == "durable" for ticket in tickets)
            assert "no answer" in wait_for(
                lambda: report_of(pipeline, "/sink/rows").get("last_error")
            )
            server.start()
            tickets += [producer.submit(lab.numbered(n * 100, 100)) for n in range(60, 70)]
            wait_for(lambda: report_of(pipeline, "/spool/rows")["spool"]["is_empty"])
            producer.flush(60)
        assert lab.landed() == (7000, 7000)
        number = "simpleJSONExtractUInt(properties, 'n')"
        parts = lab.query(
            f"SELECT min({number}), max({number}), count() FROM {{db}}.events_v1 GROUP BY _part "
            "ORDER BY toUInt32(splitByChar('_', _part)[2])"
        )
    # Each part has what came next, wherever it had waited.
    assert [first for first, _, _ in parts] == [0, *[last + 1 for _, last, _ in parts[:-1]]]
    assert all(count == last - first + 1 for first, last, count in parts)
    assert pipeline.summary()["sinks"]["rows"]["left_in_spool"] == 0


def test_captured_frames_over_tcp(
    captures: Path, make_config: Make, lab: Any, captured_rows: Any, tmp_path: Path
) -> None:
    """From the socket to the tables, with every value, whatever layout an event has."""
    (tmp_path / "keys.conf").write_text(KEYS)
    clients = {"type": "tcp", "listen": "127.0.0.1:0", "api_keys": tmp_path / "keys.conf"}
    config = make_config(sources={"clients": clients}, sinks={"rows": sink_to(lab)})
    with Pipeline(config) as pipeline:
        port = wait_for(lambda: report_of(pipeline, "/clients")["counters"].get("port"))
        for name in captured_rows.frames:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall((captures / name).read_bytes())
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
    expected: dict[str, list[Any]] = {}
    for rows in captured_rows.frames.values():
        for table in rows:
            expected.setdefault(table, []).extend(rows[table])
    tables = ["events_v1", "users_v1", "user_devices", "user_traits", "context_v1", "logs_v1"]
    found = {table: lab.query(captured_rows.select("{db}", table)) for table in tables}
    captured_rows.compare(found, expected)


def test_one_bad_row_in_a_hundred_thousand_lands_by_a_replay(
    cluster: None, lab: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """99,999 land, one dead letter says why; the table is mended, and the command lands it."""
    file = tmp_path / "pipeline.toml"
    file.write_text(
        f"""
        pipeline = {{ name = "{lab.database}", state_dir = "{tmp_path}/state" }}
        delivery = {{ window_bytes = 67_108_864, populate_object_store = false }}
        [sources.none]
        type = "synthetic"
        events = 1
        [sinks.rows]
        type = "clickhouse"
        url = "{lab.server.url}"
        database = "{lab.database}"
        """
    )
    lab.sink().close()
    lab.command("ALTER TABLE {db}.events_v1 ADD CONSTRAINT short CHECK length(properties) < 1000")
    payloads = [b'{"n":%d}' % n for n in range(100_000)]
    payloads[31_416] = b'{"n":31416,"filler":"%s"}' % (b"x" * 1000)
    with Pipeline(load(file).model_copy(update={"sources": {}})) as pipeline:
        producer = pipeline.producer("mine")
        producer.submit(lab.batch(payloads, per_message=500))
        producer.flush(60)
    assert lab.landed() == (99_999, 99_999)
    assert list_dead_letters(file, "rows", as_json=True) == 0
    ((reason, count),) = json.loads(capsys.readouterr().out)[0]["reasons"].items()
    assert count == 1
    assert "Code: 469" in reason
    assert "Constraint `short`" in reason

    lab.command("ALTER TABLE {db}.events_v1 DROP CONSTRAINT short")
    command = [sys.executable, "-m", "cdp_ray_sinks", "deadletters", "replay", str(file), "--json"]
    address = ray.get_runtime_context().gcs_address
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": address},
    )  # fmt: skip
    assert json.loads(done.stdout) == {"rows": {"durable": 1}}, done.stderr
    assert done.returncode == 0
    assert lab.landed() == (100_000, 100_000)
    assert lab.query("SELECT uniqExact(device_id) FROM {db}.events_v1") == [(100_000,)]


def test_the_audit_counts_the_rows(
    make_config: Make, lab: Any, tmp_path: Path, capsys: Any
) -> None:
    """After a kill of the sink it is clean; rows taken away, and a server that is away, are not."""
    path = tmp_path / "pipeline.toml"
    path.write_text(
        f"""
        [pipeline]
        name = "counted"
        state_dir = "{tmp_path}/state"
        [delivery]
        window_bytes = 16_777_216
        populate_object_store = false
        [sources.made]
        type = "synthetic"
        events = 60_000
        batch_events = 500
        rate_events_per_s = 40_000
        [sinks.rows]
        type = "clickhouse"
        url = "{lab.server.url}"
        database = "{lab.database}"
        create_tables = true
        rows_per_insert = 300
        """
    )
    with Pipeline(load(path)) as pipeline:
        wait_for(lambda: lab.landed()[0] > 1000)
        (pid,) = [a["pid"] for a in pipeline.status()["actors"] if a["kind"] == "sink"]
        os.kill(pid, signal.SIGKILL)
        assert audit_pipeline(path, as_json=False) == 0
        pipeline.wait()
        assert audit_pipeline(path, as_json=False) == 0
    assert audit_pipeline(path, as_json=False) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].split()[:3] == ["rows", "ok", "60,000"]
    events = f"{lab.landed()[0]:,}"
    lab.command("ALTER TABLE {db}.events_v1 DELETE WHERE 1 SETTINGS mutations_sync = 2")
    assert audit_pipeline(path, as_json=False) == 1
    out = capsys.readouterr().out
    assert f"events_v1: {events} rows missing (accounted {events}, found 0)" in out
    path.write_text(path.read_text().replace(lab.server.url, "http://127.0.0.1:1"))
    assert audit_pipeline(path, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)["sinks"]["rows"]
    assert found["found"]["events"] == 60_000
    assert "127.0.0.1:1" in found["unread"]


@pytest.mark.parametrize(
    ("placement", "lanes"),
    [("replicas = 2", ["rows", "rows@1"]), ("per_node = true", ["rows@*"])],
)
def test_the_audit_counts_all_lanes(
    placement: str, lanes: list[str], make_config: Make, lab: Any, tmp_path: Path, capsys: Any
) -> None:
    """Each has a ledger, a count of rows and dead letters of its own."""
    path = tmp_path / "pipeline.toml"
    path.write_text(
        f"""
        [pipeline]
        name = "{lab.database}"
        state_dir = "{tmp_path}/state"
        [ray]
        address = "{ray.get_runtime_context().gcs_address}"
        [delivery]
        window_bytes = 16_777_216
        populate_object_store = false
        [sources.none]
        type = "synthetic"
        events = 1
        [sinks.rows]
        type = "clickhouse"
        url = "{lab.server.url}"
        database = "{lab.database}"
        create_tables = true
        on_full = "block"
        placement = {{ {placement} }}
        """
    )
    with Pipeline(load(path).model_copy(update={"sources": {}})) as pipeline:
        producer = pipeline.producer("mine")
        for workspace in range(1, 25):
            producer.submit(lab.numbered(0, 50, workspace_id=workspace))
            producer.submit(lab.batch([{"user_id": "nobody"}] * 3, types=2, workspace_id=workspace))
        producer.flush(60)
        assert audit_pipeline(path, as_json=True) == 0
    capsys.readouterr()
    assert audit_pipeline(path, as_json=True) == 0
    (sink,) = json.loads(capsys.readouterr().out)["sinks"].values()
    assert sink["found"]["events"] == 24 * 53
    (events,) = [table for table in sink["tables"] if table["name"] == "events_v1"]
    assert (events["low"], events["high"], events["found"]) == (1200, 1200, 1200)
    for lane in lanes:
        (folder,) = (tmp_path / "state/dead_letters").glob(lane)
        assert any(folder.iterdir())
        (folder,) = (tmp_path / "state/sinks").glob(lane)
        shutil.move(folder, tmp_path / "put_aside")
        assert audit_pipeline(path, as_json=True) == 1
        shutil.move(tmp_path / "put_aside", folder)
