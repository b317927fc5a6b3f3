"""Finding out, from payloads alone, what is missing or came twice."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers


def test_missing_and_duplicated_numbers_are_told_apart() -> None:
    """Each number once is clean; gaps, repeats and strangers are counted each."""
    numbers = RunningNumbers(6)
    numbers.add(pa.array([b'{"n":0,"x":1}', b'{"n":5}', b'{"n":0}', b'{"n":0}']))
    numbers.add(pa.array([b'{"n":6}', b"", None, b'{"m":1}', b'{"n":2}']))
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (3, 2, 4)
    assert numbers.first_missing() == [1, 3, 4]


@pytest.mark.parametrize(
    "payload",
    [b'{"n":', b'{"n":}', b'{"n":1', b'{"n":1x}', b'{"n":-1}', b'{"n":1.5}', b'{"n":01}',
     b'{ "n":1}', b'{"n":1 }', b'{"n":' + b"9" * 30 + b"}", b'x"n":1}', b'{"n";1}'],
)  # fmt: skip
def test_only_a_whole_number_at_the_beginning_counts(payload: bytes) -> None:
    """Anything else than `{"n":<digits>` and `,` or `}` is foreign."""
    numbers = RunningNumbers(100)
    numbers.add(pa.array([payload]))
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (100, 0, 1)


@given(
    st.lists(st.integers(0, 50)), st.integers(0, 40), st.integers(0, 20),
    st.sampled_from([pa.binary(), pa.large_binary(), pa.string()]),
)  # fmt: skip
def test_it_agrees_with_counting_in_python(
    values: list[int], count: int, start: int, kind: pa.DataType
) -> None:
    """Over any slice of any column, as a plain loop over decoded JSON would."""
    column = pa.array([json.dumps({"n": v}, separators=(",", ":")) for v in values], pa.string())
    column = column.cast(kind).slice(start)
    numbers = RunningNumbers(count)
    numbers.add(pa.chunked_array([column[:3], column[3:]], kind))
    inside = [v for v in values[start:] if v < count]
    assert numbers.missing == count - len(set(inside))
    assert numbers.duplicated == len(inside) - len(set(inside))
    assert numbers.foreign == len(values[start:]) - len(inside)


def test_an_absurd_count_is_refused() -> None:
    """Nothing is allocated for a number that can't be meant."""
    with pytest.raises(ValueError, match="can't check"):
        RunningNumbers(2**50)
