"""Finding frames and records, whatever the bytes claim."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.facts import FACT_COLUMNS, FACT_KEY_OFFSET
from cdp_ray_sinks.batch.kernels.frames import (
    INDEX_END,
    INDEX_FULL,
    INDEX_OVERSIZE,
    INDEX_PARTIAL,
    RECORD_MESSAGE_BYTES_MAX,
    frame_messages,
    index_frames,
    index_records,
)

FRAME_MAX = 1000


def frames_of(content: bytes, start: int = 0, room: int = 64) -> tuple[list[bytes], int, int]:
    """Messages found, next position, status."""
    buffer = readonly(np.frombuffer(content, np.uint8))
    starts, lengths = np.zeros(room, np.int64), np.zeros(room, np.int64)
    count, position, status = index_frames(buffer, start, len(buffer), FRAME_MAX, starts, lengths)
    spans = zip(starts[:count].tolist(), lengths[:count].tolist(), strict=True)
    return [content[s : s + n] for s, n in spans], int(position), int(status)


def records_of(content: bytes, room: int = 64) -> tuple[list[int], int, int]:
    buffer = readonly(np.frombuffer(content, np.uint8))
    starts = np.zeros(room, np.int64)
    count, position, status = index_records(buffer, 0, len(buffer), starts)
    return starts[:count].tolist(), int(position), int(status)


def framed(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 2000))
def test_a_stream_cut_anywhere_gives_the_whole_frames_before_the_cut(
    messages: list[bytes], cut: int
) -> None:
    """Whole frames are found, the torn tail is left where it begins."""
    stream = b"".join(map(framed, messages))[:cut]
    expected, position = [], 0
    for message in messages:
        if position + 4 + len(message) > len(stream):
            break
        expected.append(message)
        position += 4 + len(message)
    status = INDEX_END if position == len(stream) else INDEX_PARTIAL
    assert frames_of(stream) == (expected, position, status)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.integers(1, 5))
def test_a_full_output_is_gone_on_from(messages: list[bytes], room: int) -> None:
    """Taken piece by piece, the frames are the same."""
    stream = b"".join(map(framed, messages))
    found: list[bytes] = []
    position, status = 0, INDEX_FULL
    while status == INDEX_FULL:
        some, position, status = frames_of(stream, position, room)
        assert 0 < len(some) <= room
        found += some
    assert (found, position, status) == (messages, len(stream), INDEX_END)


@pytest.mark.parametrize("length", [FRAME_MAX + 1, 2**31, 2**32 - 1])
def test_an_oversize_length_ends_the_index_behind_what_was_good(length: int) -> None:
    """Frames before it are given, and the position of the claim."""
    stream = framed(b"good") + framed(b"") + struct.pack(">I", length) + b"rest"
    assert frames_of(stream) == ([b"good", b""], 12, INDEX_OVERSIZE)
    exact = struct.pack(">I", FRAME_MAX)
    assert frames_of(exact + bytes(FRAME_MAX)) == ([bytes(FRAME_MAX)], 4 + FRAME_MAX, INDEX_END)


@given(st.binary(max_size=300))
def test_any_bytes_are_indexed_without_leaving_the_buffer(content: bytes) -> None:
    """Every span found lies inside, in order, and ends where the next begins."""
    found, position, status = frames_of(content, room=8)
    assert sum(4 + len(message) for message in found) == position <= len(content)
    assert (status == INDEX_END) == (position == len(content))
    starts, end, status = records_of(content, room=8)
    assert starts == sorted(starts)
    assert end <= len(content)


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 3000))
def test_records_are_found_up_to_the_torn_one(messages: list[bytes], cut: int) -> None:
    """The end of the last whole record is where a tear begins."""
    parts = [bytes(range(24)) + framed(message) for message in messages]
    content = b"".join(parts)[:cut]
    starts, position = [], 0
    for part in parts:
        if position + len(part) > len(content):
            break
        starts.append(position)
        position += len(part)
    status = INDEX_END if position == len(content) else INDEX_PARTIAL
    assert records_of(content) == (starts, position, status)


def test_an_absurd_record_size_is_told_from_a_tear() -> None:
    """A size that no message has is damage, even where the file goes on behind it."""
    good = bytes(24) + framed(b"good")
    torn = bytes(24) + struct.pack(">I", RECORD_MESSAGE_BYTES_MAX)
    absurd = bytes(24) + struct.pack(">I", RECORD_MESSAGE_BYTES_MAX + 1)
    assert records_of(good + torn) == ([0], len(good), INDEX_PARTIAL)
    assert records_of(good + absurd + bytes(100)) == ([0], len(good), INDEX_OVERSIZE)
    assert records_of(good * 3, room=2) == ([0, len(good)], 2 * len(good), INDEX_FULL)


def test_limits_outside_the_buffer_are_drawn_in() -> None:
    """A start or an end that is not in the buffer is not believed."""
    buffer = readonly(np.frombuffer(framed(b"good"), np.uint8))
    places = np.zeros(4, np.int64)
    assert index_frames(buffer, -5, 10**9, FRAME_MAX, places, places.copy()) == (1, 8, INDEX_END)
    assert index_records(buffer, -5, 10**9, places) == (0, 0, INDEX_PARTIAL)


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=60), st.integers(0, 80)), max_size=12))
def test_messages_become_frames_under_a_key(parts: list[tuple[bytes, int]]) -> None:
    """Each copy has the key in its place and all else as it was; the buffer is not changed."""
    content = b"".join(message for message, _ in parts)
    lengths = np.array([len(message) for message, _ in parts], np.int64)
    starts = np.cumsum(lengths) - lengths
    facts = np.full((len(parts), FACT_COLUMNS), -1, np.int64)
    for row, (message, place) in enumerate(parts):
        facts[row, FACT_KEY_OFFSET] = min(place, len(message) - 16)
    key = bytes(range(100, 116))
    selected = np.arange(len(parts), dtype=np.int64)
    out, ends = np.zeros(len(content) + 4 * len(parts), np.uint8), np.zeros(20, np.int64)
    buffer = readonly(np.frombuffer(content, np.uint8))
    keys = readonly(np.frombuffer(key, np.uint8))
    count = frame_messages(buffer, starts, lengths, facts, selected, keys, out, ends)
    expected = []
    for row, (message, _) in enumerate(parts):
        place = int(facts[row, FACT_KEY_OFFSET])
        expected.append(message[:place] + key + message[place + 16 :])
    assert out.tobytes() == b"".join(map(framed, expected))
    assert ends[:count].tolist() == np.cumsum([4 + len(m) for m in expected]).tolist()
    if parts:
        assert frame_messages(buffer, starts, lengths, facts, selected, keys, out[:-1], ends) == (
            len(parts) - 1
        )
