"""The verdict: each broken promise is told, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdp_ray_sinks.chaos.processes import MemoryLife
from cdp_ray_sinks.chaos.report import Destination, Injected, Report
from cdp_ray_sinks.delivery.audit import Audit

SINK = {"dropped": 0, "dead_letters": 0, "left_in_spool": 0, "spooled": 5}


def report(**fields: Any) -> Report:
    """A run in which all went well, but for what is given."""
    return Report(1, 60.0, ("kills",), 1000.0, "there", **fields)


def killed(settled_s: float | None, meanwhile_s: float | None = None) -> Injected:
    """A kill after which all was settled again."""
    return Injected(1.0, "kills", "SIGKILL", "router", 0.0, settled_s, meanwhile_s)


def test_a_run_in_which_all_was_kept_is_well() -> None:
    """Kills, a mirror by the spool, an audit without a difference."""
    found = report(
        injected=[killed(3.0), killed(1.0), killed(2.0, 0.5)],
        destinations=[Destination("archive", "disk_binary", 10, 12, disordered=0)],
        sinks={"archive": SINK},
    )
    assert found.broken == []
    assert found.kill_times_s == [1.0, 2.0, 3.0]
    told = json.loads(json.dumps(found.to_dict()))
    assert told["ok"] is True
    assert told["settled_after_kill_s"] == {"count": 3, "median": 2.0, "max": 3.0}
    assert told["longest_wait_of_others_s"] == 0.5


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("lost", 3, "archive: 3 events lost, the lowest are 4, 5"),
        ("twice", 1, "archive: 1 events are there twice"),
        ("strange", 1, "archive: 1 events that nobody has sent"),
        ("disordered", 2, "archive: 2 batches are out of order"),
        ("damage", ["a hole"], "archive: a hole"),
    ],
)
def test_what_is_wrong_at_a_destination_is_broken(field: str, value: Any, text: str) -> None:
    """Each by itself."""
    one = Destination("archive", "disk_binary", 10, 10, lowest_lost=[4, 5])
    setattr(one, field, value)
    assert not one.ok
    assert report(destinations=[one]).broken == [text]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"problems": ["draining: 3 batches unsettled"]}, "draining: 3 batches unsettled"),
        ({"injected": [Injected(7, "kills", "SIGKILL", "router", 0.0, None, None, True)]},
         "nothing was settled for a minute, SIGKILL of router at 7.0 s"),
        ({"sinks": {"rows": {**SINK, "dropped": 2}}}, "rows: 2 dropped"),
        ({"sinks": {"rows": {**SINK, "dead_letters": 1}}}, "rows: 1 dead letters"),
        ({"sinks": {"rows": {**SINK, "left_in_spool": 4}}}, "rows: 4 left in spool"),
        ({"audit": Audit(damaged=["a line"])}, "the audit differs"),
        ({"memory": [MemoryLife("router", 1, [(s, s * 4_000_000) for s in range(101)])]},
         "router: its memory grew by 202 MB"),
    ],
)  # fmt: skip
def test_everything_else_that_was_promised_is_looked_at(fields: Any, text: str) -> None:
    """Each by itself."""
    (told,) = report(**fields).broken
    assert told == text
    assert report(**fields).to_dict()["ok"] is False
