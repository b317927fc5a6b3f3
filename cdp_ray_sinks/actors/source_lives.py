"""What a source reports, over all the nodes that it has been on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from cdp_ray_sinks.delivery.flights import SinkTally

Report: TypeAlias = Mapping[str, Any]


def over_all_lives(report: Report, earlier: Iterable[Report]) -> dict[str, Any]:
    """The report with what earlier lives counted added; how it is now stays as it is."""
    lives = {each["life"]: each for each in [*earlier, report]}
    if len(lives) == 1:
        return dict(report)
    counters: Counter[str] = Counter()
    tallies: dict[str, SinkTally] = {}
    for life in lives.values():
        counters.update(life["counters"])
        for sink, tally in life["tallies"].items():
            tallies.setdefault(sink, SinkTally()).add(tally)
    before = events_of(each for each in lives.values() if each["life"] != report["life"])
    expected = report["events_expected"]
    return {
        **report,
        "counters": dict(counters),
        "tallies": tallies,
        "events": before + report["events"],
        "events_expected": None if expected is None else before + expected,
        "resends": sum(life["resends"] for life in lives.values()),
    }


def events_of(lives: Iterable[Report]) -> int:
    """How many events they produced, each life counted once."""
    return sum({each["life"]: int(each["events"]) for each in lives}.values())
