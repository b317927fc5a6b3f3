"""Columns to messages: the way back from `columns`, for replay, tests and synthetic load.

What comes out is a batch's records and offsets, or wire frames, in the layout that the
clients' own writers use ("sdk") or the collector's encoder ("collector").
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Bytes, Offsets
from cdp_ray_sinks.batch.enums import (
    API_KEY_BYTES,
    ID_BYTES,
    LENGTH_BYTES,
    PROTOCOL_VERSION,
    LogLevel,
    SchemaType,
)
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.encode import (
    HAS_FIRST,
    HAS_NAME,
    HAS_PAYLOAD,
    HAS_SECOND,
    HAS_TEXT,
    NO_ROOM,
    TEMPLATE_BYTES,
    TEMPLATE_COUNT,
    EntryLayout,
    MessageFrame,
    encode_entries,
)
from cdp_ray_sinks.batch.kernels.encode_columns import BAD_INDEX
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES
from cdp_ray_sinks.batch.text_columns import (
    Column,
    IdColumn,
    Numbers,
    ids_of,
    numbers_of,
    text_bytes_max,
    texts_of,
)

Layout: TypeAlias = Literal["sdk", "collector"]

_LOOPBACK: Final = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
_ROW_BYTES_MAX: Final = 128
"""What an entry takes at most besides the bytes of its strings."""

# Offsets in the table, by the writers' layouts: head bytes, table start, code, level, time,
# first and second id, text, name, payload.
_SDK_EVENT: Final = EntryLayout(60, 24, 28, -1, 20, 4, 8, 32, 12, 16, False)
_SDK_LOG: Final = EntryLayout(56, 24, 28, 29, 20, -1, 4, 8, 12, 16, False)
_COLLECTOR_EVENT: Final = EntryLayout(48, 16, 4, -1, 8, 16, 20, -1, 24, 28, True)
_COLLECTOR_LOG: Final = EntryLayout(52, 20, 4, 5, 8, -1, 16, 20, 24, 28, True)

_SDK_EVENT_SLOTS: Final = ("code", "time", "text", "first", "second", "name", "payload")
_COLLECTOR_EVENT_SLOTS: Final = ("code", "time", "first", "second", "name", "payload")
_LOG_SLOTS: Final = ("code", "second", "level", "time", "text", "name", "payload")
_OPTIONAL: Final = {
    "first": HAS_FIRST,
    "second": HAS_SECOND,
    "text": HAS_TEXT,
    "name": HAS_NAME,
    "payload": HAS_PAYLOAD,
}


def _templates(layout: EntryLayout, slots: tuple[str, ...], has_root: bool) -> NDArray[np.uint8]:
    """How entries begin, for each combination of what is there: head and empty id vectors.

    In the SDKs' layout each entry is a buffer of its own, with a root offset in front.
    """
    made = bytearray(TEMPLATE_BYTES * TEMPLATE_COUNT)
    vtable_start = 4 if has_root else 0
    table_bytes = layout.head_bytes - layout.table_start
    for there in range(TEMPLATE_COUNT):
        start = TEMPLATE_BYTES * there
        fields = [
            0 if slot in _OPTIONAL and not there & _OPTIONAL[slot] else getattr(layout, slot)
            for slot in slots
        ]
        if has_root:
            struct.pack_into("<I", made, start, layout.table_start)
        vtable = struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), table_bytes, *fields)
        made[start + vtable_start : start + vtable_start + len(vtable)] = vtable
        table, end = start + layout.table_start, start + layout.head_bytes
        struct.pack_into("<i", made, table, layout.table_start - vtable_start)
        for name in ("first", "second"):
            if there & _OPTIONAL[name]:
                field = table + getattr(layout, name)
                struct.pack_into("<I", made, field, end - field)
                struct.pack_into("<I", made, end, ID_BYTES)
                end += 4 + ID_BYTES
    return readonly(np.frombuffer(bytes(made), np.uint8))


_FORMS: Final[dict[tuple[str, int], tuple[EntryLayout, NDArray[np.uint8]]]] = {
    ("sdk", SchemaType.EVENT): (_SDK_EVENT, _templates(_SDK_EVENT, _SDK_EVENT_SLOTS, True)),
    ("sdk", SchemaType.LOG): (_SDK_LOG, _templates(_SDK_LOG, _LOG_SLOTS, True)),
    ("collector", SchemaType.EVENT): (
        _COLLECTOR_EVENT,
        _templates(_COLLECTOR_EVENT, _COLLECTOR_EVENT_SLOTS, False),
    ),
    ("collector", SchemaType.LOG): (
        _COLLECTOR_LOG,
        _templates(_COLLECTOR_LOG, _LOG_SLOTS, False),
    ),
}


def encode_events(
    event_types: Numbers,
    timestamps: Numbers,
    device_ids: IdColumn = None,
    session_ids: IdColumn = None,
    names: Column = None,
    services: Column = None,
    payloads: Column = None,
    *,
    events_per_message: int,
    api_key: bytes = bytes(API_KEY_BYTES),
    received_at_ms: int = 0,
    source_ip: bytes = _LOOPBACK,
    batch_id: int = 0,
    layout: Layout = "sdk",
    as_frames: bool = False,
    out: Bytes | None = None,
) -> tuple[Bytes, Offsets]:
    """Write events as messages; returns (records, offsets) as in a Batch.

    `event_types` and `timestamps` (ms) have one value a row; for the others see
    `text_columns`. `batch_id` numbers the messages from there on, 0 leaves them without.
    With `as_frames` each message has only its 4-byte size in front, as on the wire. `out`
    is used if it is large enough; `records.base` is what to hand in the next time.

    Raises ValueError if columns differ in length, a string lies outside its column, or
    services are given to the collector's layout, which has no place for them.
    """
    if layout == "collector" and services is not None:
        raise ValueError("the collector's layout has no field for services")
    rows = len(event_types)
    frame = _message_frame(layout, SchemaType.EVENT, api_key, received_at_ms, source_ip, as_frames)
    times = numbers_of("timestamps", timestamps, np.int64, rows)
    return _encode(
        _FORMS[layout, SchemaType.EVENT],
        frame,
        [numbers_of("event_types", event_types, np.uint8, rows), _no_levels(), times],
        [ids_of("device_ids", device_ids, rows), ids_of("session_ids", session_ids, rows)],
        [
            texts_of("services", services, rows),
            texts_of("names", names, rows),
            texts_of("payloads", payloads, rows),
        ],
        (events_per_message, batch_id),
        out,
    )


def encode_logs(
    event_types: Numbers,
    levels: Numbers | None,
    timestamps: Numbers,
    session_ids: IdColumn = None,
    sources: Column = None,
    services: Column = None,
    payloads: Column = None,
    *,
    events_per_message: int,
    api_key: bytes = bytes(API_KEY_BYTES),
    received_at_ms: int = 0,
    source_ip: bytes = _LOOPBACK,
    batch_id: int = 0,
    layout: Layout = "sdk",
    as_frames: bool = False,
    out: Bytes | None = None,
) -> tuple[Bytes, Offsets]:
    """Write log entries as messages, as `encode_events` does; no `levels` means INFO."""
    rows = len(event_types)
    frame = _message_frame(layout, SchemaType.LOG, api_key, received_at_ms, source_ip, as_frames)
    if levels is None:
        levels = np.full(rows, LogLevel.INFO, np.uint8)
    times = numbers_of("timestamps", timestamps, np.int64, rows)
    codes = numbers_of("event_types", event_types, np.uint8, rows)
    return _encode(
        _FORMS[layout, SchemaType.LOG],
        frame,
        [codes, numbers_of("levels", levels, np.uint8, rows), times],
        [ids_of("no device", None, rows), ids_of("session_ids", session_ids, rows)],
        [
            texts_of("sources", sources, rows),
            texts_of("services", services, rows),
            texts_of("payloads", payloads, rows),
        ],
        (events_per_message, batch_id),
        out,
    )


def _no_levels() -> NDArray[np.uint8]:
    return readonly(np.zeros(0, np.uint8))


def _message_frame(
    layout: str,
    schema_type: int,
    api_key: bytes,
    received_at_ms: int,
    source_ip: bytes,
    as_frames: bool,
) -> MessageFrame:
    if len(api_key) != API_KEY_BYTES or len(source_ip) != ID_BYTES:
        raise ValueError(f"{API_KEY_BYTES} bytes of api key and {ID_BYTES} of source ip wanted")
    prefix = bytes(LENGTH_BYTES)
    if not as_frames:
        prefix = struct.pack(">Q", received_at_ms) + source_ip + prefix
    if layout == "sdk":
        # The declared table size, 32, is what the SDKs say; the table has 28 bytes.
        vtable = struct.pack("<8H", 16, 32, 4, 24, 25, 16, 8, 0)
        table = struct.pack("<iIIIQBB2x", 16, 24, 40, 0, 0, schema_type, PROTOCOL_VERSION)
        batch_id_at = 36
    else:
        vtable = struct.pack("<8H", 16, 16, 4, 12, 13, 0, 8, 0)
        table = struct.pack("<iIIBB2x", 16, 12, 28, schema_type, PROTOCOL_VERSION)
        batch_id_at = -1
    head = struct.pack("<I", 20) + vtable + table + struct.pack("<I", API_KEY_BYTES) + api_key
    data = struct.pack("<I4H2I", 12, 6, 8, 4, 0, 8, 4)
    envelope = head + bytes(4) + data + bytes(4)
    return MessageFrame(
        readonly(np.frombuffer(prefix, np.uint8)),
        readonly(np.frombuffer(envelope, np.uint8)),
        batch_id_at,
        len(head),
    )


def _encode(
    form: tuple[EntryLayout, NDArray[np.uint8]],
    frame: MessageFrame,
    numbers: list[NDArray[Any]],
    ids: list[Any],
    texts: list[Any],
    numbering: tuple[int, int],
    out: Bytes | None,
) -> tuple[Bytes, Offsets]:
    layout, templates = form
    per_message, batch_id = numbering
    if per_message < 1:
        raise ValueError(f"{per_message} events per message")
    if batch_id > 0 and frame.batch_id < 0:
        raise ValueError("the collector's layout has no batch id")
    rows = len(numbers[0])
    message_count = -(-rows // per_message)
    needed = rows * _ROW_BYTES_MAX + sum(text_bytes_max(column, rows) for column in texts)
    needed += message_count * (len(frame.prefix) + len(frame.envelope)) + 4 * SLACK_BYTES
    if out is None or len(out) < needed:
        out = np.empty(needed, np.uint8)
    offsets = np.empty(message_count + 1, np.uint64)
    codes, levels, times = numbers
    first_ids, second_ids = ids
    first_texts, second_texts, payloads = texts
    end, row = encode_entries(
        codes,
        levels,
        times,
        first_ids,
        second_ids,
        first_texts,
        second_texts,
        payloads,
        per_message,
        batch_id,
        frame,
        templates,
        layout,
        out,
        offsets,
    )
    if end == NO_ROOM:  # text_bytes_max is too small then
        raise AssertionError(f"row {row} does not fit {len(out)} bytes")
    if end < 0:
        reason = "an index outside its dictionary" if end == BAD_INDEX else "offsets that go astray"
        raise ValueError(f"row {row} has {reason}")
    return out[:end], offsets


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    one = np.ones(1, np.uint8)
    encode_events(one, one, events_per_message=1)
