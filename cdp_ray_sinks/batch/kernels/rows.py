"""What the decoders of events and of log entries share: their state and their columns.

A decoder appends rows while it verifies them. All that a row changes is placed by the row's
number, so taking back a damaged message is setting the number of rows back.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.memory import (
    copy_16,
    copy_32,
    copy_bytes,
    load_i64_big,
    load_u32,
    store_u32,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.tables import (
    BUDGET_FACTOR,
    OK,
    OVER_BUDGET,
    ROW_BUDGET_BYTES,
    WRONG_SCHEMA,
    rows_of,
    schema_of,
)

MESSAGE: Final = 0
ROWS: Final = 1
NAMES: Final = 2
DAMAGED: Final = 3
STATE_COUNT: Final = 4
"""A decoder's state, int64: next message, rows and names so far, damaged messages so far."""

DONE: Final = 0
MORE_ROWS: Final = -1
MORE_NAMES: Final = -2
MORE_SOURCE: Final = -3
MORE_SERVICE: Final = -4
MORE_PAYLOAD: Final = -5
NO_DICTIONARY: Final = -6
"""Answers of a decoder: which output is full, or that it can't make a dictionary."""

SLACK_BYTES: Final = 128
"""Room that every output of strings has behind its last one, for copies in whole steps."""


class RecordColumns(NamedTuple):
    """What every row takes from its record, and the list of damaged messages.

    `damage` is int64[messages, 3]: message index, status, byte in the records.
    """

    message_index: NDArray[np.uint32]
    received_at_ms: NDArray[np.int64]
    source_ip: NDArray[np.uint8]
    damage: NDArray[np.int64]


@njit(nogil=True, cache=True)
def open_message(
    buffer: int, start: int, end: int, schema_type: int
) -> tuple[int, int, int, int, int, int]:
    """Find the entries of the message buffer[start:end].

    Returns (status, position of the entry count or of the failure, start and end of the
    nested buffer, entry count, byte budget left after the rows).
    """
    status, rows, inner, inner_end = rows_of(buffer, start, end)
    if status != OK:
        return status, rows, 0, 0, 0, 0
    if schema_of(buffer, start, end) != schema_type:
        return WRONG_SCHEMA, start, 0, 0, 0, 0
    count = load_u32(buffer, rows)
    budget = BUDGET_FACTOR * (end - start) - ROW_BUDGET_BYTES * count
    if budget < 0:
        return OVER_BUDGET, rows, 0, 0, 0, 0
    return OK, rows, inner, inner_end, count, budget


@njit(nogil=True, cache=True, forceinline=True)
def copy_text(target: int, at: int, source: int, position: int, count: int, limit: int) -> None:
    """Copy `count` bytes in steps of 32; up to SLACK_BYTES behind them are overwritten.

    All buffers are addresses; `limit` is the last position from which SLACK_BYTES more can
    be read.
    """
    if position + count > limit:
        copy_bytes(target, at, source, position, count)
        return
    # Four steps without a branch: most payloads end in them, and a loop would mispredict.
    copy_32(target, at, source, position)
    copy_32(target, at + 32, source, position + 32)
    copy_32(target, at + 64, source, position + 64)
    copy_32(target, at + 96, source, position + 96)
    done = SLACK_BYTES
    while done < count:
        copy_32(target, at + done, source, position + done)
        done += 32


@njit(nogil=True, cache=True, forceinline=True)
def copy_word(target: int, at: int, source: int, position: int, count: int, limit: int) -> None:
    """`copy_text` for strings that are mostly short."""
    if position + count > limit:
        copy_bytes(target, at, source, position, count)
        return
    done = 0
    while done < count:
        copy_32(target, at + done, source, position + done)
        done += 32


@njit(nogil=True, cache=True, forceinline=True)
def copy_id(target: int, row: int, source: int, vector: int) -> int:
    """Put the 16 bytes of the vector in `row`, zeros if it is absent; returns 1 or 0."""
    if vector >= 0:
        copy_16(target, ID_BYTES * row, source, vector + 4)
        return 1
    store_u64(target, ID_BYTES * row, 0)
    store_u64(target, ID_BYTES * row + 8, 0)
    return 0


@njit(nogil=True, cache=True, forceinline=True)
def append_text(
    source: int,
    vector: int,
    count: int,
    row: int,
    offsets: int,
    text: int,
    text_end: int,
    limit: int,
    is_long: bool,
) -> bool:
    """Append the `count` bytes of `vector` (0 if ABSENT) as those of `row`; False if full.

    `offsets` and `text` are addresses, `text_end` the room in `text`.
    """
    used = load_u32(offsets, 4 * row)
    if used + count + SLACK_BYTES > text_end:
        return False
    if is_long:
        if vector >= 0:
            copy_text(text, used, source, vector + 4, count, limit)
    else:
        copy_word(text, used, source, vector + 4, count, limit)
    store_u32(offsets, 4 * row + 4, used + count)
    return True


@njit(nogil=True, cache=True)
def fill_record_columns(
    buffer: int,
    record: int,
    message: int,
    first: int,
    end: int,
    index: Any,
    received: Any,
    source_ip: int,
) -> None:
    """Give rows first..end what they take from the record of `message`."""
    time = load_i64_big(buffer, record)
    for row in range(first, end):
        index[row] = message
        received[row] = time
    for row in range(first, end):
        copy_16(source_ip, ID_BYTES * row, buffer, record + 8)


@njit(nogil=True, cache=True)
def note_damage(damage: Any, state: Any, message: int, status: int, position: int) -> None:
    """Add a message to the list of damaged ones."""
    place = state[DAMAGED]
    damage[place, 0], damage[place, 1], damage[place, 2] = message, status, position
    state[DAMAGED] = place + 1


@njit(nogil=True, cache=True)
def pack_bits(present: Any, rows: int, bit: int, bitmap: Any) -> int:
    """Write bit `bit` of each row's `present` as an Arrow bitmap; returns the rows without.

    `bitmap` needs (rows + 7) // 8 bytes.
    """
    missing = 0
    for group in range(rows >> 3):
        word = np.uint8(0)
        for place in range(8):
            here = (present[8 * group + place] >> bit) & 1
            word |= np.uint8(here << place)
            missing += 1 - here
        bitmap[group] = word
    if rows & 7:
        word = np.uint8(0)
        for place in range(rows & 7):
            here = (present[(rows & ~7) + place] >> bit) & 1
            word |= np.uint8(here << place)
            missing += 1 - here
        bitmap[rows >> 3] = word
    return missing


@njit(nogil=True, cache=True)
def present_in_all(present: Any, rows: int) -> int:
    """The bits that are set in `present` of every row."""
    found = np.uint8(255)
    for row in range(rows):
        found &= present[row]
    return int(found)
