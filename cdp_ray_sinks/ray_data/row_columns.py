"""Columns of a dataset in the forms that the encoder takes, and which rows can't be sent.

Nothing here is done row by row in Python, but for addresses, of which each is read once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.files.partition import WORKSPACE_ID_MAX

SHOWN_MAX: Final = 5
TIME_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999."""
_NOT_HEX: Final = 255
_HEX: Final = np.full(256, _NOT_HEX, np.uint8)
for _place, _digits in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF", strict=True)):
    _HEX[list(_digits)] = _place


class BadRowsError(CdpError):
    """Rows that can't be sent. `count` of them, and what is wrong with the first few."""

    def __init__(self, where: str, count: int, reasons: tuple[str, ...]) -> None:
        super().__init__(where, count, reasons)
        self.where = where
        self.count = count
        self.reasons = reasons

    def __str__(self) -> str:
        more = f" and {self.count - len(self.reasons)} more" if self.count > SHOWN_MAX else ""
        return f"{self.where}: {self.count} rows can't be sent: {'; '.join(self.reasons)}{more}"


@dataclass(slots=True)
class Problems:
    """Why rows of a block are bad; the first reason of each row counts."""

    rows: int
    _found: list[tuple[str, NDArray[np.bool_]]] = field(default_factory=list)

    def add(self, reason: str, is_bad: NDArray[np.bool_]) -> None:
        """Note the rows for which that is so."""
        if is_bad.any():
            self._found.append((reason, is_bad))

    def reasons(self) -> dict[int, str]:
        """Row to reason, in the order of the rows."""
        found: dict[int, str] = {}
        for reason, is_bad in self._found:
            for row in np.flatnonzero(is_bad).tolist():
                found.setdefault(row, reason)
        return dict(sorted(found.items()))


class BlockColumns:
    """The columns of one block under our names; what is wrong with values goes to `problems`.

    `names` are ours to theirs where they differ. Raises ConfigError for a named column that is
    not there, and from its methods for a column of a type that can't be taken.
    """

    def __init__(self, table: pa.Table, names: Mapping[str, str], problems: Problems) -> None:
        self._table = table
        self._names = names
        self._problems = problems
        for ours, theirs in names.items():
            if theirs not in table.column_names:
                has = ", ".join(map(repr, table.column_names))
                raise ConfigError(
                    f"column {theirs!r} for {ours!r} is not in the rows; they have {has}"
                )

    def has(self, name: str) -> bool:
        """Whether the block has it."""
        return self._names.get(name, name) in self._table.column_names

    def _label(self, name: str) -> str:
        return f"column {self._names.get(name, name)!r}"

    def _column(self, name: str) -> Any:
        column = self._table.column(self._names.get(name, name))
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            none = pa.array([], column.type)
            column = pa.concat_arrays(column.chunks) if column.num_chunks else none
        return column.storage if isinstance(column.type, pa.BaseExtensionType) else column

    def _refuse(self, name: str, found: pa.DataType, wanted: str) -> ConfigError:
        return ConfigError(f"{self._label(name)} is {found}; {name} must be {wanted}")

    def times_ms(self, name: str) -> NDArray[np.int64]:
        """Unix ms, of whole numbers that are such or of timestamps."""
        column = self._column(name)
        kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("ms", kind.tz), safe=False)
            column = column.view(pa.int64())
        elif pa.types.is_date(kind):
            column = column.cast(pa.timestamp("ms")).view(pa.int64())
        elif not pa.types.is_integer(kind):
            raise self._refuse(name, kind, "timestamps, or whole milliseconds since 1970")
        return self._numbers(name, column, 0, TIME_MS_MAX, "is no time from 1970 on, in ms")

    def workspaces(self, name: str) -> NDArray[np.int64]:
        """Whose each row is."""
        column = self._column(name)
        if not pa.types.is_integer(column.type):
            raise self._refuse(name, column.type, "whole numbers")
        return self._numbers(name, column, 1, WORKSPACE_ID_MAX, "is no workspace")

    def _numbers(
        self, name: str, column: pa.Array, low: int, high: int, reason: str
    ) -> NDArray[np.int64]:
        self._problems.add(f"{self._label(name)} is null", _nulls(column))
        if column.null_count:
            column = pc.fill_null(column, low)
        values = column.to_numpy(zero_copy_only=False)
        outside = (values < low) | (values > high)
        self._problems.add(f"{self._label(name)} {reason}", outside)
        if outside.any():
            values = np.where(outside, low, values)
        return np.ascontiguousarray(values, np.int64)

    def codes(self, name: str, kind: type[IntEnum], default: IntEnum) -> NDArray[np.uint8]:
        """Numbers of an enum, of its numbers or its names in any case; nulls are the default."""
        rows = self._table.num_rows
        if not self.has(name):
            return np.full(rows, default, np.uint8)
        column = self._column(name)
        if pa.types.is_null(column.type):
            return np.full(rows, default, np.uint8)
        if pa.types.is_integer(column.type):
            found = pc.fill_null(column, int(default)).to_numpy(zero_copy_only=False)
            known = np.isin(found, [int(member) for member in kind])
        elif _is_text(column.type) or pa.types.is_dictionary(column.type):
            words = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            numbers = {member.name.lower(): int(member) for member in kind}
            table = np.array(
                [numbers.get(str(w).lower(), -1) for w in words.dictionary.to_pylist()]
                + [int(default)],
                np.int64,
            )
            places = pc.fill_null(words.indices, len(table) - 1).to_numpy(zero_copy_only=False)
            found = table[places]
            known = found >= 0
        else:
            raise self._refuse(name, column.type, "names or numbers")
        names = ", ".join(member.name.lower() for member in kind)
        self._problems.add(f"{self._label(name)} is none of {names}", ~known)
        return np.where(known, found, int(default)).astype(np.uint8)

    def ids(self, name: str) -> pa.Array | None:
        """Ids of 16 bytes, of such or of UUIDs as text; null stays null."""
        if not self.has(name):
            return None
        column = self._column(name)
        kind = column.type
        if pa.types.is_null(kind) or kind == pa.binary(ID_BYTES):
            return None if pa.types.is_null(kind) else column
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if _is_text(kind):
            column, is_bad = _uuids(column.cast(pa.utf8()))
            self._problems.add(f"{self._label(name)} is no UUID", is_bad)
            return column
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            lengths = pc.fill_null(pc.binary_length(column), ID_BYTES)
            is_bad = lengths.to_numpy(zero_copy_only=False) != ID_BYTES
            self._problems.add(f"{self._label(name)} has not 16 bytes", is_bad)
            return _where_good(column, is_bad).cast(pa.binary(ID_BYTES))
        raise self._refuse(name, kind, "16 bytes each, or UUIDs as text")

    def texts(self, name: str) -> pa.Array | None:
        """Text or bytes as they are; None if there are none."""
        if not self.has(name):
            return None
        column = self._column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_null(kind):
            return None
        is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if not _is_text(kind) and not is_bytes and not pa.types.is_binary_view(kind):
            raise self._refuse(name, kind, "text or bytes; JSON is given as text")
        return column

    def addresses(self, name: str, default: bytes) -> NDArray[np.uint8]:
        """Addresses of 16 bytes, uint8[rows, 16]; of such or of text, v4 or v6; nulls: default."""
        column = self._column(name)
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        made = [_address(value) for value in column.dictionary.to_pylist()]
        table = np.frombuffer(b"".join(each or default for each in [*made, default]), np.uint8)
        places = pc.fill_null(column.indices, len(made)).to_numpy(zero_copy_only=False)
        known = np.array([each is not None for each in [*made, default]])
        self._problems.add(f"{self._label(name)} is no IP address", ~known[places])
        found: NDArray[np.uint8] = table.reshape(-1, ID_BYTES)[places]
        return found


def _address(value: Any) -> bytes | None:
    """An address in IPv6 form, None if it is none."""
    if isinstance(value, bytes) and len(value) == ID_BYTES:
        return value
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        return None
    mapped = bytes(10) + b"\xff\xff"
    return found.packed if found.version == 6 else mapped + found.packed


def _is_text(kind: pa.DataType) -> bool:
    checks: list[Callable[[Any], bool]] = [
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    ]  # fmt: skip
    return any(check(kind) for check in checks)


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    if not column.null_count:
        return np.zeros(len(column), bool)
    found: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return found


def _where_good(column: pa.Array, is_bad: NDArray[np.bool_]) -> pa.Array:
    if not is_bad.any():
        return column
    return pc.if_else(pa.array(~is_bad), column, pa.scalar(None, column.type))


def _uuids(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """UUIDs as text to 16 bytes each, and which are none."""
    plain = pc.replace_substring(column, "-", "")
    lengths = pc.fill_null(pc.binary_length(plain), 2 * ID_BYTES).to_numpy(zero_copy_only=False)
    is_null = _nulls(column)
    is_bad = lengths != 2 * ID_BYTES
    whole = _where_good(plain, is_bad).fill_null("0" * (2 * ID_BYTES)).cast(pa.binary())
    text = np.frombuffer(whole.cast(pa.binary(2 * ID_BYTES)).buffers()[1] or b"", np.uint8)
    nibbles = _HEX[text[: len(column) * 2 * ID_BYTES]].reshape(-1, 2 * ID_BYTES)
    is_bad |= (nibbles == _NOT_HEX).any(axis=1)
    data = np.ascontiguousarray(nibbles[:, ::2] << 4 | nibbles[:, 1::2])
    is_absent = is_null | is_bad
    bitmap = np.packbits(~is_absent, bitorder="little")
    validity = pa.py_buffer(bitmap) if is_absent.any() else None
    made = pa.Array.from_buffers(
        pa.binary(ID_BYTES), len(column), [validity, pa.py_buffer(data)], int(is_absent.sum())
    )
    return made, is_bad
