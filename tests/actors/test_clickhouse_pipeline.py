"""The clickhouse sink in a pipeline of real actors, with a server that comes and goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.pipeline import Pipeline

Make = Callable[..., PipelineConfig]


def sink_to(lab: Any, **options: Any) -> dict[str, Any]:
    plain = {"type": "clickhouse", "url": lab.server.url, "database": lab.database}
    return {**plain, "create_tables": True, **options}


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
    """When the pipeline starts."""
    lab.sink().close()
    lab.command("ALTER TABLE {db}.users_v1 RESET SETTING non_replicated_deduplication_window")
    told: list[str] = []
    with Pipeline(make_config(sinks={"rows": sink_to(lab)}), told.append):
        pass
    assert any("sink 'rows': users_v1: repeated inserts are not" in text for text in told), told


def test_tables_that_are_not_there_refuse_the_start(make_config: Make, lab: Any) -> None:
    """Whether the sink has a spool or not: waiting would not make them."""
    with pytest.raises(ConfigError, match=r"sink 'rows'.*events_v1.*cdp-sinks ddl"):
        Pipeline(make_config(sinks={"rows": sink_to(lab, create_tables=False)})).start()


def test_a_server_that_is_away_at_the_start_costs_nobody_anything(
    make_config: Make, lab_of: Callable[..., Any], tmp_path: Path
) -> None:
    """Batches are spooled; once it is there they land, once."""
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
