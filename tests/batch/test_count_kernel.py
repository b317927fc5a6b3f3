"""What a message holds is known without decoding it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.count import count_message, count_records
from cdp_ray_sinks.batch.kernels.tables import BAD_TABLE, NO_ROWS, OK, WRONG_SCHEMA

NONE = (0, 0, -1, -1)


def counted(message: bytes, schema_type: int) -> tuple[int, ...]:
    buffer = readonly(np.frombuffer(b"\xff" * 3 + message + b"\xff" * 5, np.uint8))
    return tuple(int(n) for n in count_message(buffer, 3, 3 + len(message), schema_type))


def test_events_are_counted_with_types_and_times(oracle: Any) -> None:
    """A bit for each type that is there, unknown ones as bit 0, and the range of times."""
    rows = [[("u8", code), ("u64", stamp)] for code, stamp in ((1, 50), (6, 40), (200, 45))]
    assert counted(oracle.build_rows(rows), 1) == (OK, 3, 0b1000011, 40, 50)


@pytest.mark.parametrize(
    ("schema_type", "time_slot", "scale"), [(2, 3, 1), (3, 1, 10**6), (4, 3, 10**6), (5, 0, 1)]
)
def test_other_schemas_are_counted_in_milliseconds(
    oracle: Any, schema_type: int, time_slot: int, scale: int
) -> None:
    """Each schema has its time in its own slot and unit; none has event types."""
    rows = [
        [None] * time_slot + [("u64", stamp * scale)]
        for stamp in (1_700_000_000_002, 1_700_000_000_001)
    ]
    message = oracle.build_rows(rows, schema_type)
    assert counted(message, schema_type) == (OK, 2, 0, 1_700_000_000_001, 1_700_000_000_002)


def test_times_that_nobody_set_are_not_counted(oracle: Any) -> None:
    """Zero and absent mean unknown; what does not fit is the largest."""
    assert counted(oracle.build_rows([[("u8", 1)], [("u8", 1), ("u64", 0)]]), 1) == (
        OK, 2, 2, -1, -1,
    )  # fmt: skip
    rows = [[("u8", 1)], [("u8", 1), ("u64", 7)], [("u8", 1), ("u64", 2**64 - 1)]]
    assert counted(oracle.build_rows(rows), 1) == (OK, 3, 2, 7, 2**63 - 1)


def test_what_is_no_message_counts_nothing(oracle: Any) -> None:
    """Empty, cut, without entries, of no known schema."""
    good = oracle.build_rows([[("u8", 1)]])
    assert counted(b"", 1) == (BAD_TABLE, *NONE)
    assert counted(good[:20], 1)[1:] == NONE
    assert counted(good, 0) == (WRONG_SCHEMA, *NONE)
    assert counted(good, 6) == (WRONG_SCHEMA, *NONE)
    assert counted(oracle.build(b"\x08\0\0\0\x04\0\x04\0\x04\0\0\0", 1), 1) == (NO_ROWS, *NONE)
    assert counted(oracle.build_rows([]), 1) == (OK, *NONE)


def test_a_message_of_another_schema_does_not_count(oracle: Any) -> None:
    """The decoder of events takes no log entries, whatever the batch says they are."""
    for own, wanted in ((1, 2), (2, 1), (0, 1)):
        message = oracle.build_rows([[("u8", 1)]], own)
        assert counted(message, wanted) == (WRONG_SCHEMA, *NONE)


def test_a_batch_is_counted_message_by_message(oracle: Any) -> None:
    """The sum over a batch is what was encoded."""
    ones = np.ones(1000, np.uint8)
    for schema_type, (records, offsets) in (
        (1, encode_events(ones, np.arange(1, 1001), events_per_message=7)),
        (2, encode_logs(ones, ones, np.arange(1, 1001), events_per_message=7)),
    ):
        found = np.empty((len(offsets) - 1, 5), np.int64)
        count_records(readonly(records), readonly(offsets), schema_type, found)
        assert (found[:, 0] == OK).all()
        assert found[:, 1].sum() == 1000
        assert (found[:, 3].min(), found[:, 4].max()) == (1, 1000)


def test_other_kernels_may_call_it(oracle: Any) -> None:
    """It takes an array inside compiled code as well."""
    message = readonly(np.frombuffer(oracle.build_rows([[("u8", 1), ("u64", 9)]]), np.uint8))

    @njit
    def around(buffer: Any) -> Any:
        return count_message(buffer, 0, len(buffer), 1)

    assert tuple(around(message)) == (OK, 1, 2, 9, 9)
