"""Whatever a column of strings, ids or numbers comes as, in the form the encoder takes.

Nothing is copied except where types differ. Strings: an Arrow array (utf8, binary, their
large and view forms, dictionary-encoded or not), a pair of numpy arrays (bytes uint8,
offsets int32[rows + 1]), or a dictionary as a pair (indices int32[rows], such a pair); None
if no row has one. Ids: an Arrow array of 16-byte binary, numpy uint8[rows, 16] or
uint8[16 * rows], or None. Numbers: an Arrow array without nulls, or numpy.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.encode_columns import Ids, Texts
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES

Column: TypeAlias = Any
IdColumn: TypeAlias = Any
Numbers: TypeAlias = Any

_NO_BYTES: Final = readonly(np.zeros(0, np.uint8))
_NO_INDICES: Final = readonly(np.zeros(0, np.int32))
_NO_OFFSETS: Final = readonly(np.zeros(1, np.int32))
_ABSENT: Final = Texts(_NO_BYTES, _NO_OFFSETS, _NO_INDICES, _NO_BYTES, 0, True)
_WORD_BYTES_TYPICAL: Final = 64


def numbers_of(name: str, values: Numbers, kind: Any, rows: int) -> NDArray[Any]:
    """`rows` numbers of that type; raises ValueError for another count or for nulls."""
    if isinstance(values, pa.ChunkedArray | pa.Array):
        if values.null_count:
            raise ValueError(f"{name}: {values.null_count} nulls")
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("ms")).cast(pa.int64())
        values = (
            values.to_numpy()
            if isinstance(values, pa.ChunkedArray)
            else values.to_numpy(zero_copy_only=False)
        )
    given = np.asarray(values)
    _expect(name, len(given), rows)
    if (
        given.dtype != kind
        and kind == np.uint8
        and rows
        and not 0 <= given.min() <= given.max() < 256
    ):
        raise ValueError(f"{name}: {given.min()} to {given.max()}, only 0 to 255 can be sent")
    return readonly(np.ascontiguousarray(given, kind))


def ids_of(name: str, column: IdColumn, rows: int) -> Ids:
    """A column of 16-byte ids; raises ValueError for another count or width."""
    if column is None:
        return Ids(_NO_BYTES, _NO_BYTES, 0, True)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.Array):
        if column.type != pa.binary(ID_BYTES):
            column = column.cast(pa.binary(ID_BYTES))
        _expect(name, len(column), rows)
        data = _buffer(column.buffers()[1], np.uint8)[ID_BYTES * column.offset :]
        return Ids(data, *_valid(column), False)
    data = readonly(np.ascontiguousarray(column, np.uint8).reshape(-1))
    _expect(name, len(data), ID_BYTES * rows)
    return Ids(data, _NO_BYTES, 0, False)


def texts_of(name: str, column: Column, rows: int) -> Texts:
    """A column of strings; raises ValueError if it has not `rows` of them."""
    if column is None:
        return _ABSENT
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.Array):
        if pa.types.is_null(column.type) or column.null_count == len(column) == rows:
            return _ABSENT
        if isinstance(column, pa.DictionaryArray):
            return _from_dictionary(name, column, rows)
        return _from_arrow(name, column, rows)
    first, second = column
    if isinstance(second, tuple):
        words = texts_of(name, second, len(second[1]) - 1)
        return _indexed(name, words, first, _NO_BYTES, 0, rows)
    _expect(name, len(second) - 1, rows)
    offsets = readonly(np.ascontiguousarray(second, np.int32))
    text = readonly(np.ascontiguousarray(first, np.uint8))
    return Texts(text, offsets, _NO_INDICES, _NO_BYTES, 0, False)


def text_bytes_max(texts: Texts, rows: int) -> int:
    """At least as many bytes as the strings of all rows have together."""
    if texts.is_absent or rows == 0:
        return 0
    if len(texts.indices) == 0:
        return max(0, int(texts.offsets[-1]) - int(texts.offsets[0]))
    lengths = np.diff(texts.offsets)
    longest = int(lengths.max(initial=0))
    if longest <= _WORD_BYTES_TYPICAL:
        return longest * rows
    used = np.clip(texts.indices, 0, len(lengths) - 1)
    return int(lengths[used].sum(dtype=np.int64)) + longest


def _expect(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{name}: {found} values, {wanted} wanted")


def _buffer(buffer: pa.Buffer | None, kind: Any) -> NDArray[Any]:
    if buffer is None or buffer.size == 0:
        return readonly(np.zeros(0, kind))
    return readonly(np.frombuffer(buffer, kind))


def _valid(column: pa.Array) -> tuple[NDArray[np.uint8], int]:
    if column.null_count == 0:
        return _NO_BYTES, 0
    return _buffer(column.buffers()[0], np.uint8), column.offset


def _from_arrow(name: str, column: pa.Array, rows: int) -> Texts:
    if column.type not in (pa.utf8(), pa.binary()):
        column = column.cast(pa.binary())
    _expect(name, len(column), rows)
    _, offsets, text = column.buffers()
    starts = _buffer(offsets, np.int32)[column.offset : column.offset + rows + 1]
    if len(starts) == 0:
        starts = _NO_OFFSETS
    return Texts(_buffer(text, np.uint8), starts, _NO_INDICES, *_valid(column), False)


def _from_dictionary(name: str, column: pa.DictionaryArray, rows: int) -> Texts:
    if column.dictionary.null_count:
        return texts_of(name, column.cast(column.type.value_type), rows)
    words = texts_of(name, column.dictionary, len(column.dictionary))
    indices = column.indices
    if indices.type != pa.int32():
        indices = indices.cast(pa.int32())
    values = _buffer(indices.buffers()[1], np.int32)[indices.offset : indices.offset + rows]
    return _indexed(name, words, values, *_valid(indices), rows)


def _indexed(
    name: str, words: Texts, indices: Any, valid: NDArray[np.uint8], valid_start: int, rows: int
) -> Texts:
    _expect(name, len(indices), rows)
    # A dictionary is small: room behind it lets the kernel copy its words in whole steps.
    text = readonly(np.concatenate([words.text, np.zeros(SLACK_BYTES, np.uint8)]))
    found = readonly(np.ascontiguousarray(indices, np.int32))
    return Texts(text, words.offsets, found, valid, valid_start, rows == 0)
