"""The metrics of a pipeline that runs, scraped from the node's own endpoint."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ray

from cdp_ray_sinks.actors.metric_table import BY_NAME, METRICS, PREFIX, exported_names
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_batch

Make = Callable[..., PipelineConfig]
PATIENCE_S = 120
_LINE = re.compile(r"(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Series = list[tuple[str, dict[str, str], float]]


class Expected(NamedTuple):
    """What a total must come to."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


EXPECTED = (
    Expected("cdp_source_events_total", (("source", "made"),), 20_000),
    Expected("cdp_source_events_total", (("source", "mine"),), 20),
    Expected("cdp_source_ack_latency_seconds_count", (("source", "mine"),), 20),
    Expected("cdp_sink_events_total", (("sink", "archive"),), 20_020),
    Expected("cdp_sink_events_total", (("sink", "nothing"), ("outcome", "durable")), 20_020),
    Expected("cdp_lane_events_written_total", (("sink", "nothing"),), 20_020),
    Expected("cdp_workspace_events_total", (), 20_020),
)


def scrape(pipeline: str) -> tuple[Series, dict[str, str]]:
    """The pipeline's series as the node serves them, and the type of each metric."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    series, types = [], {}
    with urllib.request.urlopen(url, timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                types[name] = kind
            elif (found := _LINE.fullmatch(line)) and f'pipeline="{pipeline}"' in line:
                labels = dict(_LABEL.findall(found["labels"]))
                series.append((found["name"], labels, float(found["value"])))
    return series, types


def total(series: Series, name: str, labels: dict[str, str]) -> float:
    """The sum of a metric's series that have these labels."""
    wanted = labels.items()
    return sum(v for n, had, v in series if n == PREFIX + name and wanted <= had.items())


def test_every_metric_is_served_with_its_type_its_labels_and_the_right_totals(
    make_config: Make, tmp_path: Path
) -> None:
    """A source, a producer, chains, a spool and a lone lane; totals are what was delivered."""
    sinks: dict[str, Any] = {
        "archive": {"type": "disk_binary", "path": tmp_path / "a", "on_full": "spool"},
        "nothing": {"type": "null"},
    }
    source = {"type": "synthetic", "workspaces": 3, "events": 20_000}
    config = make_config(sinks=sinks, sources={"made": source})
    name = config.pipeline.name
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        for number in range(20):
            producer.submit(numbered_batch(number, 9)).result(60)
        pipeline.wait()
        until = time.monotonic() + PATIENCE_S
        while True:
            series, types = scrape(name)
            missing = exported_names() - {name for name, _, _ in series}
            wrong = {
                e: got
                for e in EXPECTED
                if (got := total(series, e.name, dict(e.labels))) != e.value
            }
            if not missing and not wrong:
                break
            assert time.monotonic() < until, f"missing: {missing}, wrong: {wrong}"
            time.sleep(1)
    for metric in METRICS:
        found = [labels for n, labels, _ in series if n.startswith(PREFIX + metric.name)]
        assert types[PREFIX + metric.name] == metric.kind
        assert all(set(metric.labels) <= set(labels) for labels in found), metric.name
    assert {n.removeprefix(PREFIX) for n in types if n.startswith(PREFIX + "cdp_")} <= set(BY_NAME)
    assert total(series, "cdp_workspace_events_total", {"workspace": "9"}) <= 20
    assert total(series, "cdp_lane_write_errors_total", {}) == 0
    assert total(series, "cdp_router_held_batches", {}) == 0
