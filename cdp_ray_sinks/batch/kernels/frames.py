"""Find where frames and records begin, and copy messages into records.

Frame: `[u32 big-endian length][message]`, as on a TCP stream. Record: `[u64 big-endian
received ms][16 B source ip][u32 big-endian size][message]`, as in a disk_binary file.
Lengths are claims of whoever wrote the bytes: nothing is allocated by them, and
nothing outside `buffer[start:end]` is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_COLUMNS,
    FACT_EVENT_COUNT,
    FACT_EVENT_TYPES,
    FACT_KEY_OFFSET,
    FACT_SOURCE_IP_OFFSET,
    FACT_TIME_MAX,
    FACT_TIME_MIN,
    TOTAL_COLUMNS,
    TOTAL_EVENT_COUNT,
    TOTAL_EVENT_TYPES,
    TOTAL_TIME_MAX,
    TOTAL_TIME_MIN,
)
from cdp_ray_sinks.batch.kernels.memory import (
    copy_16,
    copy_bytes,
    load_u32_big,
    store_u32_big,
    store_u64,
    store_u64_big,
)

INDEX_END = 0
"""Every byte up to `end` belongs to a whole frame or record."""
INDEX_PARTIAL = 1
"""The bytes from the returned position on are the beginning of one that is not whole."""
INDEX_FULL = 2
"""The output is full: call again from the returned position."""
INDEX_OVERSIZE = 3
"""The length at the returned position is above the limit; what follows can't be framed."""

RECORD_MESSAGE_BYTES_MAX = 100 * 1024 * 1024
"""A larger size in an archive is damage, not a message."""

_LENGTH_BYTES = 4
_METADATA_BYTES = 24
_PREFIX_BYTES = 28
_ADDRESS_BYTES = 16


@njit(nogil=True, cache=True)
def index_frames(
    buffer: Any, start: int, end: int, frame_bytes_max: int, starts: Any, lengths: Any
) -> tuple[int, int, int]:
    """Where each whole message in `buffer[start:end]` begins, and its bytes.

    Returns (count, next_position, status): `starts[:count]` and `lengths[:count]` are
    filled, `next_position` is the first length prefix not taken, status is INDEX_*.
    A frame of length zero is indexed like any other.
    """
    end = min(end, len(buffer))
    position = max(start, 0)
    count = 0
    count_max = min(len(starts), len(lengths))
    while position < end:
        if position + _LENGTH_BYTES > end:
            return count, position, INDEX_PARTIAL
        length = load_u32_big(buffer, position)
        if length > frame_bytes_max:
            return count, position, INDEX_OVERSIZE
        if position + _LENGTH_BYTES + length > end:
            return count, position, INDEX_PARTIAL
        if count == count_max:
            return count, position, INDEX_FULL
        starts[count] = position + _LENGTH_BYTES
        lengths[count] = length
        count += 1
        position += _LENGTH_BYTES + length
    return count, position, INDEX_END


@njit(nogil=True, cache=True)
def index_records(buffer: Any, start: int, end: int, record_starts: Any) -> tuple[int, int, int]:
    """Where each whole record in `buffer[start:end]` begins.

    Returns (count, next_position, status): `record_starts[:count]` is filled,
    `next_position` is the end of the last whole record. INDEX_OVERSIZE there means a
    size above RECORD_MESSAGE_BYTES_MAX, INDEX_PARTIAL a record that is cut off.
    """
    end = min(end, len(buffer))
    position = max(start, 0)
    count = 0
    while position < end:
        if position + _PREFIX_BYTES > end:
            return count, position, INDEX_PARTIAL
        length = load_u32_big(buffer, position + _METADATA_BYTES)
        if length > RECORD_MESSAGE_BYTES_MAX:
            return count, position, INDEX_OVERSIZE
        if position + _PREFIX_BYTES + length > end:
            return count, position, INDEX_PARTIAL
        if count == len(record_starts):
            return count, position, INDEX_FULL
        record_starts[count] = position
        count += 1
        position += _PREFIX_BYTES + length
    return count, position, INDEX_END


@njit(nogil=True, cache=True)
def frame_records(
    buffer: Any,
    starts: Any,
    lengths: Any,
    facts: Any,
    selected: Any,
    first: int,
    received_at_ms: int,
    peer_ip: Any,
    trust_source_ip: bool,
    records: Any,
    records_position: int,
    offsets: Any,
    message_count: int,
    totals: Any,
) -> tuple[int, int]:
    """Copy the messages `selected[first:]` behind one another into `records`.

    `facts` comes from `check_envelopes` and is trusted. The 16 key bytes of each copy are
    zeroed. Its address is the message's own source_ip if `trust_source_ip` and it has
    one, else `peer_ip` (16 B). `offsets[message_count + 1 ..]` get the records' ends;
    `totals` takes the counts. Stops where `records` or `offsets` would overflow, and
    returns (next place in `selected`, next records position).
    """
    place = first
    events, types = totals[TOTAL_EVENT_COUNT], totals[TOTAL_EVENT_TYPES]
    earliest, latest = totals[TOTAL_TIME_MIN], totals[TOTAL_TIME_MAX]
    while place < len(selected):
        message = selected[place]
        start = starts[message]
        length = lengths[message]
        end = records_position + _PREFIX_BYTES + length
        if end > len(records) or message_count + 1 >= len(offsets):
            break
        if start < 0 or length < 0 or start + length > len(buffer):
            break
        store_u64_big(records, records_position, received_at_ms)
        source_ip_offset = facts[message, FACT_SOURCE_IP_OFFSET]
        address_position = records_position + 8
        if trust_source_ip and 0 <= source_ip_offset <= length - _ADDRESS_BYTES:
            copy_bytes(records, address_position, buffer, start + source_ip_offset, 16)
        else:
            copy_bytes(records, address_position, peer_ip, 0, 16)
        store_u32_big(records, records_position + _METADATA_BYTES, length)
        body = records_position + _PREFIX_BYTES
        copy_bytes(records, body, buffer, start, length)
        key_offset = facts[message, FACT_KEY_OFFSET]
        if 0 <= key_offset <= length - 16:
            store_u64(records, body + key_offset, 0)
            store_u64(records, body + key_offset + 8, 0)
        events += facts[message, FACT_EVENT_COUNT]
        types |= facts[message, FACT_EVENT_TYPES]
        message_earliest = facts[message, FACT_TIME_MIN]
        if message_earliest >= 0:
            earliest = message_earliest if earliest < 0 else min(earliest, message_earliest)
            latest = max(latest, facts[message, FACT_TIME_MAX])
        records_position = end
        message_count += 1
        offsets[message_count] = end
        place += 1
    totals[TOTAL_EVENT_COUNT], totals[TOTAL_EVENT_TYPES] = events, types
    totals[TOTAL_TIME_MIN], totals[TOTAL_TIME_MAX] = earliest, latest
    return place, records_position


@njit(nogil=True, cache=True)
def frame_messages(
    buffer: Any, starts: Any, lengths: Any, facts: Any, selected: Any, key: Any, out: Any, ends: Any
) -> int:
    """Copy the messages `selected` behind one another into `out` as frames under `key`.

    `facts` comes from `check_envelopes`, and the messages are ok by it; the 16 bytes of
    `key` take the place of those in each copy. `ends[i]` becomes the end of frame i.
    Returns how many frames fitted into `out` and `ends`.
    """
    position = 0
    for place in range(min(len(selected), len(ends))):
        message = selected[place]
        start, length = starts[message], lengths[message]
        end = position + _LENGTH_BYTES + length
        if end > len(out) or start < 0 or length < 0 or start + length > len(buffer):
            return place
        store_u32_big(out, position, length)
        copy_bytes(out, position + _LENGTH_BYTES, buffer, start, length)
        key_offset = facts[message, FACT_KEY_OFFSET]
        if 0 <= key_offset <= length - 16:
            copy_16(out, position + _LENGTH_BYTES + key_offset, key, 0)
        ends[place] = end
        position = end
    return min(len(selected), len(ends))


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    buffer = readonly(np.zeros(64, np.uint8))
    places = np.zeros(4, np.int64)
    lengths = np.zeros(4, np.int64)
    index_frames(buffer, 0, 8, 16, places, lengths)
    index_records(buffer, 0, 28, places)
    facts = np.full((4, FACT_COLUMNS), -1, np.int64)
    frame_messages(
        buffer, places, lengths, facts, places[:1], buffer[:16], np.zeros(64, np.uint8), places[1:]
    )
    frame_records(
        buffer,
        places,
        lengths,
        facts,
        places[:1],
        0,
        0,
        buffer[:16],
        False,
        np.zeros(64, np.uint8),
        0,
        np.zeros(4, np.uint64),
        0,
        np.zeros(TOTAL_COLUMNS, np.int64),
    )
