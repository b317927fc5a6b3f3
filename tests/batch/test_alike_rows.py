"""Rows that are alike take a quick way through the kernels; the outcome is the same."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.encoding import Layout, encode_events

ROWS = 600
NAMES = [
    "Page Viewed",
    "Login",
    "A name of more than sixteen bytes",
    "Sixteen bytes ok",
    "",
    "x" * 40,
]


def _columns(seed: int, nulls: float) -> dict[str, pa.Array]:
    draw = random.Random(seed)

    def some(value: object) -> object:
        return None if draw.random() < nulls else value

    return {
        "event_types": pa.array([draw.randrange(8) for _ in range(ROWS)], pa.uint8()),
        "timestamps": pa.array([draw.randrange(2**62) for _ in range(ROWS)], pa.int64()),
        "device_ids": pa.array([some(draw.randbytes(16)) for _ in range(ROWS)], pa.binary(16)),
        "session_ids": pa.array([some(draw.randbytes(16)) for _ in range(ROWS)], pa.binary(16)),
        "names": pa.array([some(draw.choice(NAMES)) for _ in range(ROWS)]).dictionary_encode(),
        "payloads": pa.array(
            [some(draw.randbytes(draw.choice([0, 5, 70, 128, 400]))) for _ in range(ROWS)],
            pa.binary(),
        ),
    }


def _decoded(columns: dict[str, pa.Array], per_message: int, layout: Layout) -> pa.Table:
    records, offsets = encode_events(**columns, events_per_message=per_message, layout=layout)
    header = BatchHeader(NO_PRODUCER, 0, 0, 0, 0, 0, "", 0, 0, ROWS, 0, 0)
    decoded = decode_events(Batch(header, records, offsets))
    assert len(decoded.damaged) == 0
    table = pa.table(decoded.table).drop_columns(["message_index"])
    names = table["event_name"].cast(pa.utf8()).combine_chunks()
    return table.set_column(table.schema.get_field_index("event_name"), "event_name", names)


@pytest.mark.parametrize("layout", ["sdk", "collector"])
@pytest.mark.parametrize("nulls", [0.0, 0.02, 0.5])
def test_many_events_of_a_message_decode_like_single_ones(layout: Layout, nulls: float) -> None:
    """An event alone in its message is never in a run."""
    columns = _columns(3, nulls)
    single = _decoded(columns, 1, layout)
    assert single["timestamp"].to_pylist() == columns["timestamps"].to_pylist()
    assert single["payload"].to_pylist() == columns["payloads"].to_pylist()
    for per_message in (2, 7, ROWS):
        assert _decoded(columns, per_message, layout).equals(single)


@pytest.mark.parametrize("layout", ["sdk", "collector"])
def test_the_form_of_a_column_does_not_change_what_is_written(layout: Layout) -> None:
    """Plain, dictionary-encoded and with a bitmap that hides nothing: the same bytes."""
    columns = _columns(4, 0.0)
    wanted, _ = encode_events(**columns, events_per_message=100, layout=layout)
    plain = {**columns, "names": columns["names"].cast(pa.utf8())}
    encoded = {**columns, "payloads": columns["payloads"].dictionary_encode()}
    bitmap = pa.py_buffer(np.full(ROWS // 8 + 1, 0xFF, np.uint8))
    times = columns["device_ids"].buffers()[1]
    ids = pa.Array.from_buffers(pa.binary(16), ROWS, [bitmap, times], -1)
    hidden = {**columns, "device_ids": ids}
    for other in (plain, encoded, hidden):
        written, _ = encode_events(**other, events_per_message=100, layout=layout)
        assert np.array_equal(written, wanted)


def test_a_column_of_nulls_is_as_none() -> None:
    """The decoder hands out such a column for services that no event has."""
    columns = _columns(5, 0.0)
    wanted, _ = encode_events(**columns, events_per_message=100)
    services = pa.nulls(ROWS, pa.utf8())
    written, _ = encode_events(**columns, services=services, events_per_message=100)
    assert np.array_equal(written, wanted)
    with pytest.raises(ValueError, match="services"):
        encode_events(**columns, services=services[1:], events_per_message=100)
