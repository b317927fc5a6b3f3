"""Is a message well formed? In plain Python, for what the kernels don't decode.

The generated readers check nothing: an offset below zero makes Python read from the end of
the bytes, a length beyond them is cut short in silence. What passes here they read right.
Alignment is not asked for, because no writer of the protocol keeps it.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeAlias

from cdp_ray_sinks.batch.kernels.tables import BUDGET_FACTOR, ROW_BUDGET_BYTES
from cdp_ray_sinks.errors import MalformedMessageError

Shape: TypeAlias = tuple[Any, ...]
"""A table's fields by slot: an int is the width of a number, BYTES a byte vector or string,
a tuple the table that is in the field, a list of one tuple a vector of such tables. What
is None or behind the last one is not looked at."""

BYTES: Final = "bytes"

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")

ENVELOPE: Final[Shape] = (BYTES, 1, 1, 8, BYTES, BYTES)
EVENT: Final[Shape] = (1, 8, BYTES, BYTES, BYTES, BYTES, BYTES)
COLLECTOR_EVENT: Final[Shape] = (1, 8, BYTES, BYTES, BYTES, BYTES)
LOG_ENTRY: Final[Shape] = (1, BYTES, 1, 8, BYTES, BYTES, BYTES)
_HISTOGRAM: Final[Shape] = (8, 8, [(8, 8)], 8, 8)
METRIC_ENTRY: Final[Shape] = (
    1,
    8,
    BYTES,
    8,
    BYTES,
    BYTES,
    [(BYTES, BYTES)],
    1,
    _HISTOGRAM,
    BYTES,
    [(BYTES, 8)],
)
SPAN: Final[Shape] = (BYTES, BYTES, BYTES, 8, 8, BYTES, 1, 1, BYTES, BYTES, BYTES, BYTES)
SNAPSHOT: Final[Shape] = (8, BYTES, BYTES, BYTES)


def check(message: bytes | memoryview, shape: Shape, budget_bytes: int | None = None) -> None:
    """Raise MalformedMessageError unless the root table of `message` has that shape.

    Also when it unpacks to more than `budget_bytes`, BUDGET_FACTOR times its own by default,
    each table taken for ROW_BUDGET_BYTES: overlapping vectors would make a small message
    cost much.
    """
    if budget_bytes is None:
        budget_bytes = BUDGET_FACTOR * len(message)
    _Check(message, budget_bytes).root(shape)


class _Check:
    def __init__(self, message: bytes | memoryview, budget_bytes: int) -> None:
        self._message = message
        self._end = len(message)
        self._budget = budget_bytes

    def root(self, shape: Shape) -> None:
        if self._end < 8:
            raise MalformedMessageError("too short for a message", 0)
        self._table(self._u32(0), shape)

    def _u32(self, position: int) -> int:
        self._inside(position, 4)
        return int(_U32.unpack_from(self._message, position)[0])

    def _inside(self, position: int, count: int) -> None:
        if position < 0 or position + count > self._end:
            raise MalformedMessageError("reaches outside the message", position)

    def _spend(self, count: int, position: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise MalformedMessageError("unpacks to far more than its bytes", position)

    def _table(self, table: int, shape: Shape) -> None:
        self._spend(ROW_BUDGET_BYTES, table)
        self._inside(table, 4)
        vtable = table - int(_I32.unpack_from(self._message, table)[0])
        self._inside(vtable, 4)
        extent = int(_U16.unpack_from(self._message, vtable)[0])
        self._inside(vtable, extent)
        if extent < 4 or extent % 2:
            raise MalformedMessageError("not a vtable", vtable)
        for slot, kind in enumerate(shape[: (extent - 4) // 2]):
            offset = int(_U16.unpack_from(self._message, vtable + 4 + 2 * slot)[0])
            if offset and kind is not None:
                self._field(table + offset, kind)

    def _field(self, position: int, kind: Any) -> None:
        if isinstance(kind, int):
            self._inside(position, kind)
            return
        target = position + self._u32(position)
        if isinstance(kind, tuple):
            self._table(target, kind)
            return
        count = self._u32(target)
        self._inside(target + 4, count if kind == BYTES else 4 * count)
        if kind == BYTES:
            self._spend(count, target)
            return
        self._spend(ROW_BUDGET_BYTES * count, target)
        self._budget += ROW_BUDGET_BYTES * count  # each table below spends its own
        for place in range(count):
            item = target + 4 + 4 * place
            self._table(item + self._u32(item), kind[0])
