"""Text is judged and mended exactly as Python does it."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.batch.kernels.utf8 import is_ascii, is_text, repair, repaired_bytes

# Many starts of sequences that are cut, overlong or out of range.
pieces = st.sampled_from(
    [b"a", b"\x80", b"\xc0\xaf", b"\xc3", b"\xc3\xa9", b"\xe0\x80", b"\xe2\x82", b"\xe2\x82\xac",
     b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xf0\x80\x80", b"\xf0\x9f\x98\x80", b"\xf0\x9f\x98",
     b"\xf4\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xf5", b"\xff", b"\x00"]
)  # fmt: skip
strings = st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=30)


def columns(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    offsets = np.zeros(len(texts) + 1, np.int32)
    offsets[1:] = np.cumsum([len(text) for text in texts])
    return np.frombuffer(b"".join(texts) + b"\xff" * 8, np.uint8).copy(), offsets


@given(st.lists(strings, max_size=10))
def test_damaged_text_is_replaced_as_python_replaces_it(texts: list[bytes]) -> None:
    """One U+FFFD for each maximal part of a broken sequence, string by string."""
    content, offsets = columns(texts)
    expected = [text.decode("utf-8", "replace") for text in texts]
    needed = repaired_bytes(content, offsets, len(texts))
    is_valid = all(text.encode() == given for text, given in zip(expected, texts, strict=True))
    assert (needed < 0) == is_valid
    if needed >= 0:
        out, out_offsets = np.empty(needed, np.uint8), np.empty(len(offsets), np.int32)
        repair(content, offsets, len(texts), out, out_offsets)
        found = [
            out[start:end].tobytes().decode() for start, end in itertools.pairwise(out_offsets)
        ]
        assert found == expected


@given(strings)
def test_printable_text_is_known(text: bytes) -> None:
    """Valid UTF-8 without control characters."""
    try:
        expected = all(c >= " " and c != "\x7f" for c in text.decode())
    except UnicodeDecodeError:
        expected = False
    assert is_text(np.frombuffer(text + b"\0", np.uint8).copy(), 0, len(text)) == expected


@given(st.binary(max_size=40))
def test_ascii_is_known(text: bytes) -> None:
    """Every byte counts, those of the last incomplete word too."""
    content = np.frombuffer(text + b"\xff" * 8, np.uint8).copy()
    assert is_ascii(content, len(text)) == text.isascii()
