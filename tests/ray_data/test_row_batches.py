"""Rows to batches: what each column may be, what is refused, and that no row is lost."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.ray_data.row_batches import BATCH_BYTES, BlockRows, RowKind, RowMapping

NOW_MS = 1_767_225_600_000
DEVICE = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")


def made(
    table: pa.Table, rows: RowKind = "events", workspace_id: int | None = 1, **names: str
) -> list[Batch]:
    """The batches of a block, with buffers of their own."""
    block = BlockRows(table, RowMapping(rows, names, workspace_id), NOW_MS)
    assert block.bad_rows == {}
    found = []
    for batch in block.batches():
        assert batch.header.checksum == xxh3(batch.records)
        assert batch.offsets_fit()
        found.append(Batch(batch.header, batch.records.copy(), batch.offsets.copy()))
    return found


def rows_in(batches: list[Batch], kind: str = "events") -> list[dict[str, Any]]:
    """What the batches decode to."""
    decode = decode_events if kind == "events" else decode_logs
    return [row for batch in batches for row in decode(batch).table.to_pylist()]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([DEVICE.bytes, None], pa.binary(16)),
        pa.array([DEVICE.bytes, None], pa.binary()),
        pa.array([str(DEVICE), None]),
        pa.array([DEVICE.hex.upper(), None], pa.large_utf8()),
        pa.array([str(DEVICE), None]).dictionary_encode(),
    ],
)
def test_ids_are_bytes_or_text(ids: pa.Array) -> None:
    """UUIDs come as 16 bytes or as text, with hyphens or without; null stays null."""
    (batch,) = made(pa.table({"timestamp": [1, 2], "device_id": ids}))
    assert [row["device_id"] for row in rows_in([batch])] == [DEVICE.bytes, None]


def test_times_are_milliseconds_or_timestamps() -> None:
    """Timestamps of any unit and zone mean the same as their Unix milliseconds."""
    times = pa.array([NOW_MS, NOW_MS + 1])
    for kind in (pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns")):
        stamps = times.cast(pa.timestamp("ms")).cast(kind)
        (batch,) = made(pa.table({"at": stamps}), timestamp="at")
        assert [row["timestamp"] for row in rows_in([batch])] == [NOW_MS, NOW_MS + 1]
        assert (batch.header.time_min_ms, batch.header.time_max_ms) == (NOW_MS, NOW_MS + 1)


def test_batches_keep_to_one_workspace_and_hour() -> None:
    """Rows are put with their like, keep their order, and their own time and address."""
    table = pa.table(
        {
            "timestamp": np.arange(6),
            "payload": [f"{n}" for n in range(6)],
            "workspace_id": [2, 1, 2, 1, 2, 1],
            "received_at_ms": [NOW_MS, NOW_MS, NOW_MS + 7, NOW_MS + 3_600_000, NOW_MS, NOW_MS + 5],
            "source_ip": ["192.0.2.1", "::1", None, "192.0.2.1", "192.0.2.1", "192.0.2.9"],
        }
    )
    batches = made(table, workspace_id=None)
    found = [
        (b.header.workspace_id, [int(row["payload"]) for row in rows_in([b])]) for b in batches
    ]
    assert found == [(1, [1, 5]), (1, [3]), (2, [0, 2, 4])]
    last = rows_in(batches)[-3:]
    assert [row["received_at_ms"] for row in last] == [NOW_MS, NOW_MS + 7, NOW_MS]
    assert [row["source_ip"][-4:] for row in last] == [
        bytes([192, 0, 2, 1]), bytes([127, 0, 0, 1]), bytes([192, 0, 2, 1])
    ]  # fmt: skip


def test_log_entries_keep_their_columns() -> None:
    """Levels are names or numbers, and INFO where none is said."""
    table = pa.table(
        {"timestamp": [1, 2, 3], "level": ["Error", None, "debug"], "source": ["a", "b", "c"]}
    )
    rows = rows_in(made(table, "logs"), "logs")
    assert [row["level"] for row in rows] == [3, 6, 7]
    assert [row["source"] for row in rows] == ["a", "b", "c"]


def test_messages_go_as_they_are_but_for_their_keys() -> None:
    """Raw messages are checked, their keys zeroed; what is none is a bad row."""
    records, offsets = encode_events(
        np.ones(4, np.uint8), np.arange(4), events_per_message=2, api_key=bytes(range(16))
    )
    first, second = (records[s + 28 : e].tobytes() for s, e in pairwise(offsets.tolist()))
    table = pa.table({"message": pa.array([first, b"nothing", second, None], pa.binary())})
    block = BlockRows(table, RowMapping("messages", {}, 1), NOW_MS)
    assert block.bad_rows == dict.fromkeys([1, 3], "its bytes are no message")
    (batch,) = made(table.take([0, 2]), "messages")
    assert [row["timestamp"] for row in rows_in([batch])] == [0, 1, 2, 3]
    assert bytes(range(16)) not in batch.records.tobytes()


def test_large_blocks_are_cut() -> None:
    """No batch is much larger than BATCH_BYTES, and all rows are in one."""
    rows = 30_000
    table = pa.table({"timestamp": np.arange(rows), "payload": pa.array([b"x" * 1000] * rows)})
    batches = made(table)
    assert len(batches) > 1
    assert max(len(batch.records) for batch in batches) < 1.2 * BATCH_BYTES
    assert sum(batch.header.event_count for batch in batches) == rows


def test_bad_values_name_row_and_column() -> None:
    """Each bad row has one reason; the columns are named as the user names them."""
    table = pa.table(
        {"when": [1, None, -5, 4], "device_id": ["x", None, None, None],
         "event_type": ["track", "track", None, "nothing"]}
    )  # fmt: skip
    bad = BlockRows(table, RowMapping("events", {"timestamp": "when"}, 1), NOW_MS).bad_rows
    assert list(bad) == [0, 1, 2, 3]
    assert bad[0] == "column 'device_id' is no UUID"
    assert bad[1] == "column 'when' is null"
    assert bad[2] == "column 'when' is no time from 1970 on, in ms"
    assert "'event_type' is none of unknown, track" in bad[3]


@pytest.mark.parametrize(
    ("table", "names", "text"),
    [
        ({"at": [1]}, {}, "need a column 'timestamp'"),
        ({"timestamp": [1]}, {"payload": "body"}, "'body' for 'payload' is not in the rows"),
        ({"timestamp": ["soon"]}, {}, "column 'timestamp' is string"),
        ({"timestamp": [1], "payload": [5]}, {}, "must be text or bytes"),
        ({"timestamp": [1]}, {"colour": "c"}, "columns: 'colour' is none of"),
    ],
)
def test_columns_that_cant_be_taken_are_an_error(
    table: dict[str, Any], names: dict[str, str], text: str
) -> None:
    """What no row could be right about is said at once."""
    with pytest.raises(ConfigError, match=text):
        BlockRows(pa.table(table), RowMapping("events", names, 1), NOW_MS)
    with pytest.raises(ConfigError, match="whose are the rows"):
        BlockRows(pa.table({"timestamp": [1]}), RowMapping("events", {}, None), NOW_MS)


def test_no_rows_make_no_batch() -> None:
    """An empty block is no error."""
    schema = pa.schema([("timestamp", pa.int64()), ("payload", pa.utf8())])
    assert made(schema.empty_table()) == []
