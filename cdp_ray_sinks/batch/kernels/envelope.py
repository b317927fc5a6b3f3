"""Check the outer table of each message, and take from it what a source must know.

Outer table (Batch): 0 api_key [u8] of 16 B, 1 schema_type u8, 2 version u8, 3 batch_id
u64, 4 data [u8] (a buffer of its own), 5 source_ip [u8] of 16 B, optional.

The key bytes are zeroed before a message is kept. That must change nothing else, so a
message whose key bytes overlap any other part of its envelope or data is malformed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.count import count_message
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_COLUMNS,
    FACT_EVENT_COUNT,
    FACT_EVENT_TYPES,
    FACT_IS_DECODABLE,
    FACT_KEY_OFFSET,
    FACT_SCHEMA_TYPE,
    FACT_SOURCE_IP_OFFSET,
    FACT_STATUS,
    FACT_TIME_MAX,
    FACT_TIME_MIN,
    FACT_VERSION,
    FACT_WORKSPACE,
    MESSAGE_MALFORMED,
    MESSAGE_OK,
    MESSAGE_UNKNOWN_KEY,
)
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
)
from cdp_ray_sinks.batch.kernels.tables import (
    INVALID,
    OK,
    WRONG_SCHEMA,
    field,
    root_table,
    vector,
    vtable_of,
)

SLOT_API_KEY = 0
SLOT_SCHEMA_TYPE = 1
SLOT_VERSION = 2
SLOT_BATCH_ID = 3
SLOT_DATA = 4
SLOT_SOURCE_IP = 5

_KEY_BYTES = 16
_KEY_LOW, _KEY_HIGH, _KEY_WORKSPACE = 0, 1, 2
KEY_TABLE_COLUMNS = 3

_NOTHING = (False, -1, -1, 0, 0)

TALLY_OK = 0
TALLY_MALFORMED = 1
TALLY_UNKNOWN_KEY = 2
TALLY_UNDECODABLE = 3
TALLY_IS_ONE_GROUP = 4
"""1 if all messages are ok and of one workspace and schema."""
TALLY_EVENT_COUNT = 5
TALLY_COLUMNS = 6


@njit(nogil=True, cache=True, inline="always")
def _is_apart(key: int, first: int, end: int) -> bool:
    """Whether the key bytes at `key` and the bytes [first, end) have none in common."""
    return key >= end or first >= key + _KEY_BYTES


@njit(nogil=True, cache=True)
def _key_is_apart(
    buffer: Any, start: int, end: int, table: int, vtable: int, key: int, data: int, source_ip: int
) -> bool:
    """Whether no byte of the key belongs to anything else of the envelope."""
    if not _is_apart(key, start, start + 4):
        return False
    if not _is_apart(key, vtable, vtable + load_u16(buffer, vtable)):
        return False
    table_bytes = max(load_u16(buffer, vtable + 2), 4)
    if not _is_apart(key, table, table + table_bytes):
        return False
    if not _is_apart(key, data, data + 4 + load_u32(buffer, data)):
        return False
    if source_ip >= 0 and not _is_apart(
        key, source_ip, source_ip + 4 + load_u32(buffer, source_ip)
    ):
        return False
    # A vtable may place a field beyond the table bytes that it claims.
    for slot in range(6):
        width = 1 if slot in (SLOT_SCHEMA_TYPE, SLOT_VERSION) else 4
        if slot == SLOT_BATCH_ID:
            width = 8
        position = field(buffer, table, vtable, slot, width, end)
        if position == INVALID:
            return False
        if position >= 0 and not _is_apart(key, position, position + width):
            return False
    return True


@njit(nogil=True, cache=True, forceinline=True)
def _key_slot(low: Any, high: Any, capacity: int) -> Any:
    """First place to look for a key in a table of `capacity` (a power of two) rows."""
    mixed = (low ^ (high * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(capacity - 1))


@njit(nogil=True, cache=True)
def _find_workspace(buffer: int, key: int, key_table: int, capacity: int) -> Any:
    """The workspace of the 16 key bytes at `key`, 0 when unknown.

    `buffer` and `key_table` (of `capacity` rows) are addresses. A row is compared whole,
    without leaving early: how long it takes tells nothing about how many leading bytes of
    a guess were right.
    """
    low = load_u64(buffer, key)
    high = load_u64(buffer, key + 8)
    place = _key_slot(low, high, capacity)
    for _ in range(capacity):
        row = 8 * KEY_TABLE_COLUMNS * place
        workspace = load_u64(key_table, row + 8 * _KEY_WORKSPACE)
        if workspace == 0:
            break
        difference = (load_u64(key_table, row) ^ low) | (load_u64(key_table, row + 8) ^ high)
        if difference == 0:
            return np.int64(workspace)
        place = (place + 1) & (capacity - 1)
    return np.int64(0)


@njit(nogil=True, cache=True)
def _fill_key_table(keys: Any, workspaces: Any, key_table: Any) -> None:
    capacity = len(key_table)
    for row in range(len(workspaces)):
        low, high = load_u64(keys, 16 * row), load_u64(keys, 16 * row + 8)
        place = _key_slot(low, high, capacity)
        while key_table[place, _KEY_WORKSPACE] != 0:
            place = (place + 1) & (capacity - 1)
        key_table[place, _KEY_LOW] = low
        key_table[place, _KEY_HIGH] = high
        key_table[place, _KEY_WORKSPACE] = workspaces[row]


def key_table_of(keys: bytes, workspaces: list[int]) -> NDArray[np.uint64]:
    """The look-up table that `check_envelopes` takes; keys of 16 B each, back to back.

    Workspaces must not be 0, which stands for an empty row.
    """
    if len(keys) != _KEY_BYTES * len(workspaces) or not all(workspaces):
        raise ValueError("each key is 16 bytes and has a workspace other than 0")
    capacity = 16
    while capacity < 4 * len(workspaces):
        capacity *= 2
    key_table = np.zeros((capacity, KEY_TABLE_COLUMNS), np.uint64)
    flat = np.frombuffer(keys, np.uint8)
    _fill_key_table(readonly(flat), np.array(workspaces, np.uint64), key_table)
    return key_table


@njit(nogil=True, cache=True)
def _check_envelope(buffer: int, start: int, end: int) -> tuple[bool, int, int, int, int]:
    """What the envelope of the message buffer[start:end] says; `buffer` is an address.

    Returns (is valid, position of the key, of the address or -1, schema type, version).
    """
    table = root_table(buffer, start, end)
    if table < 0:
        return _NOTHING
    vtable = vtable_of(buffer, table, start, end)
    if vtable < 0:
        return _NOTHING
    key_vector = vector(buffer, table, vtable, SLOT_API_KEY, 1, end)
    data = vector(buffer, table, vtable, SLOT_DATA, 1, end)
    source_ip = vector(buffer, table, vtable, SLOT_SOURCE_IP, 1, end)
    if key_vector < 0 or data < 0 or source_ip == INVALID:
        return _NOTHING
    if load_u32(buffer, key_vector) != _KEY_BYTES:
        return _NOTHING
    key = key_vector + 4
    if not _key_is_apart(buffer, start, end, table, vtable, key, data, source_ip):
        return _NOTHING
    schema_position = field(buffer, table, vtable, SLOT_SCHEMA_TYPE, 1, end)
    version_position = field(buffer, table, vtable, SLOT_VERSION, 1, end)
    schema_type = load_u8(buffer, schema_position) if schema_position >= 0 else 0
    version = load_u8(buffer, version_position) if version_position >= 0 else 0
    address = -1
    if source_ip >= 0 and load_u32(buffer, source_ip) == 16:
        address = source_ip + 4
    return True, key, address, schema_type, version


@njit(nogil=True, cache=True)
def check_envelopes(
    buffer: Any,
    starts: Any,
    lengths: Any,
    count: int,
    key_table: Any,
    workspace: int,
    facts: Any,
    tally: Any,
) -> None:
    """Fill `facts[:count]` (see facts.py) and `tally` (TALLY_*, overwritten).

    `workspace` 0: each message's key is looked up in `key_table`. Otherwise the messages
    are known to be that workspace's, and keys are not looked at.

    A message whose envelope is valid but whose data does not decode is ok: it has no
    events, and is kept as received. So is one of a schema that we do not know.
    """
    tally[:] = 0
    bytes_at, keys_at = address_of(buffer), address_of(key_table)
    is_one_group = True
    for row in range(count):
        start, end = starts[row], starts[row] + lengths[row]
        facts[row, :] = -1
        facts[row, FACT_STATUS] = MESSAGE_MALFORMED
        is_valid, key, address, schema_type, version = _NOTHING
        if 0 <= start < end <= len(buffer):
            is_valid, key, address, schema_type, version = _check_envelope(bytes_at, start, end)
        if not is_valid:
            tally[TALLY_MALFORMED] += 1
            is_one_group = False
            continue
        owner = workspace
        if owner == 0:
            owner = _find_workspace(bytes_at, key, keys_at, len(key_table))
        facts[row, FACT_SCHEMA_TYPE] = schema_type
        facts[row, FACT_VERSION] = version
        facts[row, FACT_WORKSPACE] = owner
        facts[row, FACT_KEY_OFFSET] = key - start
        facts[row, FACT_SOURCE_IP_OFFSET] = address - start if address >= 0 else -1
        if owner == 0:
            facts[row, FACT_STATUS] = MESSAGE_UNKNOWN_KEY
            tally[TALLY_UNKNOWN_KEY] += 1
            is_one_group = False
            continue
        status, events, types, earliest, latest = count_message(bytes_at, start, end, schema_type)
        facts[row, FACT_STATUS] = MESSAGE_OK
        facts[row, FACT_EVENT_COUNT] = events
        facts[row, FACT_EVENT_TYPES] = types
        facts[row, FACT_TIME_MIN] = earliest
        facts[row, FACT_TIME_MAX] = latest
        facts[row, FACT_IS_DECODABLE] = 1 if status in (OK, WRONG_SCHEMA) else 0
        tally[TALLY_OK] += 1
        tally[TALLY_EVENT_COUNT] += events
        tally[TALLY_UNDECODABLE] += 1 - facts[row, FACT_IS_DECODABLE]
        if owner != facts[0, FACT_WORKSPACE] or schema_type != facts[0, FACT_SCHEMA_TYPE]:
            is_one_group = False
    tally[TALLY_IS_ONE_GROUP] = 1 if is_one_group else 0


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    buffer = readonly(np.zeros(64, np.uint8))
    places = np.zeros(4, np.int64)
    key_table = key_table_of(bytes(16), [1])
    facts = np.zeros((4, FACT_COLUMNS), np.int64)
    check_envelopes(
        buffer,
        places,
        np.full(4, 64, np.int64),
        1,
        key_table,
        0,
        facts,
        np.zeros(TALLY_COLUMNS, np.int64),
    )
