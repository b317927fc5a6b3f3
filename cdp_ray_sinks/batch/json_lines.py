"""NDJSON, as client SDKs send it over HTTP, to messages.

Lines of `/v1/events` and `/v1/logs`: `batch/kernels/json_lines.py` says what becomes of their
keys. A line that is wrong costs that line, and is named with its number and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Bytes, Offsets
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import ID_BYTES, SchemaType
from cdp_ray_sinks.batch.kernels import json_scan as scan
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.json_lines import (
    LINES_FULL,
    PROBLEM_BYTE,
    PROBLEM_COLUMNS,
    PROBLEM_FROM,
    PROBLEM_LINE,
    PROBLEM_STATUS,
    PROBLEM_TO,
    read_lines,
)

EVENTS_PER_MESSAGE: Final = 500
_MESSAGE_BYTES_WANTED: Final = 1024 * 1024
_KEY_CHARACTERS_SHOWN: Final = 64
_BOM: Final = b"\xef\xbb\xbf"

_REASONS: Final = {
    scan.SCAN_SYNTAX: "not JSON at byte {byte}",
    scan.SCAN_ENDS: "ends too early, at byte {byte}",
    scan.SCAN_NOT_OBJECT: "not a JSON object",
    scan.SCAN_TOO_DEEP: f"deeper than {scan.JSON_DEPTH_MAX} objects and arrays, at byte {{byte}}",
    scan.SCAN_DUPLICATE: "the key {key} is there twice",
    scan.SCAN_NOT_A_NUMBER: "NaN and Infinity are not JSON, at byte {byte}",
    scan.SCAN_SURROGATE: "half a surrogate pair at byte {byte}",
    scan.SCAN_UTF8: "not UTF-8 at byte {byte}",
    scan.SCAN_CONTROL: "a control character in a string, at byte {byte}",
    scan.SCAN_ESCAPE: "an unknown escape at byte {byte}",
    scan.SCAN_KEYS: f"more than {scan.OBJECT_KEYS_MAX} keys",
    scan.SCAN_TRAILING: "something behind the object, at byte {byte}",
    scan.SCAN_NO_TYPE: "neither an event nor a type that is track, identify, group, alias, enrich"
    " or context",
}


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why a line, counted from 1, was refused."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReadLines:
    """What the lines of a body became.

    `records` and `offsets` are messages in wire frames, see `encode_events`; none if
    `event_count` is 0. `rejected_count` lines were refused; `problems` names the first.
    """

    records: Bytes
    offsets: Offsets
    event_count: int
    rejected_count: int
    problems: tuple[LineProblem, ...]


class TooManyLinesError(ValueError):
    """A body has more lines than are taken at once."""


class LineReader:
    """Reads bodies, one after the other; its tables are reused. For one thread."""

    def __init__(self, line_count_max: int = 10_000, problems_shown_max: int = 100) -> None:
        self._line_count_max = line_count_max
        self._problems_shown_max = problems_shown_max
        table_rows = 5 * scan.OBJECT_KEYS_MAX
        self._tables = (
            np.zeros((table_rows, scan.MEMBER_COLUMNS), np.int64),
            np.zeros(table_rows, np.uint64),
            np.zeros(table_rows, np.int64),
            np.zeros(table_rows, np.uint64),
            np.zeros(2, np.int64),
        )

    def read(self, body: bytes | bytearray, schema_type: int, received_at_ms: int) -> ReadLines:
        """The lines of a body as messages of EVENT or LOG; their api key is zeros.

        An entry without a time of its own gets `received_at_ms`. Raises TooManyLinesError.
        """
        is_log = schema_type == SchemaType.LOG
        if body.startswith(_BOM):
            body = body[len(_BOM) :]
        text = np.frombuffer(bytes(body) + bytes(scan.SCAN_SLACK_BYTES), np.uint8)
        rows_max = min(body.count(b"\n") + 1, self._line_count_max)
        columns = _columns(rows_max, len(body))
        problems = np.empty((rows_max, PROBLEM_COLUMNS), np.int64)
        rows, wrong, status = read_lines(
            readonly(text),
            len(body),
            received_at_ms,
            is_log,
            rows_max,
            columns,
            self._tables,
            np.empty(len(body) + 64 + 2 * scan.SCAN_SLACK_BYTES, np.uint8),
            problems,
        )
        if status == LINES_FULL:
            raise TooManyLinesError(f"more than {self._line_count_max} lines")
        found = [_problem(body, row) for row in problems[: min(wrong, self._problems_shown_max)]]
        records, offsets = _encoded(columns, rows, is_log)
        return ReadLines(records, offsets, rows, wrong, tuple(found))


def _columns(rows: int, body_bytes: int) -> tuple[NDArray[Any], ...]:
    """Room for the columns of `rows` lines that have `body_bytes` together."""
    bits = rows // 8 + 1

    def strings(room: int) -> tuple[NDArray[Any], ...]:
        return np.empty(room, np.uint8), np.empty(rows + 1, np.int32), np.zeros(bits, np.uint8)

    return (
        np.empty(rows, np.uint8),
        np.empty(rows, np.uint8),
        np.empty(rows, np.int64),
        np.empty(ID_BYTES * rows, np.uint8),
        np.empty(ID_BYTES * rows, np.uint8),
        np.zeros(bits, np.uint8),
        np.zeros(bits, np.uint8),
        *strings(body_bytes + 64),
        *strings(body_bytes + 64),
        *strings(body_bytes + 8 * rows + 64),
    )


def _encoded(columns: tuple[NDArray[Any], ...], rows: int, is_log: bool) -> tuple[Bytes, Offsets]:
    if rows == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.uint64)
    codes, levels, times, devices, sessions, device_valid, session_valid, *strings = columns
    texts, names, payloads = (_strings(rows, *strings[at : at + 3]) for at in (0, 3, 6))
    session_ids = _ids(rows, sessions, session_valid)
    payload_bytes = int(strings[7][rows])
    fitting = max(1, rows * _MESSAGE_BYTES_WANTED // max(payload_bytes, 1))
    per_message = min(EVENTS_PER_MESSAGE, fitting)
    if is_log:
        return encode_logs(
            codes[:rows], levels[:rows], times[:rows], session_ids, texts, names, payloads,
            events_per_message=per_message, as_frames=True,
        )  # fmt: skip
    return encode_events(
        codes[:rows], times[:rows], _ids(rows, devices, device_valid), session_ids, names, texts,
        payloads, events_per_message=per_message, as_frames=True,
    )  # fmt: skip


def _strings(rows: int, text: NDArray[Any], offsets: NDArray[Any], valid: NDArray[Any]) -> pa.Array:
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.binary(), rows, buffers)


def _ids(rows: int, ids: NDArray[Any], valid: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(
        pa.binary(ID_BYTES), rows, [pa.py_buffer(valid), pa.py_buffer(ids)]
    )


def _problem(body: bytes | bytearray, row: NDArray[np.int64]) -> LineProblem:
    key = bytes(body[int(row[PROBLEM_FROM]) : int(row[PROBLEM_TO])]).decode(errors="replace")
    if len(key) > _KEY_CHARACTERS_SHOWN:
        key = key[:_KEY_CHARACTERS_SHOWN] + "…"
    reason = _REASONS[int(row[PROBLEM_STATUS])]
    return LineProblem(
        int(row[PROBLEM_LINE]), reason.format(byte=int(row[PROBLEM_BYTE]), key=f'"{key}"')
    )


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    line = b'{"type":"track","event":"a","timestamp":1,"b":1}'
    for schema_type in (SchemaType.EVENT, SchemaType.LOG):
        LineReader(1).read(line, schema_type, 0)
