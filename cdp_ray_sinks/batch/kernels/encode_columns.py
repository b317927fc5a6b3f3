"""The encoder's columns: strings, with or without a dictionary, and ids, as addresses."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.memory import address_of, load_u8, load_u32
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES

BAD_OFFSET: Final = -1
BAD_INDEX: Final = -2
"""Why a row has no string; all are negative, the bytes of a string never."""


class Texts(NamedTuple):
    """A column of strings: row r is text[offsets[i]:offsets[i + 1]], i = r or indices[r].

    `valid` is an Arrow bitmap that begins at bit `valid_start`; empty if no row is null.
    `is_absent`: no row has one.
    """

    text: NDArray[np.uint8]
    offsets: NDArray[np.int32]
    indices: NDArray[np.int32]
    valid: NDArray[np.uint8]
    valid_start: int
    is_absent: bool


class Ids(NamedTuple):
    """A column of 16-byte ids, otherwise as Texts."""

    ids: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    valid_start: int
    is_absent: bool


class Column(NamedTuple):
    """A column as a kernel reads it: addresses, and how far each of them may be followed."""

    text: int
    offsets: int
    offsets_count: int
    indices: int
    is_indexed: bool
    valid: int
    valid_start: int
    is_absent: bool
    limit: int
    end: int


@njit(nogil=True, cache=True)
def column_of(texts: Any) -> Column:
    """The addresses of a string column; its arrays must outlive them."""
    return Column(
        address_of(texts.text),
        address_of(texts.offsets),
        len(texts.offsets),
        address_of(texts.indices),
        len(texts.indices) > 0,
        address_of(texts.valid) if len(texts.valid) > 0 else 0,
        texts.valid_start,
        texts.is_absent,
        len(texts.text) - SLACK_BYTES,
        len(texts.text),
    )


@njit(nogil=True, cache=True)
def id_column_of(ids: Any) -> Column:
    """The addresses of a column of 16-byte ids; its arrays must outlive them."""
    return Column(
        address_of(ids.ids),
        0,
        0,
        0,
        False,
        address_of(ids.valid) if len(ids.valid) > 0 else 0,
        ids.valid_start,
        ids.is_absent,
        0,
        len(ids.ids),
    )


@njit(nogil=True, cache=True, forceinline=True)
def is_there(column: Column, row: int) -> bool:
    """Whether the row has a value."""
    if column.is_absent:
        return False
    if column.valid == 0:
        return True
    bit = column.valid_start + row
    return (load_u8(column.valid, bit >> 3) >> (bit & 7)) & 1 == 1


@njit(nogil=True, cache=True, forceinline=True)
def range_of(column: Column, row: int) -> tuple[int, int]:
    """(start, bytes) of the string of `row`; the bytes are a negative reason if wrong."""
    place = row
    if column.is_indexed:
        place = load_u32(column.indices, 4 * row)
        if place + 1 >= column.offsets_count:  # also what is negative as int32
            return 0, BAD_INDEX
    start = load_u32(column.offsets, 4 * place)
    end = load_u32(column.offsets, 4 * place + 4)
    if start > end or end > column.end:
        return 0, BAD_OFFSET
    return start, end - start
