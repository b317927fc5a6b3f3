"""Dead letters keep what was refused and no more, as it came and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.delivery.dead_letters import REASONS_FILE, DeadLetterArchive, select_entries
from cdp_ray_sinks.delivery.lane_items import RefusedEntry
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.testing import RECEIVED_AT_MS, TEST_PRODUCER, FakeClock


def batch_of(records: Any, offsets: Any, schema_type: int) -> Batch:
    header = BatchHeader(
        TEST_PRODUCER, 1, 7, schema_type, 2, 3, "test", RECEIVED_AT_MS, len(offsets) - 1, 6,
        len(records), xxh3(records),
    )  # fmt: skip
    return Batch(header, records.copy(), offsets.copy())


@pytest.fixture
def events() -> Batch:
    """Six events in messages of two, from addresses of their own."""
    ids = np.arange(96, dtype=np.uint8).reshape(6, 16)
    records, offsets = encode_events(
        [1, 2, 6, 1, 3, 1],
        [RECEIVED_AT_MS + place for place in range(6)],
        device_ids=ids,
        session_ids=pa.array([None, *(bytes(row) for row in ids[1:])], pa.binary(16)),
        names=pa.array(["a", None, "c", "ü", "e", ""]),
        services=pa.array(["web", None, "web", "app", None, "web"]),
        payloads=pa.array([b"{}", b"\xff\x00", None, b"x" * 5000, b"4", b"5"]),
        events_per_message=2,
        received_at_ms=RECEIVED_AT_MS,
    )
    records = records.copy()
    for place, start in enumerate(offsets[:-1].tolist()):
        records[start + 23] = place
    return batch_of(records, offsets, 1)


@pytest.mark.parametrize("entries", [[3], [0, 1, 5], [4, 2], list(range(6))])
def test_entries_of_a_message_are_cut_out_of_it(events: Batch, entries: list[int]) -> None:
    """Each field is the same, and so are address and time of reception; ids of the batch too."""
    cut = select_entries(events, entries)
    assert cut.offsets_fit()
    assert cut.header.batch_id == events.header.batch_id
    assert cut.header.message_count == len(entries)
    assert cut.header.checksum == xxh3(cut.records)
    whole, found = decode_events(events).table, decode_events(cut).table
    for name in whole.schema.names:
        if name != "message_index":
            wanted = [whole[name][entry].as_py() for entry in entries]
            assert found[name].to_pylist() == wanted, name
    assert [ip[15] for ip in found["source_ip"].to_pylist()] == [entry // 2 for entry in entries]


def test_log_entries_are_cut_out_too() -> None:
    """With level, source, service and session."""
    records, offsets = encode_logs(
        [1, 1, 2],
        [3, 8, 0],
        [1, 2, 3],
        session_ids=pa.array([None, bytes(16), b"s" * 16], pa.binary(16)),
        sources=pa.array(["a", None, "c"]),
        services=pa.array([None, "y", "z"]),
        payloads=pa.array([b"1", None, b"3"]),
        events_per_message=3,
        received_at_ms=RECEIVED_AT_MS,
    )
    batch = batch_of(records, offsets, 2)
    found = decode_logs(select_entries(batch, [1, 2])).table
    whole = decode_logs(batch).table
    for name in whole.schema.names:
        if name != "message_index":
            assert found[name].to_pylist() == whole[name].to_pylist()[1:], name


def test_whole_messages_and_single_entries_are_kept_with_their_reasons(
    events: Batch, tmp_path: Path
) -> None:
    """An entry of a message that is kept whole is not kept twice; one line for each reason."""
    archive = DeadLetterArchive(tmp_path, "rows", FakeClock())
    archive.put_entries(
        events,
        [
            RefusedEntry(1, 2, "too long"),
            RefusedEntry(1, None, "does not decode"),
            RefusedEntry(0, 1, "no e-mail"),
            RefusedEntry(2, 4, "no e-mail"),
        ],
    )
    archive.close()
    batches = [batch for _, batch in read_batches([tmp_path / "rows"], print)]
    times = [time for b in batches for time in decode_events(b).table["timestamp"].to_pylist()]
    assert [time - RECEIVED_AT_MS for time in times] == [2, 3, 1, 4]
    lines = (tmp_path / "rows" / REASONS_FILE).read_text().splitlines()
    told = [(line["reason"], line["messages"]) for line in map(json.loads, lines)]
    assert sorted(told) == [("does not decode", 1), ("no e-mail", 2), ("too long", 1)]
    assert {json.loads(line)["workspace_id"] for line in lines} == {3}
