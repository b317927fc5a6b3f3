"""Several batches decode into one table as they do one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import (
    DecodeBuffers,
    DecodedRows,
    decode_events,
    decode_logs,
)
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX


def event_batch(oracle: Any, first: int, count: int, names: int = 10) -> Batch:
    """Events with running numbers, every third without a name or an id."""
    numbers = range(first, first + count)
    ids = [n.to_bytes(16, "big") if n % 3 else None for n in numbers]
    words = [f"name {n % names}" if n % 3 else None for n in numbers]
    records, offsets = encode_events(
        np.ones(count, np.uint8),
        np.arange(first, first + count),
        pa.array(ids, pa.binary(16)),
        names=pa.array(words, pa.utf8()),
        payloads=pa.array([b"%d" % n for n in numbers]),
        events_per_message=7,
    )
    header = oracle.batch([], 1, count).header
    return Batch(header._replace(message_count=len(offsets) - 1), records, offsets)


def joined(parts: list[DecodedRows]) -> pa.Table:
    return pa.concat_tables([pa.table(part.table) for part in parts])


def test_events_of_several_batches_are_one_table(oracle: Any) -> None:
    """All columns, in the order of the batches, with one dictionary."""
    batches = [event_batch(oracle, 0, 50), event_batch(oracle, 50, 1), event_batch(oracle, 51, 99)]
    found = decode_events(batches, buffers=DecodeBuffers())
    found.table.validate(full=True)
    assert found.table.to_pylist() == joined([decode_events(b) for b in batches]).to_pylist()
    assert len(found.table["event_name"].dictionary) == 10


def test_no_batch_is_no_row() -> None:
    """An empty sequence decodes to an empty table."""
    assert decode_events([]).table.num_rows == 0
    assert decode_logs([]).table.num_rows == 0


def test_log_entries_of_several_batches_are_one_table(oracle: Any) -> None:
    """As events."""
    batches = []
    for first in (0, 5, 40):
        records, offsets = encode_logs(
            np.ones(20, np.uint8), None, np.arange(first, first + 20),
            sources=pa.array([f"host {n}" for n in range(20)]), events_per_message=4,
        )  # fmt: skip
        header = oracle.batch([b""], 2).header._replace(message_count=5, event_count=20)
        batches.append(Batch(header, records, offsets))
    found = decode_logs(batches)
    assert found.table.to_pylist() == joined([decode_logs(b) for b in batches]).to_pylist()


def test_damage_says_which_batch_it_is_in(oracle: Any) -> None:
    """Batch, message and reason of each; the neighbours stand."""
    good = event_batch(oracle, 0, 3)
    message = bytes(next(good.messages()))
    bad = oracle.batch([message, message[:20], b"", message])
    found = decode_events([good, bad, good, bad])
    assert found.damaged_batches.tolist() == [1, 1, 3, 3]
    assert found.damaged.tolist() == [1, 2, 1, 2]
    assert found.table.num_rows == 3 + 6 + 3 + 6


def test_names_that_are_too_many_only_together(oracle: Any) -> None:
    """No batch alone has more than a dictionary takes; all of them have."""
    step = NAMES_MAX // 2
    batches = [event_batch(oracle, place * step, step, 10**9) for place in range(4)]
    buffers = DecodeBuffers()
    for _ in range(2):
        found = decode_events(batches, buffers=buffers)
        assert found.table.to_pylist() == joined([decode_events(b) for b in batches]).to_pylist()


def test_a_header_that_is_wrong_costs_nothing_but_time(oracle: Any) -> None:
    """The outputs grow in the middle of the second batch."""
    batches = [event_batch(oracle, 0, 40), event_batch(oracle, 40, 4000)]
    wrong = [Batch(b.header._replace(event_count=1), b.records, b.offsets) for b in batches]
    found = decode_events(wrong, buffers=DecodeBuffers())
    assert found.table.to_pylist() == joined([decode_events(b) for b in batches]).to_pylist()
