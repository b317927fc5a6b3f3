"""The table of metrics: named by convention, documented, and all that actors hand on."""

from __future__ import annotations

import re
from pathlib import Path

from cdp_ray_sinks.actors.metric_samples import OTHER, Sample, WorkspaceLabels
from cdp_ray_sinks.actors.metric_table import BY_NAME, LABELS, METRICS, page

ROOT = Path(__file__).parent.parent.parent
UNIT_ENDINGS = {"seconds": "_seconds", "bytes": "_bytes"}


def test_names_follow_the_convention() -> None:
    """Counters end in _total, what has a unit names it, every label is explained."""
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"cdp_[a-z]+(_[a-z]+)+", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        ending = UNIT_ENDINGS.get(metric.unit, "")
        assert ending in metric.name, metric.name
        assert metric.help.endswith(".")
        assert set(metric.labels) <= set(LABELS)


def test_the_page_is_current() -> None:
    """cluster/METRICS.md is what the table says."""
    assert (ROOT / "cluster" / "METRICS.md").read_text() == page()


def totals_of(samples: list[Sample]) -> dict[str, float | list[int]]:
    return {
        sample.labels["workspace"]: sample.value
        for sample in samples
        if sample.name == "cdp_workspace_events_total"
    }


def test_workspaces_have_a_bounded_number_of_labels_and_no_total_falls() -> None:
    """The busiest get a label, no more than so many for ever; the others are one."""
    labels = WorkspaceLabels(labelled_max=2)
    first = totals_of(list(labels.samples([1], {1: (10, 100), 2: (5, 50), 3: (1, 10)})))
    assert first == {"1": 10, OTHER: 6}
    then = totals_of(list(labels.samples([2], {1: (10, 100), 2: (9, 90), 3: (1, 10)})))
    assert then == {"1": 10, OTHER: 6, "2": 4}
    last = totals_of(list(labels.samples([3, 0], {1: (11, 1), 2: (9, 90), 3: (4, 1), 0: (8, 8)})))
    assert last == {"1": 11, OTHER: 6 + 3 + 8, "2": 4}
