"""JSON of clients becomes objects; what is none is named and harms no other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.writers.json_objects import (
    CHUNK_BYTES,
    CHUNK_PAYLOADS,
    NO_PAYLOAD,
    NOT_AN_OBJECT,
    NOT_JSON,
    ObjectReader,
    chunks_of,
    text_of,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(*payloads: bytes) -> tuple[list[dict[str, Any]], dict[int, str]]:
    return ObjectReader(dict[str, Any]).read(payloads)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", NO_PAYLOAD),
        (b" \n ", NO_PAYLOAD),
        (b"hello", NOT_JSON),
        (b"{", NOT_JSON),
        (b'{"a":1}}', NOT_JSON),
        (b'{"a":1}{"b":2}', NOT_JSON),
        (b'{"a":1,}', NOT_JSON),
        (b"{'a':1}", NOT_JSON),
        (b'{"a":NaN}', NOT_JSON),
        (b'{"a":01}', NOT_JSON),
        (b'{"a":"\x01"}', NOT_JSON),
        (b'{"a":"\\x"}', NOT_JSON),
        (b'{"a":"\\ud83', NOT_JSON),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", NOT_JSON),
        (b'{"a":' + b'{"b":' * 50_000, NOT_JSON),
        (b"\x00\xff\xfe", NOT_JSON),
        (b"[1]", NOT_AN_OBJECT),
        (b'"text"', NOT_AN_OBJECT),
        (b"17", NOT_AN_OBJECT),
        (b"null", NOT_AN_OBJECT),
        (b"true", NOT_AN_OBJECT),
    ],
)
def test_what_is_no_object_is_named_and_harms_no_other(payload: bytes, reason: str) -> None:
    """Its place holds an empty object; those before and behind it are read."""
    objects, refused = read(b'{"a":1}', payload, payload, b'{"b":2}', payload)
    assert objects == [{"a": 1}, {}, {}, {"b": 2}, {}]
    assert refused == {1: reason, 2: reason, 4: reason}
    assert objects[1] is not objects[2]


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (rb'{"a":"\ud83d\ude00"}', "😀"),
        (rb'{"a":"cut \ud83d"}', "cut \ufffd"),
        (rb'{"a":"\uDE00 cut"}', "\ufffd cut"),
        (rb'{"a":"\ud83d\ud83d\ude00"}', "\ufffd😀"),
        (rb'{"a":"\ud83dx\ude00"}', "\ufffdx\ufffd"),
        (rb'{"a":"\\ud83d \ude00"}', "\\ud83d \ufffd"),
        (b'{"a":"\xff\xfe ok"}', "\ufffd\ufffd ok"),
        (b'{"a":"cut \xe2\x82"}', "cut \ufffd"),
        (b'\xef\xbb\xbf{"a":"mark"}', "mark"),
        (b' \t\r\n{ "a" :\n"spaces" } ', "spaces"),
        ('{"a":"Zoë 美咲"}'.encode(), "Zoë 美咲"),
        (rb'{"a":"\u0000\"\\\/\b\f\n\r\t"}', '\0"\\/\b\f\n\r\t'),
        (b'{"a":"first","a":"second"}', "second"),
        (b'{"a":"' + b"x" * 5_000_000 + b'"}', "x" * 5_000_000),
    ],
)
def test_what_clients_get_wrong_in_text_is_put_right(payload: bytes, value: str) -> None:
    """Halves of pairs, bytes that are no UTF-8 and byte order marks lose no object."""
    objects, refused = read(b"{}", payload, b"{}")
    assert objects == [{}, {"a": value}, {}]
    assert refused == {}
    assert value.encode()


NUMBERS = (
    "0", "-1", "18446744073709551616", "-" + "9" * 40, "1" * 3000, "1.10", "-0.0", "1e5",
    "1E400", "0.1000000000000000055511151231257827", "1.0E-7",
)  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_stay_as_the_client_wrote_them(number: str) -> None:
    """No digit is lost to a float, at the top or inside."""
    objects, refused = read(f'{{"a":{number},"b":[{{"c":{number}}}]}}'.encode())
    assert refused == {}
    assert text_of(objects[0]["a"]) == number
    assert text_of(objects[0]["b"]) == f'[{{"c":{number}}}]'


def test_an_endless_number_is_an_error_of_its_payload_alone() -> None:
    """A million digits are not computed with: that would take seconds."""
    objects, refused = read(b"{}", b'{"a":' + b"1" * 1_000_000 + b"}", b'{"b":1}')
    assert (len(objects), objects[2]) == (3, {"b": 1})
    assert refused == {1: NOT_JSON}


@given(values=st.lists(st.dictionaries(st.text(), VALUES, max_size=5), max_size=20))
def test_objects_are_those_of_the_standard_library(values: list[dict[str, Any]]) -> None:
    """Escaped or not, every object is read as json reads it."""
    payloads = [
        json.dumps(value, ensure_ascii=place % 2 == 0).encode()
        for place, value in enumerate(values)
    ]
    objects, refused = read(*payloads)
    assert objects == values
    assert refused == {}


@given(value=VALUES)
def test_the_text_of_a_value_is_its_json(value: Any) -> None:
    """A string is itself, all else the same text as json's without spaces."""
    expected = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    assert text_of(value) == expected


@given(
    lengths=st.lists(
        st.sampled_from(
            [0, 1, 100, CHUNK_BYTES // 2, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]
        )
    ),
    repeated=st.integers(1, 3000),
)
def test_chunks_are_all_of_it_and_bounded(lengths: list[int], repeated: int) -> None:
    """One behind the other, none empty, none too large unless it is one payload."""
    payloads = [bytes(length) for length in lengths] + [b"ten bytes."] * repeated
    place = 0
    for chunk in chunks_of(payloads):
        part = payloads[chunk]
        assert chunk.start == place
        assert 0 < len(part) <= CHUNK_PAYLOADS
        assert sum(map(len, part)) <= CHUNK_BYTES or len(part) == 1
        place = chunk.stop
    assert place == len(payloads)
    assert list(chunks_of([])) == []


def test_a_struct_takes_its_own_keys() -> None:
    """Other keys are passed over, missing ones have their default."""

    class Some(msgspec.Struct):
        a: Any = None
        b: Any = None

    objects, refused = ObjectReader(Some).read([b'{"b":[1],"c":2}', b"[]", b'{"a":"x"}'])
    assert objects == [Some(None, [1]), Some(), Some("x")]
    assert refused == {1: NOT_AN_OBJECT}
