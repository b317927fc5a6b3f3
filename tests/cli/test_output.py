"""What is printed is safe for a terminal, and strict JSON for programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.cli.output import bytes_text, escaped, to_json


def test_control_characters_are_written_out() -> None:
    """Escape sequences, line ends and direction marks of a client do nothing."""
    assert escaped("a\x1b[31m\r\n\tb\x9b\u202e\u2028") == (
        "a\\x1b[31m\\r\\n\\tb\\x9b\\u202e\\u2028"
    )


def test_ordinary_text_stays_as_it_is() -> None:
    """Letters of any language and emoji pass."""
    assert escaped("Grüße, 世界 👋 {}") == "Grüße, 世界 👋 {}"


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    """Lone surrogates included: the result always encodes and has no control character."""
    line = escaped(text)
    line.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_json_is_one_strict_ascii_line(value: object) -> None:
    """Any value comes out as JSON that a strict parser takes."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = to_json(value)
    assert line.isascii()
    assert "\n" not in line
    json.loads(line, parse_constant=refuse)


def test_numbers_that_json_lacks_become_their_names() -> None:
    """Infinity of a histogram's last bucket does not break the line."""
    assert to_json({"a": [float("inf"), -float("inf")], "b": float("nan")}) == (
        '{"a": ["Infinity", "-Infinity"], "b": "NaN"}'
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e15, "2000.0 TB")],
)
def test_bytes_are_told_in_powers_of_1000(count: float, text: str) -> None:
    """As disks and networks are."""
    assert bytes_text(count) == text
