"""The options `--from`, `--to`, `--time`, `--workspace` and `--type`, as a selection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cdp_ray_sinks.batch.enums import EventType, SchemaType
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.selection import Selection

_SCHEMAS: Final = {schema.name.lower(): schema for schema in SchemaType}
_EVENTS: Final = {kind.name.lower(): kind for kind in EventType if kind is not EventType.UNKNOWN}


def make_selection(
    start: str | None,
    end: str | None,
    time: str,
    workspaces: Sequence[int],
    types: Sequence[str],
) -> Selection:
    """What the options ask for. Raises ConfigError that names the option and its value."""
    if time not in ("received", "event"):
        raise ConfigError(f"--time {time}: must be received or event")
    by: Literal["received", "event"] = "event" if time == "event" else "received"
    start_ms, end_ms = time_ms("--from", start, False), time_ms("--to", end, True)
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise ConfigError(f"--from {start} is later than --to {end}")
    schemas, events = _kinds(types)
    return Selection(start_ms, end_ms, by, frozenset(workspaces) or None, schemas, events)


def time_ms(option: str, text: str | None, is_end: bool) -> int | None:
    """ISO 8601 (UTC unless it says otherwise) or Unix milliseconds, as Unix milliseconds.

    A date alone means its first millisecond, or its last for `is_end`.
    """
    if text is None:
        return None
    if text.isdigit() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text}: write 2026-11-22T14:00:00Z, a date, or Unix milliseconds"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if is_end and len(text) <= 10:
        moment += timedelta(days=1, milliseconds=-1)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def _kinds(types: Sequence[str]) -> tuple[frozenset[int] | None, int | None]:
    """Schemas, and the mask of event types; an event type asks for events of just that type."""
    schemas: set[int] = set()
    mask, has_all_events = 0, False
    for name in (part.strip().lower() for text in types for part in text.split(",")):
        if name in _SCHEMAS:
            schemas.add(int(_SCHEMAS[name]))
            has_all_events |= _SCHEMAS[name] is SchemaType.EVENT
        elif name in _EVENTS:
            schemas.add(int(SchemaType.EVENT))
            mask |= 1 << int(_EVENTS[name])
        else:
            known = ", ".join([*_SCHEMAS, *_EVENTS])
            raise ConfigError(f"--type {name}: is none of {known}")
    return frozenset(schemas) or None, None if has_all_events or not mask else mask
