"""Batches as lines for people at a terminal: short, coloured, and safe to print.

Everything that a client sent is cut to TEXT_CHARACTERS_MAX and escaped, so the only control
sequences in a line are the colours.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Any, Final

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import (
    DecodedRows,
    decode_events,
    decode_logs,
    decode_metrics,
    decode_snapshots,
    decode_traces,
)
from cdp_ray_sinks.batch.enums import (
    RECORD_PREFIX_BYTES,
    EventType,
    LogLevel,
    MetricType,
    SchemaType,
    SpanKind,
    SpanStatus,
)
from cdp_ray_sinks.batch.messages import nested_data
from cdp_ray_sinks.batch.safe_text import escaped
from cdp_ray_sinks.errors import MalformedMessageError

Row = dict[str, Any]

TEXT_CHARACTERS_MAX: Final = 120
PAGE_RECORD_BYTES: Final = 256 * 1024
"""Messages are decoded in pages of about so many bytes, or one by one if larger."""
PAGE_LINES_MAX: Final = 256
_JSON_BYTES_MAX: Final = 4096

_DIM, _RED, _YELLOW, _GREEN, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
_DAY_MS: Final = 86_400_000
_NANOSECONDS_A_MS: Final = 1_000_000


class TerminalLines:
    """Makes lines as the stdout sink shows them.

    `max_messages` of a batch are shown, 0 = all; a line then says how many were not.
    """

    def __init__(
        self, *, colour: bool = True, show_batch_headers: bool = False, max_messages: int = 0
    ) -> None:
        self._colour = colour
        self._show_batch_headers = show_batch_headers
        self._max_messages = max_messages

    def pages(self, batch: Batch) -> Iterator[list[str]]:
        """The lines of a batch in groups of at most PAGE_LINES_MAX, each with its line end."""
        header = batch.header
        if self._show_batch_headers:
            kind = _name(SchemaType, header.schema_type).capitalize()
            text = (
                f"[BATCH] type={kind} workspace={header.workspace_id} "
                f"source={_shown(header.source_id)} count={header.message_count} "
                f"bytes={header.record_bytes}"
            )
            yield [self._in(_DIM, text) + "\n"]
        shown = header.message_count
        if self._max_messages:
            shown = min(shown, self._max_messages)
        for first, part in _parts(batch, shown):
            lines = self._lines(part, first)
            while page := list(itertools.islice(lines, PAGE_LINES_MAX)):
                yield page
        if shown < header.message_count:
            text = f"ws:{header.workspace_id} {_shown(header.source_id)}"
            text += f" {header.message_count - shown} more messages"
            yield [self._in(_DIM, text) + "\n"]

    def _lines(self, part: Batch, first: int) -> Iterator[str]:
        """A line per row, and one per message that does not decode, in their order."""
        header = part.header
        kind = _name(SchemaType, header.schema_type).lower()
        where = f"ws:{header.workspace_id} {_shown(header.source_id)}"
        show = _SHOWN.get(header.schema_type)
        for row in _rows(part):
            where_from = f"{where} {_address(row['source_ip'])}"
            if "problem" in row:
                problem = f"{kind} {row['problem']} (message {first + row['message_index']})"
                yield f"{self._in(_DIM, where_from)} {self._in(_RED, problem)}\n"
            elif show is None:
                yield f"{self._in(_DIM, where_from)} {kind} <{row['message_bytes']} bytes>\n"
            else:
                time_ms, tone, head, rest = show(row)
                text = self._in(tone, f"{kind} {head}") if tone else f"{kind} {head}"
                yield f"{self._in(_DIM, f'{_clock(time_ms)} {where_from}')} {text} {rest}\n"

    def _in(self, tone: str, text: str) -> str:
        return f"{tone}{text}{_PLAIN}" if self._colour else text


def _parts(batch: Batch, message_count: int) -> Iterator[tuple[int, Batch]]:
    """The first messages of a batch in pages: place of the first, and the page as a batch."""
    offsets = batch.offsets.astype(np.int64)
    first = 0
    while first < message_count:
        until = int(np.searchsorted(offsets, offsets[first] + PAGE_RECORD_BYTES, "right")) - 1
        end = min(message_count, max(first + 1, until))
        start = int(offsets[first])
        header = batch.header._replace(message_count=end - first, event_count=0)
        bounds = (offsets[first : end + 1] - start).astype(np.uint64)
        yield first, Batch(header, batch.records[start : int(offsets[end])], bounds)
        first = end


def _rows(part: Batch) -> list[Row]:
    """What the decoders find, with a row that has a `problem` for each message without any."""
    rows: list[Row] = []

    def damaged(message: int, error: MalformedMessageError | str) -> None:
        rows.append(_record(part, message) | {"problem": _problem(part, message, str(error))})

    match part.header.schema_type:
        case SchemaType.EVENT:
            rows = _table_rows(part, decode_events(part))
        case SchemaType.LOG:
            rows = _table_rows(part, decode_logs(part))
        case SchemaType.METRIC:
            rows += decode_metrics(part, damaged)
        case SchemaType.TRACE:
            rows += decode_traces(part, damaged)
        case SchemaType.SNAPSHOT:
            rows += decode_snapshots(part, damaged)
        case _:
            return [_record(part, place) for place in range(part.header.message_count)]
    rows.sort(key=lambda row: int(row["message_index"]))
    return rows


def _table_rows(part: Batch, decoded: DecodedRows) -> list[Row]:
    rows: list[Row] = decoded.table.to_pylist()
    for message, text in zip(decoded.damaged.tolist(), decoded.damage_texts(), strict=True):
        problem = _problem(part, message, text.partition(": ")[2])
        rows.append(_record(part, message) | {"problem": problem})
    return rows


def _record(part: Batch, message: int) -> Row:
    start, end = part.offsets[message : message + 2].tolist()
    return {
        "message_index": message,
        "source_ip": part.records[start + 8 : start + 24].tobytes(),
        "message_bytes": max(0, end - start - RECORD_PREFIX_BYTES),
    }


def _problem(part: Batch, message: int, reason: str) -> str:
    """Which part of a message is damaged: its envelope, its data, or the entries in them."""
    start, end = part.offsets[message : message + 2].tolist()
    try:
        nested_data(part.records[start + RECORD_PREFIX_BYTES : end].tobytes(), _schema(part))
    except MalformedMessageError as error:
        kind = "data error" if error.reason == "no data" else "parse error"
        return f"{kind}: {error.reason}"
    return f"decode error: {reason}"


def _schema(part: Batch) -> int:
    return part.header.schema_type


# -- one row: its time in ms, the colour of its head, the head, the rest ------------------

_Shown = tuple[int, str, str, str]


def _event(row: Row) -> _Shown:
    device = row["device_id"].hex()[:8] if row["device_id"] else "-"
    rest = f"{_shown(row['event_name'])} dev={device} {_payload(row['payload'])}"
    return row["timestamp"], _GREEN, _name(EventType, row["event_type"]), rest


def _log(row: Row) -> _Shown:
    level = row["level"]
    tone = _RED if level <= LogLevel.ERROR else _YELLOW if level == LogLevel.WARNING else ""
    host = f"@{_shown(row['source'])}" if row["source"] else ""
    rest = f"{_shown(row['service'])}{host} {_payload(row['payload'])}"
    return row["timestamp"], tone, f"{_name(LogLevel, level):<7}", rest


def _snapshot(row: Row) -> _Shown:
    head = f"{_shown(row['source'])} {_shown(row['entity'])}"
    return row["timestamp"], "", head, _payload(row["payload"])


def _metric(row: Row) -> _Shown:
    histogram = row["histogram"]
    if histogram is None:
        value = f"{row['value']:.3f}"
    else:
        value = f"count={histogram['count']} " + " ".join(
            f"{key}={histogram[key]:.3f}" for key in ("sum", "min", "max")
        )
    labels = row["labels"] | row["int_labels"]
    if labels:
        some = itertools.islice(labels.items(), TEXT_CHARACTERS_MAX)
        text = ",".join(f"{key}={inner}" for key, inner in some)
        value += f" {{{_shown(text)}}}"
    name = f"{_shown(row['name'])}@{_shown(row['service'])}"
    time_ms = row["timestamp_ns"] // _NANOSECONDS_A_MS
    return time_ms, _GREEN, _name(MetricType, row["metric_type"]), f"{name} {value}"


def _span(row: Row) -> _Shown:
    status = {SpanStatus.OK: "OK", SpanStatus.ERROR: "ERR"}.get(row["status"], "-")
    tone = _RED if status == "ERR" else _GREEN
    trace = row["trace_id"].hex()[:8] if row["trace_id"] else "-"
    parent = row["parent_span_id"]
    rest = (
        f"{_shown(row['name'])}@{_shown(row['service'])} "
        f"{row['duration_ns'] / _NANOSECONDS_A_MS:.2f}ms trace={trace} "
        f"{f'parent={parent.hex()[:8]}' if parent else 'root'}"
    )
    return (
        row["timestamp_ns"] // _NANOSECONDS_A_MS,
        tone,
        f"{_name(SpanKind, row['kind'])} {status}",
        rest,
    )


_SHOWN: Final[dict[int, Callable[[Row], _Shown]]] = {
    SchemaType.EVENT: _event,
    SchemaType.LOG: _log,
    SchemaType.METRIC: _metric,
    SchemaType.TRACE: _span,
    SchemaType.SNAPSHOT: _snapshot,
}


def _name(kind: type[IntEnum], value: int) -> str:
    """The name of an enum's number; the number itself if it has none."""
    try:
        return kind(value).name
    except ValueError:
        return str(value)


def _clock(time_ms: int) -> str:
    """HH:MM:SS.mmm, UTC."""
    seconds, ms = divmod(time_ms % _DAY_MS, 1000)
    minutes, second = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{ms:03d}"


def _address(address: bytes) -> str:
    if len(address) != 16:
        return "-"
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped or ip)


def _shown(text: str | None) -> str:
    """A client's text, cut and escaped; `-` if there is none."""
    if not text:
        return "-"
    if len(text) > TEXT_CHARACTERS_MAX:
        text = text[: TEXT_CHARACTERS_MAX - 3] + "..."
    return escaped(text)


def _payload(payload: bytes | None) -> str:
    """Compact JSON, else text, else its size; only the beginning of a long one is looked at."""
    if payload is None:
        return "-"
    try:
        # A character may be cut in two where we stop looking.
        beginning = payload[:_JSON_BYTES_MAX]
        is_whole = len(beginning) == len(payload)
        text = codecs.getincrementaldecoder("utf-8")().decode(beginning, final=is_whole)
    except UnicodeDecodeError:
        return f"<{len(payload)} bytes>"
    if is_whole:
        with contextlib.suppress(ValueError, RecursionError):  # then it is text
            text = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    return _shown(text)
