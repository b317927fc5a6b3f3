"""`cdp-sinks deadletters`: what sinks refused for good, why, and one more try at it.

A sink's dead letters are an archive, `{state_dir}/dead_letters/{sink}`, with a line of JSON
for each refusal in `reasons.jsonl`. A replay moves the folder to `.replaying/{sink}`, where no
running pipeline writes, sends all of it to its sink under ids that are the same at each try,
and moves it to `.replayed/{sink}-{time}` once all of it is settled. What is refused again is
among the new dead letters.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.cli.cat import event_line
from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.cli.output import (
    count_text,
    escaped,
    print_json,
    results_apart,
    say,
    to_json,
    wants_colour,
)
from cdp_ray_sinks.cli.running import use_auth_token
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.delivery.audit import SPOOL_SUFFIXES
from cdp_ray_sinks.delivery.dead_letters import REASONS_FILE
from cdp_ray_sinks.errors import CdpError, ConfigError, DrainTimeoutError
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.files.lane_folders import is_of_lane

REPLAYING: Final = ".replaying"
REPLAYED: Final = ".replayed"
EPOCH_FILE: Final = "epoch"


@dataclass(slots=True)
class Refusals:
    """What one archive's reasons say together."""

    name: str
    messages: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Count one line of `reasons.jsonl`."""
        count, at_ms = int(line["messages"]), int(line["at_ms"])
        self.messages += count
        reason = f"{line['error']}: {line['reason']}"
        self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.first_ms = at_ms if self.first_ms is None else min(self.first_ms, at_ms)
        self.last_ms = at_ms if self.last_ms is None else max(self.last_ms, at_ms)


def list_dead_letters(path: Path, sink: str | None, as_json: bool) -> int:
    """Per sink: how many messages it refused, when, and for which reasons."""
    config = load(path)
    found = []
    for folder in _folders(config, sink):
        refusals = Refusals(folder.name)
        for line in _reasons(folder):
            refusals.add(line)
        found.append(refusals)
    if as_json:
        print_json([_as_json(refusals) for refusals in found])
        return 0
    if not found:
        print("no dead letters")
    for refusals in found:
        when = f"{_time(refusals.first_ms)} to {_time(refusals.last_ms)}"
        print(escaped(f"{refusals.name}: {count_text(refusals.messages)} messages, {when}"))
        for reason, count in sorted(refusals.reasons.items(), key=lambda pair: -pair[1]):
            print(escaped(f"  {count_text(count):>9}  {reason}"))
    return 0


def show_dead_letters(path: Path, sink: str | None, limit: int | None, as_json: bool) -> int:
    """The refused events themselves, as `cat` prints them; 1 if some can't be read."""
    damaged = 0

    def on_damage(damage: object) -> None:
        nonlocal damaged
        damaged += 1
        say(f"damaged: {damage}")

    colour = wants_colour()
    events = (
        event
        for folder in _folders(load(path), sink)
        for _, batch in read_batches([folder], on_damage)
        for event in events_of(batch, on_damage)
    )
    for event in islice(events, limit):
        print(to_json(event) if as_json else event_line(event, colour))
    return 1 if damaged else 0


def replay_dead_letters(path: Path, sink: str | None, as_json: bool) -> int:
    """Send them to their sinks again; 1 if some were refused again or are not settled."""
    config = load(path)
    base = config.dead_letter_dir()
    use_auth_token(os.environ)
    done = {}
    with results_apart() as results:
        for folder in _to_replay(config, base, sink):
            done[folder.name] = result = _replay(config, folder)
            text = ", ".join(f"{count_text(count)} {what}" for what, count in result.items())
            if not as_json:
                print(escaped(f"{folder.name}: {text or 'nothing to replay'}"), file=results)
            if not result.get("unsettled"):
                target = base / REPLAYED / f"{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
                target.parent.mkdir(exist_ok=True)
                folder.rename(target)
        if as_json:
            print_json(done, results)
        elif not done:
            print("no dead letters", file=results)
    good = all(set(result) <= {"durable", "spooled"} for result in done.values())
    return 0 if good else 1


def _folders(config: PipelineConfig, sink: str | None) -> list[Path]:
    base = config.dead_letter_dir()
    if sink is not None and sink not in config.sinks:
        raise ConfigError(f"--sink {sink!r}: there is no such sink in the file")
    return [
        folder
        for folder in (sorted(base.iterdir()) if base.is_dir() else [])
        if folder.is_dir()
        and not folder.name.startswith(".")
        and (sink is None or sink_of(config, folder.name) == sink)
    ]


def sink_of(config: PipelineConfig, name: str) -> str:
    """The sink whose dead letters an archive of that name holds."""
    found = next((sink for sink in config.sinks if is_of_lane(name, sink)), None)
    if found is not None:
        return found
    suffix = next((suffix for suffix in SPOOL_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _reasons(folder: Path) -> Iterator[Mapping[str, Any]]:
    path = folder / REASONS_FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError:
                # A crash may cut the last line; the messages themselves are in the archive.
                say(f"damaged: {path}: line {number} is not JSON")


def _to_replay(config: PipelineConfig, base: Path, sink: str | None) -> list[Path]:
    """Set the archives aside, each under an epoch of its own; those of an earlier try first."""
    aside = base / REPLAYING
    folders = _folders(config, sink)
    if folders:
        aside.mkdir(exist_ok=True)
    for folder in folders:
        target = aside / folder.name
        if target.exists():
            continue  # an earlier try is to be ended first; these come with the next one
        (folder / EPOCH_FILE).write_text(str(secrets.randbits(62) + 1))
        folder.rename(target)
    found = sorted(aside.iterdir()) if aside.is_dir() else []
    return [f for f in found if sink is None or sink_of(config, f.name) == sink]


def _replay(config: PipelineConfig, folder: Path) -> dict[str, int]:
    """Messages by outcome; "unsettled" are those whose fate is not known."""
    from cdp_ray_sinks.pipeline import Pipeline

    name = sink_of(config, folder.name)
    if name not in config.sinks:
        raise ConfigError(f"{folder}: the file has no sink {name!r} to replay to")
    only = PipelineConfig(
        pipeline={
            "name": f"{config.pipeline.name}-replay",
            "state_dir": config.state_dir(),
        },
        ray=config.ray,
        delivery=config.delivery,
        sinks={name: config.sinks[name].model_copy(update={"enabled": True, "required": True})},
    )
    epoch = int((folder / EPOCH_FILE).read_text())
    counts: dict[str, int] = {}
    with Pipeline(only, report=say) as pipeline:
        producer = pipeline.producer(f"deadletters/{folder.name}", epoch=epoch)
        tickets = []
        for _, batch in read_batches([folder], _fail):
            tickets.append((batch.header.message_count, producer.submit(batch)))
        try:
            producer.flush(config.delivery.drain_deadline_s)
        except DrainTimeoutError as error:
            say(str(error))
        for messages, ticket in tickets:
            outcome = ticket.result(0)[name] if ticket.done() else "unsettled"
            counts[outcome] = counts.get(outcome, 0) + messages
    return counts


def _fail(damage: CdpError) -> None:
    say(f"damaged: {damage}")


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _as_json(refusals: Refusals) -> dict[str, Any]:
    return {
        "name": refusals.name,
        "messages": refusals.messages,
        "first_ms": refusals.first_ms,
        "last_ms": refusals.last_ms,
        "reasons": refusals.reasons,
    }
