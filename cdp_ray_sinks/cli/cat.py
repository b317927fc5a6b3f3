"""`cdp-sinks cat`: the events of archives, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.cli.archive_reading import check_paths, new_batches_of
from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.cli.output import escaped, say, to_json, wants_colour
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.files.archive_reading import ALL, read_batches
from cdp_ray_sinks.files.selection import Selection

DIM: Final = "2"
CYAN: Final = "36"
LEVEL_COLOURS: Final = {
    "EMERGENCY": "31",
    "ALERT": "31",
    "CRITICAL": "31",
    "ERROR": "31",
    "WARNING": "33",
    "NOTICE": "32",
    "INFO": "32",
}
_SHOWN_APART: Final = {
    "workspace_id",
    "schema",
    "timestamp_ms",
    "timestamp_ns",
    "received_at_ms",
    "source_ip",
    "event_type",
    "level",
    "event_name",
    "name",
    "payload",
}


def cat_archives(
    paths: Sequence[Path],
    limit: int | None,
    as_json: bool,
    selection: Selection = ALL,
    follow: bool = False,
) -> int:
    """Print up to `limit` selected events; 1 if something could not be read.

    With `follow` events are printed as they land, until Ctrl-C.
    """
    damaged = 0

    def on_damage(text: str) -> None:
        nonlocal damaged
        damaged += 1
        say(f"damaged: {text}")

    check_paths(paths)
    colour = wants_colour()
    batches: Iterable[Batch]
    if follow:
        say(f"following {', '.join(map(str, paths))}; Ctrl-C ends")
        batches = new_batches_of(paths, on_damage, selection, SystemClock())
    else:
        batches = (b for _, b in read_batches(paths, lambda e: on_damage(str(e)), selection))
    left = limit
    try:
        for batch in batches if limit != 0 else ():
            for event in islice(events_of(batch, on_damage, selection), left):
                line = to_json(event) if as_json else event_line(event, colour)
                sys.stdout.write(line + "\n")
                left = None if left is None else left - 1
            if follow:
                sys.stdout.flush()
            if left == 0:
                break
    except KeyboardInterrupt:
        if not follow:
            raise
    return 1 if damaged else 0


def event_line(event: Mapping[str, Any], colour: bool) -> str:
    """One line for people; what a client sent can't leave the line or command the terminal."""

    def painted(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text

    kind = event.get("level") or event.get("event_type") or str(event["schema"]).upper()
    code = LEVEL_COLOURS.get(kind, DIM) if "level" in event else CYAN
    title = event.get("event_name") or event.get("name") or ""
    rest = " ".join(
        f"{key}={_short(value)}"
        for key, value in event.items()
        if key not in _SHOWN_APART and value is not None
    )
    parts = [
        painted(DIM, time_text(event_time_ms(event))),
        f"ws:{event['workspace_id']}",
        str(event.get("source_ip", "")),
        painted(code, f"{kind:<8}"),
        escaped(str(title)),
        painted(DIM, rest),
        "" if event.get("payload") is None else _short(event["payload"]),
    ]
    return " ".join(part for part in parts if part)


def event_time_ms(event: Mapping[str, Any]) -> int | None:
    """When it happened, whatever unit its schema uses; None if it does not say."""
    if "timestamp_ns" in event:
        return int(event["timestamp_ns"]) // 1_000_000
    time_ms = event.get("timestamp_ms")
    return None if time_ms is None else int(time_ms)


def time_text(time_ms: int | None) -> str:
    """ISO 8601 in UTC; the bare number if no calendar has it, `-` for None."""
    if time_ms is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms}ms"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return escaped(value)
    return escaped(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
