"""Events as plain values, for people and for JSON: names for numbers, text for ids."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Any, Final, NoReturn

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import (
    decode_events,
    decode_logs,
    decode_metrics,
    decode_snapshots,
    decode_traces,
)
from cdp_ray_sinks.batch.enums import (
    EventType,
    LogEventType,
    LogLevel,
    MetricType,
    SchemaType,
    SpanKind,
    SpanStatus,
    Temporality,
)
from cdp_ray_sinks.errors import MalformedMessageError
from cdp_ray_sinks.files.archive_reading import ALL
from cdp_ray_sinks.files.row_selection import wanted_rows
from cdp_ray_sinks.files.selection import Selection

Plain = dict[str, Any]

_ENUMS: Final[Mapping[str, type[IntEnum]]] = {
    "level": LogLevel,
    "metric_type": MetricType,
    "temporality": Temporality,
    "kind": SpanKind,
    "status": SpanStatus,
}
DEPTH_MAX: Final = 200
"""A payload that nests deeper is shown as text."""

_UUIDS: Final = {"device_id", "session_id"}


def events_of(
    batch: Batch, on_damage: Callable[[str], None], selection: Selection = ALL
) -> Iterator[Plain]:
    """Each selected event, log entry, metric, span or snapshot of a batch, in byte order.

    Messages that do not decode are left out and reported to `on_damage`, one text each.
    A message of an unknown schema comes out whole, as hex.
    """
    header = batch.header

    def tell(text: str) -> None:
        on_damage(f"batch {header.batch_id} of workspace {header.workspace_id}: {text}")

    schema = _name(SchemaType, header.schema_type).lower()
    event_types = LogEventType if header.schema_type == SchemaType.LOG else EventType
    for row in _rows(batch, tell, selection):
        row.pop("message_index", None)
        happened_ms = row.get("timestamp", row.get("timestamp_ms"))
        if happened_ms is None and "timestamp_ns" in row:
            happened_ms = int(row["timestamp_ns"]) // 1_000_000
        is_by_event = selection.time == "event" and selection.has_range
        if is_by_event and happened_ms is not None and not selection.holds_time(happened_ms):
            continue
        plain: Plain = {"workspace_id": header.workspace_id, "schema": schema}
        for key, value in row.items():
            if key == "timestamp":
                plain["timestamp_ms"] = value
            elif key == "event_type":
                plain[key] = _name(event_types, value)
            elif key in _ENUMS:
                plain[key] = _name(_ENUMS[key], value)
            else:
                plain[key] = _plain(key, value)
        yield plain


def _rows(batch: Batch, on_damage: Callable[[str], None], selection: Selection) -> Iterable[Plain]:
    """Rows as the decoder of the batch's schema names their fields."""

    def tell(message: int, error: MalformedMessageError) -> None:
        on_damage(f"message {message}: {error}")

    match batch.header.schema_type:
        case SchemaType.EVENT | SchemaType.LOG:
            is_event = batch.header.schema_type == SchemaType.EVENT
            decoded = decode_events(batch) if is_event else decode_logs(batch)
            for text in decoded.damage_texts():
                on_damage(text)
            table = wanted_rows(decoded.table, batch.header.schema_type, selection)
            rows: list[Plain] = table.to_pylist()
            return rows
        case SchemaType.METRIC:
            return decode_metrics(batch, tell)
        case SchemaType.TRACE:
            return decode_traces(batch, tell)
        case SchemaType.SNAPSHOT:
            return decode_snapshots(batch, tell)
    return ({"message": bytes(message)} for message in batch.messages())


def _name(kind: type[IntEnum], value: Any) -> str:
    """The name of an enum's number; the number itself, as text, if it has none."""
    try:
        return kind(value).name
    except ValueError:
        return str(value)


def _plain(key: str, value: Any) -> Any:
    """A value as JSON has it, by the name of its field."""
    if not isinstance(value, bytes):
        return value
    if key == "payload":
        return payload_value(value)
    if key == "source_ip":
        return ip_text(value)
    if key in _UUIDS:
        return str(uuid.UUID(bytes=value)) if len(value) == 16 else None
    return value.hex()


def ip_text(address: bytes) -> str:
    """16 address bytes as people write them: dotted if it is IPv4, else compressed IPv6."""
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped or ip)


def payload_value(payload: bytes) -> Any:
    """What a payload holds: parsed if it is strict JSON, else its text, else 0x and hex."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return "0x" + payload.hex()
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return value if _is_shallow(text, value) else text


def _is_shallow(text: str, value: Any) -> bool:
    """Whether a parsed value can be written again without recursing too deeply."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return True
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
