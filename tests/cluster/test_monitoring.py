"""Prometheus and Grafana: every query names a metric that exists, with labels that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdp_ray_sinks.actors.metric_table import METRICS, PREFIX, exported_names

CLUSTER = Path(__file__).parent.parent.parent / "cluster"
LABELS = {label for metric in METRICS for label in metric.labels} | {"le"}


def queries() -> Iterator[str]:
    """Every expression of the dashboard and of the alerts."""
    dashboard = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    alerts = yaml.safe_load((CLUSTER / "alerts.yml").read_text())
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_asks_for_what_there_is(query: str) -> None:
    """Its metrics are in the table, its labels are theirs, its brackets close."""
    names = set(re.findall(rf"\b{PREFIX}\w+", query))
    assert names
    assert names <= exported_names()
    by_name = {PREFIX + metric.name: set(metric.labels) for metric in METRICS}
    own: set[str] = set()
    for name in names:
        own |= by_name.get(name) or by_name[re.sub(r"_(bucket|sum|count)$", "", name)] | {"le"}
    asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", query))
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        asked |= {label.strip() for label in grouped.split(",")}
    assert asked <= own
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing)


def test_every_metric_worth_a_look_has_one() -> None:
    """The dashboard shows each kind: sources, routers, sinks, lanes, spools, workspaces."""
    text = " ".join(queries())
    shown = {metric.name for metric in METRICS if PREFIX + metric.name in text}
    for kind in ("source", "router", "sink", "lane", "spool", "workspace"):
        assert any(name.startswith(f"cdp_{kind}_") for name in shown), kind


def test_the_dashboard_is_one() -> None:
    """Panels have their own ids and places and a data source that can be chosen."""
    dashboard: dict[str, Any] = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert all(panel["title"] and panel["targets"] for panel in panels)


def test_prometheus_reads_the_list_that_ray_keeps() -> None:
    """The file of nodes, and the alerts beside it."""
    config = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    assert [name for name in config["rule_files"] if (CLUSTER / name).exists()] == ["alerts.yml"]
    (job,) = config["scrape_configs"]
    (found,) = job["file_sd_configs"]
    assert found["files"][0].endswith("prom_metrics_service_discovery.json")
