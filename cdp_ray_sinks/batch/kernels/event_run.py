"""Runs of events that are written alike: the decoder's quick way.

Most batches have writers that fill in the same fields of each event. Once a table's layout
is known, those that follow it with the same vtable, two ids, a known name and a payload are
decoded here; whatever is different ends the run and is left to `decode_events`.
"""

from __future__ import annotations

from typing import Final

from numba import njit

from cdp_ray_sinks.batch.enums import ID_BYTES
from cdp_ray_sinks.batch.kernels.entries import (
    AUTO,
    COLLECTOR,
    EVENT_TYPE_MAX,
    SDK,
    TIME_MAX,
    Layout,
)
from cdp_ray_sinks.batch.kernels.event_columns import (
    HAS_DEVICE,
    HAS_NAME,
    HAS_PAYLOAD,
    HAS_SESSION,
    Places,
)
from cdp_ray_sinks.batch.kernels.memory import (
    copy_16,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    prefetch_read,
    store_u8,
    store_u32,
    store_u64,
)
from cdp_ray_sinks.batch.kernels.names import known_name, usual_name
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES, copy_text

AHEAD_BYTES: Final = 2048
"""How far ahead the bytes of events to come are fetched: the hardware stops at each page."""

_IN_ALL: Final = 1 << HAS_DEVICE | 1 << HAS_SESSION | 1 << HAS_NAME | 1 << HAS_PAYLOAD


@njit(nogil=True, cache=True, forceinline=True)
def run_order(layout: Layout, dialect: int) -> int:
    """SDK or COLLECTOR if tables of that layout can make a run, else negative.

    They need all fields but the service, which they must not have.
    """
    slots = layout[5]
    if dialect == AUTO:
        dialect = SDK if slots > 6 else COLLECTOR
    four = layout[9] > 0 and layout[10] > 0 and layout[11] > 0 and layout[6] > 0 and layout[7] > 0
    if dialect == SDK:
        return SDK if four and layout[8] == 0 and layout[12] > 0 else -1
    return COLLECTOR if four and layout[8] > 0 and slots == 6 else -1


@njit(nogil=True, cache=True, forceinline=True)
def _has_layout(buffer: int, table: int, start: int, end: int, layout: Layout) -> bool:
    """True if the table lies inside the message and has that vtable."""
    if table + layout[4] > end or table + 4 > end:
        return False
    vtable = table - load_i32(buffer, table)
    if vtable < start or vtable + layout[3] > end:
        return False
    return (
        load_i64(buffer, vtable) == layout[0]
        and load_i64(buffer, vtable + 8) == layout[1]
        and load_u16(buffer, vtable + 16) == layout[2]
    )


@njit(nogil=True, cache=True, forceinline=True)
def _put_row(
    buffer: int, table: int, device: int, session: int, row: int, layout: Layout, to: Places
) -> None:
    code, time = load_u8(buffer, table + layout[6]), load_i64(buffer, table + layout[7])
    store_u8(to.event_type, row, code if code <= EVENT_TYPE_MAX else 0)
    store_u64(to.timestamp, 8 * row, time if time >= 0 else TIME_MAX)
    copy_16(to.device_id, ID_BYTES * row, buffer, device + 4)
    copy_16(to.session_id, ID_BYTES * row, buffer, session + 4)
    store_u8(to.present, row, _IN_ALL)
    for line in range(0, 256, 64):
        prefetch_read(buffer, table + AHEAD_BYTES + line)


@njit(nogil=True, cache=True)
def decode_run(
    buffer: int,
    entries: int,
    place: int,
    count: int,
    start: int,
    end: int,
    limit: int,
    budget: int,
    row: int,
    layout: Layout,
    order: int,
    to: Places,
) -> tuple[int, int, int]:
    """Decode entries from `place` on, as long as they are alike: (next place, row, budget).

    `entries` is the first u32 of the vector. There is room for all rows. What is checked
    amounts to `locate` and `read_event`; an entry that fails in it is not begun.
    """
    is_sdk = order == SDK
    device_at, session_at = layout[9] if is_sdk else layout[8], layout[10] if is_sdk else layout[9]
    name_at, body_at = layout[11] if is_sdk else layout[10], layout[12] if is_sdk else layout[11]
    # A collector's name of 16 bytes could be an SDK's session.
    odd_bytes = -1 if is_sdk else ID_BYTES
    used, service = load_u32(to.payloads, 4 * row), load_u32(to.services, 4 * row)
    used_max = to.payload_end - SLACK_BYTES
    text_max = min(end, limit)
    while place < count:
        table = entries + 4 * place
        table += load_u32(buffer, table)
        if not _has_layout(buffer, table, start, end, layout):
            break
        device = table + device_at + load_u32(buffer, table + device_at)
        session = table + session_at + load_u32(buffer, table + session_at)
        name = table + name_at + load_u32(buffer, table + name_at)
        body = table + body_at + load_u32(buffer, table + body_at)
        if device + 20 > end or session + 20 > end or name + 4 > end or body + 4 > end:
            break
        if load_u32(buffer, device) != ID_BYTES or load_u32(buffer, session) != ID_BYTES:
            break
        name_bytes, body_bytes = load_u32(buffer, name), load_u32(buffer, body)
        if name + 4 + name_bytes > text_max or name_bytes == odd_bytes:
            break
        left = budget - 2 * ID_BYTES - name_bytes - body_bytes
        if body + 4 + body_bytes > text_max or used + body_bytes > used_max or left < 0:
            break
        found = usual_name(buffer, name + 4, name_bytes, to.slots, to.keys, to.name_offsets)
        if found < 0:
            found = known_name(
                buffer, name + 4, name_bytes, limit, to.slots, to.keys, to.name_offsets, to.text
            )
            if found < 0:
                break
        _put_row(buffer, table, device, session, row, layout, to)
        store_u32(to.names, 4 * row, found)
        copy_text(to.payload, used, buffer, body + 4, body_bytes, limit)
        used, budget = used + body_bytes, left
        row += 1
        store_u32(to.payloads, 4 * row, used)
        store_u32(to.services, 4 * row, service)
        place += 1
    return place, row, budget
