"""`cdp-sinks audit`: whether the destinations hold what was accounted for."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.cli.output import count_text, escaped, print_json, say
from cdp_ray_sinks.config import load
from cdp_ray_sinks.delivery.audit import Audit, Difference, Folders, SinkAudit, audit, sum_of
from cdp_ray_sinks.delivery.push import DEAD_LETTERED, DROPPED, DURABLE, REFUSED, SPOOLED
from cdp_ray_sinks.files.landed import Count, Place, TableCount
from cdp_ray_sinks.files.partition import HOUR_MS
from cdp_ray_sinks.placeholders import resolved

SHOWN_MAX: Final = 50
_WORDS: Final = {
    DURABLE: "acknowledged",
    SPOOLED: "went by the spool",
    DROPPED: "dropped",
    DEAD_LETTERED: "dead letters",
    REFUSED: "refused: the id has other content",
    "dead_lettered_later": "dead letters out of the spool",
    "refused_later": "refused out of the spool",
    "dropped_when_full": "dropped: the spool was full, the oldest went",
    "dropped_when_old": "dropped: too old for the spool",
}
_NOT_FOUND: Final = {"null": "not kept  ", "stdout": "not kept  "}


def audit_pipeline(path: Path, as_json: bool) -> int:
    """Compare, print; 1 if anything differs."""
    config = load(path)
    folders = Folders(
        config.accounts_dir(), config.spool_dir(), config.dead_letter_dir(), config.sinks_dir()
    )
    sinks = {
        name: resolved(sink, os.environ, f"sinks.{name}")
        for name, sink in config.active_sinks().items()
    }
    found = audit(sinks, folders)
    if as_json:
        print_json(_as_json(found))
    else:
        if not folders.accounts.is_dir():
            say(f"{folders.accounts}: there are no accounts yet")
        _print(found, {name: sink.on_full for name, sink in sinks.items()})
    return 0 if found.ok else 1


def _print(found: Audit, on_full: dict[str, str]) -> None:
    print(f"accepted: {_count_text(found.accepted)}")
    if found.in_flight:
        print(f"no answer known: {_count_text(sum_of(found.in_flight.values()))}")
    if found.is_moving:
        print("the pipeline is running: what moved meanwhile is not held against it")
    if found.kept_from_hour is not None:
        print(f"accounts are kept from {_hour_text(found.kept_from_hour)} on")
    width = max((len(sink.name) for sink in found.sinks), default=0)
    for sink in found.sinks:
        _print_sink(sink, width, on_full[sink.name])
    for name in found.strangers:
        print(escaped(f"{name}: has accounts, but is not in the file or not enabled"))
    for text in found.damaged:
        print(escaped(f"damaged accounts: {text}"))


def _print_sink(sink: SinkAudit, width: int, on_full: str) -> None:
    head = f"{sink.name:<{width}}  "
    if not sink.ok:
        head += "DIFFERS   "
    else:
        head += "ok        " if sink.found is not None else _NOT_FOUND.get(sink.type, "uncounted ")
    shown = sink.found if sink.found is not None else sum_of(sink.outcomes.values())
    parts = [f"{_count_text(shown)}{'' if sink.found is None else ' found'}"]
    for outcome, count in sorted(sink.outcomes.items()):
        if outcome != DURABLE:
            text = _WORDS.get(outcome, outcome)
            if outcome == DROPPED:
                text += ": the spool was full" if on_full == "spool" else ": too much in flight"
            parts.append(f"{count_text(count.events)} {text}")
    if sink.left_in_spool.batches:
        parts.append(f"{count_text(sink.left_in_spool.events)} wait in the spool")
    if sink.answerless.batches:
        parts.append(f"{count_text(sink.answerless.events)} of no known answer are there")
    print(escaped(head + "; ".join(parts)))
    for difference in sink.differences[:SHOWN_MAX]:
        print(f"{'':<{width}}    {_difference_text(difference)}")
    if len(sink.differences) > SHOWN_MAX:
        print(f"{'':<{width}}    and {count_text(len(sink.differences) - SHOWN_MAX)} more")
    for table in sink.tables:
        text = _table_text(table)
        if text:
            print(escaped(f"{'':<{width}}    {text}"))
    if sink.unread is not None:
        print(escaped(f"{'':<{width}}    its rows could not be counted: {sink.unread}"))
    for problem in sink.problems[:SHOWN_MAX]:
        print(escaped(f"{'':<{width}}    {problem}"))


def _difference_text(difference: Difference) -> str:
    by = difference.by
    if difference.kind == "dead letters missing":
        what = f"{count_text(by.messages)} messages of dead letters missing"
    elif by.events:
        what = f"{count_text(by.events)} events {difference.kind}"
    else:
        what = (
            f"{count_text(by.messages)} messages in {count_text(by.batches)} batches "
            f"{difference.kind}"
        )
    text = f"workspace {difference.place.workspace_id}, {_hour_text(difference.place.hour)}: {what}"
    if difference.kind in ("missing", "too many"):
        accounted, found = difference.accounted.events, difference.found.events
        text += f" (accounted {count_text(accounted)}, found {count_text(found)})"
    return text


def _table_text(table: TableCount) -> str:
    """What is to be said of a table; nothing where its rows are as many as they should be."""
    if table.found is None:
        return ""
    wrong = f"{count_text(table.missing)} rows missing" if table.missing else ""
    if table.too_many:
        wrong = f"{count_text(table.too_many)} rows too many"
    if not wrong:
        return f"{table.name}: {table.note}" if table.note and table.high else ""
    accounted = table.low if table.missing else table.high or 0
    text = f"{table.name}: {wrong} (accounted {count_text(accounted)}, "
    return text + f"found {count_text(table.found)}){table.note and '; ' + table.note}"


def _count_text(count: Count) -> str:
    return f"{count_text(count.events)} events in {count_text(count.batches)} batches"


def _hour_text(hour: int) -> str:
    return _time(hour).strftime("%Y-%m-%d %H:00 UTC")


def _time(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_MS / 1000, UTC)


def _as_json(found: Audit) -> dict[str, Any]:
    return {
        "ok": found.ok,
        "is_moving": found.is_moving,
        "accepted": asdict(found.accepted),
        "in_flight": [
            {**_place(place), **asdict(count)} for place, count in sorted(found.in_flight.items())
        ],
        "sinks": {sink.name: _sink_as_json(sink) for sink in found.sinks},
        "not_asked_for": found.strangers,
        "damaged": found.damaged,
    }


def _sink_as_json(sink: SinkAudit) -> dict[str, Any]:
    return {
        "type": sink.type,
        "ok": sink.ok,
        "outcomes": {outcome: asdict(count) for outcome, count in sink.outcomes.items()},
        "expected": None if sink.found is None else asdict(sink.expected),
        "found": None if sink.found is None else asdict(sink.found),
        "answerless": asdict(sink.answerless),
        "left_in_spool": asdict(sink.left_in_spool),
        "differences": [
            {
                "kind": each.kind,
                **_place(each.place),
                "accounted": asdict(each.accounted),
                "found": asdict(each.found),
            }
            for each in sink.differences
        ],
        "tables": [asdict(table) for table in sink.tables],
        "unread": sink.unread,
        "problems": sink.problems,
    }


def _place(place: Place) -> dict[str, Any]:
    return {"workspace": place.workspace_id, "hour": _time(place.hour).isoformat()}
