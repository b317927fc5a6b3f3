"""Give messages another envelope: key and address set, everything else as it was.

The new one has all six fields at fixed places, so it is a template of 100 bytes with the
message's own facts filled in, and the data of the old one behind it, untouched:

| at | bytes | what |
| --- | --- | --- |
| 0 | 4 | length of the message, big-endian: the frame |
| 4 | 4 | where the table is |
| 8 | 16 | vtable of six slots |
| 28 | 28 | table: api_key, data, source_ip, batch_id, schema_type, version |
| 56 | 20 | api key behind its count |
| 76 | 20 | source ip behind its count |
| 96 | 4 | count of the data's bytes; the data follows |
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.envelope import (
    SLOT_BATCH_ID,
    SLOT_DATA,
    SLOT_SCHEMA_TYPE,
    SLOT_VERSION,
)
from cdp_ray_sinks.batch.kernels.memory import (
    address_of,
    copy_16,
    copy_bytes,
    load_i64,
    load_u8,
    load_u32,
    store_u8,
    store_u32,
    store_u32_big,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.tables import INVALID, field, root_table, vector, vtable_of

PREFIX_BYTES: Final = 100
"""Of a frame's length and envelope; the message is 4 bytes less and its data more."""
DATA_MALFORMED: Final = -1
DATA_TOO_LARGE: Final = -2

_RECORD_PREFIX_BYTES = 28
_ADDRESS_AT = 8
_KEY_BYTES = 16
_VTABLE_AT = 8
_TABLE_AT = 28
_BATCH_ID_AT = 44
_SCHEMA_AT = 52
_VERSION_AT = 53
_KEY_AT = 56
_SOURCE_IP_AT = 80
_DATA_COUNT_AT = 96


def envelope_template(key: bytes) -> NDArray[np.uint8]:
    """The 100 bytes of an envelope under that key of 16 bytes, facts still zero; read-only."""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"an api key has {_KEY_BYTES} bytes, not {len(key)}")
    out = bytearray(PREFIX_BYTES)
    struct.pack_into("<I", out, 4, _TABLE_AT - 4)
    struct.pack_into("<8H", out, _VTABLE_AT, 16, 28, 4, 24, 25, 16, 8, 12)
    struct.pack_into("<i", out, _TABLE_AT, _TABLE_AT - _VTABLE_AT)
    for slot, vector_at in ((4, _KEY_AT), (8, _DATA_COUNT_AT), (12, _SOURCE_IP_AT - 4)):
        struct.pack_into("<I", out, _TABLE_AT + slot, vector_at - _TABLE_AT - slot)
    struct.pack_into("<I16s", out, _KEY_AT, _KEY_BYTES, key)
    struct.pack_into("<I", out, _SOURCE_IP_AT - 4, 16)
    return readonly(np.frombuffer(bytes(out), np.uint8))


@njit(nogil=True, cache=True)
def rewrap_records(
    records: Any,
    offsets: Any,
    template: Any,
    frame_bytes_max: int,
    with_data: bool,
    out: Any,
    ends: Any,
    data: Any,
) -> int:
    """Frames of all messages in `records` under new envelopes, in `out`; their bytes there.

    `offsets` are int64, one more than there are messages.

    `data[i]` becomes where in `records` message i's data begins and its bytes, or DATA_* and 0
    for one that can't be sent. With `with_data` it is copied behind its envelope, else `out`
    has the envelopes alone; `ends[i]` is where message i ends in `out`. `out` must have room
    for the bytes of `records` and 100 more per message.
    """
    at, to = address_of(records), address_of(out)
    pattern = address_of(template)
    position = 0
    for row in range(len(offsets) - 1):
        record, end = offsets[row], offsets[row + 1]
        start = record + _RECORD_PREFIX_BYTES
        data[row, 0], data[row, 1], ends[row] = DATA_MALFORMED, 0, position
        if record < 0 or end > len(records) or start > end:
            continue
        table = root_table(at, start, end)
        vtable = vtable_of(at, table, start, end) if table >= 0 else INVALID
        if vtable < 0:
            continue
        vector_at = vector(at, table, vtable, SLOT_DATA, 1, end)
        schema = field(at, table, vtable, SLOT_SCHEMA_TYPE, 1, end)
        version = field(at, table, vtable, SLOT_VERSION, 1, end)
        batch_id = field(at, table, vtable, SLOT_BATCH_ID, 8, end)
        if vector_at < 0 or schema == INVALID or version == INVALID or batch_id == INVALID:
            continue
        count = load_u32(at, vector_at)
        if count + PREFIX_BYTES - 4 > frame_bytes_max:
            data[row, 0] = DATA_TOO_LARGE
            continue
        if position + PREFIX_BYTES + (count if with_data else 0) > len(out):
            break
        copy_bytes(to, position, pattern, 0, PREFIX_BYTES)
        store_u32_big(to, position, PREFIX_BYTES - 4 + count)
        store_u64(to, position + _BATCH_ID_AT, load_i64(at, batch_id) if batch_id >= 0 else 0)
        store_u8(to, position + _SCHEMA_AT, load_u8(at, schema) if schema >= 0 else 0)
        store_u8(to, position + _VERSION_AT, load_u8(at, version) if version >= 0 else 0)
        copy_16(to, position + _SOURCE_IP_AT, at, record + _ADDRESS_AT)
        store_u32(to, position + _DATA_COUNT_AT, count)
        position += PREFIX_BYTES
        data[row, 0], data[row, 1] = vector_at + 4, count
        if with_data:
            copy_bytes(to, position, at, vector_at + 4, count)
            position += count
        ends[row] = position
    return position


def warm() -> None:
    """Compile this kernel, or load it from the cache."""
    template = envelope_template(bytes(16))
    records = readonly(np.zeros(64, np.uint8))
    offsets = readonly(np.zeros(2, np.int64))
    out, ends, data = np.zeros(256, np.uint8), np.zeros(1, np.int64), np.zeros((1, 2), np.int64)
    rewrap_records(records, offsets, template, 1024, True, out, ends, data)
