"""What a columnar file wants in another form than it was decoded in."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any
from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.column_values import (
    ADDRESS_TEXT_BYTES,
    ADDRESSES_MAX,
    TOO_MANY,
    gather_ids,
    gather_numbers,
    gather_texts,
    mark_ill_formed,
    number_addresses,
    number_words,
    put_addresses,
    put_ids,
)
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX, SLOTS
from cdp_ray_sinks.batch.kernels.rows import SLACK_BYTES

ADDRESSES = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=4, max_size=4).map((bytes(10) + b"\xff\xff").__add__),
    st.lists(st.sampled_from([b"\x00\x00", b"\x00\x01", b"\xab\xcd"]), min_size=8, max_size=8).map(
        b"".join
    ),
)


def array_of(parts: list[bytes]) -> Any:
    return readonly(np.frombuffer(b"".join(parts), np.uint8))


def offsets_of(parts: list[bytes]) -> Any:
    return readonly(np.cumsum([0, *map(len, parts)]).astype(np.int32))


def texts_of(offsets: Any, text: Any, count: int) -> list[bytes]:
    content = text.tobytes()
    return [content[offsets[place] : offsets[place + 1]] for place in range(count)]


def numbered(addresses: list[bytes]) -> tuple[int, Any, Any]:
    numbers = np.empty(len(addresses), np.int32)
    found = np.empty(2 * ADDRESSES_MAX, np.uint64)
    slots = np.zeros(SLOTS, np.int32)
    count = number_addresses(array_of(addresses), len(addresses), numbers, found, slots)
    return count, numbers, readonly(found.view(np.uint8))


def texts_of_addresses(values: Any, count: int) -> list[str]:
    offsets, text = np.empty(count + 1, np.int32), np.empty(count * ADDRESS_TEXT_BYTES, np.uint8)
    put_addresses(values, count, offsets, text)
    return [each.decode() for each in texts_of(offsets, text, count)]


def canonical(address: bytes) -> str:
    parsed = IPv6Address(address)
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else str(parsed)


@given(st.lists(ADDRESSES, min_size=1, max_size=12), st.randoms())
def test_addresses_become_a_dictionary_of_canonical_texts(values: list[bytes], chance: Any) -> None:
    """Each row finds its own again; each text is there once and as the standard writes it."""
    addresses = chance.choices(values, k=40)
    count, numbers, found = numbered(addresses)
    assert count == len(set(addresses))
    texts = texts_of_addresses(found, count)
    assert [texts[number] for number in numbers] == [canonical(value) for value in addresses]


def test_too_many_addresses_are_told() -> None:
    """Exactly so many fit; one more is another way's business."""
    addresses = [number.to_bytes(16, "big") for number in range(ADDRESSES_MAX + 1)]
    count, numbers, found = numbered(addresses[:-1] * 2)
    assert count == ADDRESSES_MAX
    assert numbers.tolist() == [*range(ADDRESSES_MAX)] * 2
    assert texts_of_addresses(found, 3) == ["::", "::1", "::2"]
    assert numbered(addresses)[0] == TOO_MANY


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=20))
def test_ids_become_the_text_of_uuids(ids: list[bytes]) -> None:
    """Hyphens, lower case, one after the other."""
    offsets = np.empty(len(ids) + 1, np.int32)
    text = np.empty(36 * len(ids) + SLACK_BYTES, np.uint8)
    put_ids(array_of(ids), len(ids), offsets, text)
    found = [each.decode() for each in texts_of(offsets, text, len(ids))]
    assert found == [str(UUID(bytes=value)) for value in ids]


def words_of(words: list[bytes | None]) -> tuple[int, list[bytes | None]]:
    """The count of different words, and each row's as its number says."""
    parts = [word or b"" for word in words]
    valid = np.packbits([word is not None for word in words], bitorder="little")
    if all(word is not None for word in words):
        valid = np.zeros(0, np.uint8)
    table = (
        np.zeros(SLOTS, np.int32),
        np.empty(2 * NAMES_MAX, np.uint64),
        np.zeros(NAMES_MAX + 1, np.int32),
        np.empty(64 * 1024, np.uint8),
    )
    numbers = np.empty(len(words), np.int32)
    bounds, text = offsets_of(parts), array_of(parts)
    count = number_words(bounds, text, readonly(valid), len(words), table, numbers)
    if count == TOO_MANY:
        return count, []
    kept = texts_of(table[2], table[3], count)
    rows = zip(words, numbers, strict=True)
    return count, [None if word is None else kept[number] for word, number in rows]


@given(st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=60))
def test_words_become_a_dictionary(words: list[bytes | None]) -> None:
    """Of each length, empty ones too; nulls are in no dictionary."""
    count, found = words_of(words)
    assert found == words
    assert count == len({word for word in words if word is not None})


def test_too_many_words_are_told() -> None:
    """More different ones than the table takes, or more bytes than it has room for."""
    words: list[bytes | None] = [b"word %d" % number for number in range(NAMES_MAX)]
    assert words_of(words)[0] == NAMES_MAX
    assert words_of([*words, b"one more"])[0] == TOO_MANY
    assert words_of([bytes([65 + place]) * 40_000 for place in range(2)])[0] == TOO_MANY


@given(st.lists(st.binary(max_size=6) | st.text(max_size=3).map(str.encode), max_size=30))
def test_ill_formed_texts_are_marked(texts: list[bytes]) -> None:
    """As Python's decoder sees them."""

    def is_ill_formed(text: bytes) -> bool:
        try:
            text.decode()
        except UnicodeDecodeError:
            return True
        return False

    marks = np.empty(len(texts), np.bool_)
    mark_ill_formed(offsets_of(texts), array_of(texts), len(texts), marks)
    assert marks.tolist() == [is_ill_formed(text) for text in texts]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=60), st.randoms())
def test_texts_are_put_in_order(texts: list[bytes], chance: Any) -> None:
    """Whole, back to back, and it is told whether all are ASCII."""
    order = list(range(len(texts)))
    chance.shuffle(order)
    starts = np.empty(len(texts) + 1, np.int32)
    out = np.empty(sum(map(len, texts)) + SLACK_BYTES, np.uint8)
    is_ascii = gather_texts(
        offsets_of(texts), array_of(texts), np.array(order, np.uint32), starts, out
    )
    assert texts_of(starts, out, len(texts)) == [texts[place] for place in order]
    assert is_ascii == all(text.isascii() for text in texts)


def test_one_byte_that_is_not_ascii_is_found_anywhere() -> None:
    """Also in the last word, and among so many texts that they are tested in parts."""
    texts = [b"x" * 97 for _ in range(500)]
    order = np.arange(500, dtype=np.uint32)[::-1].copy()
    for place in (0, 1, 250, 498, 499):
        for at in (0, 50, 96):
            changed = list(texts)
            changed[place] = texts[place][:at] + b"\xc3" + texts[place][at + 1 :]
            starts, out = np.empty(501, np.int32), np.empty(97 * 500 + SLACK_BYTES, np.uint8)
            assert not gather_texts(offsets_of(changed), array_of(changed), order, starts, out)
    assert gather_texts(offsets_of(texts), array_of(texts), order, starts, out)


def test_ids_and_numbers_are_put_in_order() -> None:
    """Row by row; small numbers become larger ones on the way."""
    chance = np.random.default_rng(1)
    order = chance.permutation(1000).astype(np.uint32)
    ids = readonly(chance.integers(0, 256, 16_000, np.uint8))
    out = np.empty(16_000, np.uint8)
    gather_ids(ids, order, out)
    assert (out.reshape(-1, 16) == ids.reshape(-1, 16)[order]).all()
    for kind, wanted in ((np.uint8, np.int32), (np.int32, np.int32), (np.int64, np.int64)):
        numbers = readonly(chance.integers(0, 100, 1000).astype(kind))
        moved = np.empty(1000, wanted)
        gather_numbers(numbers, order, moved)
        assert (moved == numbers[order]).all()
