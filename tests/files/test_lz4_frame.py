"""Reading LZ4 frames, against the library as the oracle."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lz4.block
import lz4.frame
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.lz4_frame import Lz4Frame

PATH = Path("data.bin.lz4")


def content_of(frame: bytes, start: int = 0) -> bytes:
    """The frame's content, by the code under test."""
    data = np.frombuffer(frame, np.uint8)
    read = Lz4Frame(data, start, len(data), PATH)
    return b"".join(content.tobytes() for _, content in read.contents())


def content_or_place(frame: bytes) -> bytes | int:
    """The frame's content, or where it is damaged."""
    try:
        return content_of(frame)
    except CorruptSegmentError as error:
        return error.offset


contents = st.one_of(
    st.binary(max_size=400),
    st.tuples(st.binary(min_size=1, max_size=9), st.integers(1, 30_000)).map(lambda p: p[0] * p[1]),
)
options = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([4, 5, 6, 7]),
        "block_linked": st.booleans(),
        "content_checksum": st.booleans(),
        "block_checksum": st.booleans(),
        "store_size": st.booleans(),
        "compression_level": st.sampled_from([-3, 0, 9]),
    }
)


@given(contents, options)
def test_every_kind_of_frame_is_read(content: bytes, how: dict[str, Any]) -> None:
    """Linked blocks and checksums too, which we never write but others do."""
    frame = lz4.frame.compress(content, **how)
    assert content_of(frame) == content
    assert content_of(b"before" + frame + b"behind", 6) == content


@given(st.binary(min_size=1, max_size=2000), options, st.data())
def test_whatever_the_library_refuses_is_damage(
    content: bytes, how: dict[str, Any], data: st.DataObject
) -> None:
    """A frame cut or changed anywhere gives the library's content, or an error with a place."""
    frame = bytearray(lz4.frame.compress(content, **how))
    place = data.draw(st.integers(0, len(frame) - 1))
    if data.draw(st.booleans()):
        del frame[place:]
    else:
        frame[place] ^= data.draw(st.integers(1, 255))
    try:
        expected: bytes | None = lz4.frame.decompress(bytes(frame))
    except (RuntimeError, MemoryError):
        expected = None
    found = content_or_place(bytes(frame))
    if isinstance(found, bytes):
        assert found == expected
    else:
        assert 0 <= found <= len(frame)


def test_what_a_frame_claims_to_hold_is_not_allocated() -> None:
    """An exabyte in the header, four bytes in the frame."""
    context = lz4.frame.create_compression_context()
    frame = lz4.frame.compress_begin(context, source_size=2**60)
    frame += lz4.frame.compress_chunk(context, b"four")
    frame += lz4.frame.compress_flush(context, end_frame=False)
    with pytest.raises(CorruptSegmentError, match="no end"):
        content_of(frame)
    with pytest.raises(CorruptSegmentError, match="holds 4 bytes, its header says 1152921504606"):
        content_of(frame + bytes(4))


def test_a_block_that_unpacks_to_more_than_a_block_is_damage() -> None:
    """A bomb costs no more memory than the frame's block size."""
    bomb = lz4.block.compress(bytes(200_000_000), store_size=False)
    head = lz4.frame.compress_begin(lz4.frame.create_compression_context(), block_size=7)
    assert len(bomb) < 4 * 1024 * 1024
    with pytest.raises(CorruptSegmentError, match="does not decompress at byte 7"):
        content_of(head + len(bomb).to_bytes(4, "little") + bomb + bytes(4))


def test_skippable_frames_are_skipped() -> None:
    """They have no content; the next frame begins behind them."""
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    data = np.frombuffer(skippable + b"behind", np.uint8)
    frame = Lz4Frame(data, 0, len(data), PATH)
    assert list(frame.contents()) == []
    assert frame.end == len(skippable)
    with pytest.raises(CorruptSegmentError, match="cut short"):
        content_of(skippable[:-1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\x04\x22\x4d", "cut short"),
        (b"\x04\x22\x4d\x18\x60", "cut short"),
        (b"\x02\x21\x4c\x18" + bytes(20), "legacy"),
        (b"nothing like it", "not an LZ4 frame"),
        (b"\x04\x22\x4d\x18\xe0\x70\x00" + bytes(20), "unknown kind"),
        (b"\x04\x22\x4d\x18\x60\x30\x00" + bytes(20), "unknown kind"),
        (b"\x04\x22\x4d\x18\x60\x70\x00" + bytes(20), "checksum of an LZ4 frame header"),
    ],
)
def test_what_is_no_frame_says_why(data: bytes, reason: str) -> None:
    """At the place where it should begin."""
    with pytest.raises(CorruptSegmentError, match=reason) as caught:
        content_of(data)
    assert caught.value.offset == 0


def test_random_damage_never_gets_out_of_hand() -> None:
    """Thousands of mutated frames: an error or bytes, never anything else."""
    rng = random.Random(7)
    base = lz4.frame.compress(
        bytes(rng.randrange(97, 103) for _ in range(150_000)), block_size=4, block_linked=True
    )
    for _ in range(300):
        frame = bytearray(base)
        for _ in range(rng.choice([1, 2, 8])):
            place = rng.randrange(len(frame)) if rng.random() < 0.5 else rng.randrange(30)
            frame[place : place + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4)])
        found = content_or_place(bytes(frame))
        assert (len(found) if isinstance(found, bytes) else found) <= 255 * len(frame)
