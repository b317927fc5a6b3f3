"""The outputs of the decoders: numpy arrays that grow when asked and can be used again."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.decode_logs import LogColumns
from cdp_ray_sinks.batch.kernels.event_columns import EventColumns, NameTable
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX, SLOTS
from cdp_ray_sinks.batch.kernels.rows import (
    MORE_NAMES,
    MORE_PAYLOAD,
    MORE_ROWS,
    MORE_SERVICE,
    MORE_SOURCE,
    SLACK_BYTES,
    STATE_COUNT,
    RecordColumns,
)

Columns = TypeVar("Columns", EventColumns, LogColumns)

COLUMN_BYTES_MAX: Final = 2**31 - 1
"""Arrow's 32-bit offsets reach no further."""

_ID_COLUMNS: Final = {"device_id", "session_id", "source_ip"}
_OFFSET_COLUMNS: Final = {"names", "source_offsets", "service_offsets", "payload_offsets"}
_TEXT_COLUMNS: Final = {"source", "service", "payload"}
_TYPES: Final[dict[str, Any]] = {
    "timestamp": np.int64,
    "received_at_ms": np.int64,
    "message_index": np.uint32,
    **dict.fromkeys(_OFFSET_COLUMNS, np.int32),
}
_GROWING: Final = {MORE_SOURCE: "source", MORE_SERVICE: "service", MORE_PAYLOAD: "payload"}
_TEXT_BYTES_FIRST: Final = 64 * 1024


def _array(name: str, count: int) -> Any:
    """Memory from Arrow's pool, which keeps what was freed; the system's would fault again."""
    kind = np.dtype(_TYPES.get(name, np.uint8))
    return np.frombuffer(pa.allocate_buffer(count * kind.itemsize), kind)


def _count(name: str, rows: int) -> int:
    """Values that a column other than text needs for `rows` rows."""
    return rows * (ID_BYTES if name in _ID_COLUMNS else 1) + (name in _OFFSET_COLUMNS)


def _grown(name: str, array: Any, count: int) -> Any:
    larger = _array(name, count)
    larger[: len(array)] = array
    return larger


class DecodeBuffers:
    """Where one decoder at a time puts its columns.

    Handed to `decode_events` or `decode_logs` again and again it saves fresh memory, which
    is slow; then what was decoded before is overwritten, Arrow arrays included. Grows to
    what the largest batch needed, at most some 30 times its bytes: what the budget of
    `tables.BUDGET_FACTOR` allows in text and rows, doubled by growing in steps of two. What
    `further` adds comes on top, at most as much again.
    """

    def __init__(self) -> None:
        self._columns: dict[type, Any] = {}
        self.table = NameTable(
            np.zeros(SLOTS, np.int32),
            np.empty(2 * NAMES_MAX, np.uint64),
            np.zeros(NAMES_MAX + 1, np.int32),
            np.empty(_TEXT_BYTES_FIRST, np.uint8),
        )
        self.common = RecordColumns(
            _array("message_index", 0),
            _array("received_at_ms", 0),
            _array("source_ip", 0),
            np.empty((0, 3), np.int64),
        )
        self.state = np.zeros(STATE_COUNT, np.int64)
        self._further: dict[str, NDArray[np.uint8]] = {}

    @property
    def held_bytes(self) -> int:
        """The memory of all outputs, in bytes; pages never written take none of it."""
        sets = [self.table, self.common, *self._columns.values(), self._further.values()]
        return sum(array.nbytes for columns in sets for array in columns)

    def further(self, name: str, kind: Any, count: int) -> NDArray[Any]:
        """An array for what is made of the columns; what `name` had before is overwritten."""
        needed = count * np.dtype(kind).itemsize
        if name not in self._further or len(self._further[name]) < needed:
            self._further[name] = _array(name, needed)
        return self._further[name][:needed].view(kind)

    def columns(self, kind: type[Columns], rows: int, records_bytes: int) -> Columns:
        """Empty outputs for `rows` rows, a first guess, of a batch of `records_bytes`."""
        found: Columns | None = self._columns.get(kind)
        if found is None:
            found = kind(*[_array(name, 0) for name in kind._fields])
        for name in kind._fields:
            needed = _count(name, rows)
            if name in _TEXT_COLUMNS:
                needed = records_bytes if name == "payload" else _TEXT_BYTES_FIRST
                needed += SLACK_BYTES
            if len(getattr(found, name)) < needed:
                found = found._replace(**{name: _array(name, needed)})
            if name in _OFFSET_COLUMNS:
                getattr(found, name)[0] = 0
        self._columns[kind] = found
        return found

    def common_for(self, rows: int, messages: int) -> RecordColumns:
        """The columns that every schema has, for as many rows and damaged messages."""
        for name in ("message_index", "received_at_ms", "source_ip"):
            if len(getattr(self.common, name)) < _count(name, rows):
                self.common = self.common._replace(**{name: _array(name, _count(name, rows))})
        if len(self.common.damage) < messages:
            self.common = self.common._replace(damage=np.empty((messages, 3), np.int64))
        return self.common

    def restart(self) -> None:
        """Forget all rows and names."""
        self.state[:] = 0
        self.table.slots[:] = 0

    def grow(self, kind: type[Columns], lacking: int) -> Columns:
        """Double what is `lacking`, keeping what is there.

        Raises ValueError when a column of bytes would pass COLUMN_BYTES_MAX.
        """
        columns: Columns = self._columns[kind]
        if lacking == MORE_ROWS:
            rows = 2 * len(columns.event_type) + 64
            changed = {
                name: _grown(name, getattr(columns, name), _count(name, rows))
                for name in kind._fields
                if name not in _TEXT_COLUMNS
            }
            self.common = self.common._replace(
                **{
                    name: _grown(name, getattr(self.common, name), _count(name, rows))
                    for name in ("message_index", "received_at_ms", "source_ip")
                }
            )
        elif lacking == MORE_NAMES:
            text = self.table.text
            self.table = self.table._replace(
                text=_grown("text", text, _doubled("names", len(text)))
            )
            return columns
        else:
            name = _GROWING[lacking]
            column = getattr(columns, name)
            changed = {name: _grown(name, column, _doubled(name, len(column)))}
        self._columns[kind] = columns._replace(**changed)
        return columns._replace(**changed)


def _doubled(name: str, count: int) -> int:
    if count >= COLUMN_BYTES_MAX:
        raise ValueError(f"a batch with more than {COLUMN_BYTES_MAX} bytes of {name}")
    return min(2 * count, COLUMN_BYTES_MAX)
