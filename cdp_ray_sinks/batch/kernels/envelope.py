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
from cdp_ray_sinks.batch.kernels.key_table import find_workspace, key_table_of
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    load_u8,
    load_u16,
    load_u32,
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
            owner = find_workspace(bytes_at, key, keys_at, len(key_table))
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
