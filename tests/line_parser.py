"""Reads lines of text back into their fields, and says how one should look.

Knows the format and no code of the package; tests get it as the fixture `line_parser`.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from ipaddress import IPv6Address
from typing import Any, NamedTuple

EVENT_TYPES = ["UNKNOWN", "TRACK", "IDENTIFY", "GROUP", "ALIAS", "ENRICH", "CONTEXT"]
LEVELS = [
    "EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "TRACE",
]  # fmt: skip
HEX_BYTES_MAX = 256

_HEAD = r"\[(?P<received>[0-9TZ:.-]{24})\] \[(?P<kind>[A-Z]+)\] "
_TAIL = r" source_ip=(?P<source_ip>[0-9a-f.:]+) payload=(?P<payload>.*)"
_SHAPES = [
    re.compile(_HEAD + shape, re.DOTALL)
    for shape in (
        r"device_id=(?P<device_id>\S+) session_id=(?P<session_id>\S+)"
        r" event_name=(?P<event_name>[^=]*) timestamp=(?P<timestamp>\d+)" + _TAIL,
        r"session_id=(?P<session_id>\S+) source=(?P<source>[^=]*)"
        r" service=(?P<service>[^=]*) timestamp=(?P<timestamp>\d+)" + _TAIL,
        r"source_ip=(?P<source_ip>[0-9a-f.:]+) data_len=(?P<count>\d+) payload=(?P<payload>.*)",
        r"source_ip=(?P<source_ip>[0-9a-f.:]+) msg_len=(?P<count>\d+) payload=(?P<payload>.*)",
    )
]
_ESCAPE = re.compile(r"\\(?:(n|r|t|\\)|x([0-9a-f]{2})|u([0-9a-f]{4}))")
_SHORT = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
_HEX = re.compile(r"0x((?:[0-9a-f]{2})*)(?:\.\.\.\(\+(\d+) bytes\))?")

UNSAFE = {
    *range(0x20), *range(0x7F, 0xA0), 0x5C, *range(0x2028, 0x202F), *range(0x2066, 0x206A),
}  # fmt: skip


class Cut(NamedTuple):
    """Bytes that are no text: the first of them, and how many more there were."""

    content: bytes
    hidden: int


class LineParser:
    """The format, by the book."""

    event_types = EVENT_TYPES
    levels = LEVELS
    Cut = Cut

    def parse(self, line: str) -> dict[str, Any]:
        """The fields of one line without its end; AssertionError if it is none."""
        assert not any(ord(c) in UNSAFE - {0x5C} for c in line), repr(line)
        found = [match for shape in _SHAPES if (match := shape.fullmatch(line))]
        assert len(found) == 1, f"{len(found)} readings of {line!r}"
        fields: dict[str, Any] = found[0].groupdict()
        for name, text in fields.items():
            if name in ("timestamp", "count"):
                fields[name] = int(text)
            elif name in ("device_id", "session_id"):
                fields[name] = None if text == "-" else uuid.UUID(text).bytes
                assert text in ("-", str(uuid.UUID(bytes=fields[name] or bytes(16))))
            elif name == "source_ip":
                fields[name] = self.address(text)
            elif name == "received":
                moment = datetime.fromisoformat(text)
                epoch = datetime.fromisoformat("1970-01-01T00:00:00.000Z")
                fields[name] = (moment - epoch) // timedelta(milliseconds=1)
            elif name != "kind":
                fields[name] = self.value(text)
        return fields

    def lines(self, text: bytes) -> list[str]:
        """The lines of a file, each of which must end."""
        assert not text or text.endswith(b"\n")
        found = text.decode().split("\n")[:-1]
        # No tool must see more of them, whatever it takes for the end of one.
        assert text.decode().splitlines() == found
        return found

    def value(self, text: str) -> bytes | Cut | None:
        """What a value stands for."""
        if text == "-":
            return None
        if text.startswith("0x"):
            match = _HEX.fullmatch(text)
            assert match, text
            return Cut(bytes.fromhex(match[1]), int(match[2] or 0))
        assert text.replace("\\\\", "").count("\\") == len(
            re.findall(r"\\[nrtxu]", text.replace("\\\\", ""))
        )

        def plain(match: re.Match[str]) -> str:
            short, byte, code = match.groups()
            return _SHORT[short] if short else chr(int(byte or code, 16))

        return _ESCAPE.sub(plain, text).encode()

    def as_read(self, value: bytes | None) -> bytes | Cut | None:
        """What `value` gives for a value that was written: not all bytes of one are shown."""
        if value is None:
            return None
        try:
            value.decode()
        except UnicodeDecodeError:
            return Cut(value[:HEX_BYTES_MAX], max(0, len(value) - HEX_BYTES_MAX))
        return value

    def written(self, value: bytes | None, *, is_last: bool) -> str:
        """How a value is written."""
        if value is None:
            return "-"
        try:
            text = value.decode()
        except UnicodeDecodeError:
            rest = len(value) - HEX_BYTES_MAX
            return "0x" + value[:HEX_BYTES_MAX].hex() + (f"...(+{rest} bytes)" if rest > 0 else "")
        shorts = {character: f"\\{short}" for short, character in _SHORT.items()}
        special = UNSAFE if is_last else UNSAFE | {ord("=")}

        def escaped(character: str) -> str:
            code = ord(character)
            if code not in special:
                return character
            plain = f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
            return shorts.get(character, plain)

        out = "".join(map(escaped, text))
        if text == "-" or text.startswith("0x"):
            out = f"\\x{ord(text[0]):02x}" + out[1:]
        return out

    def address(self, text: str) -> bytes:
        """16 bytes of an address; it must be written in its one right way."""
        ip = IPv6Address(f"::ffff:{text}" if "." in text else text)
        assert text == str(ip.ipv4_mapped or ip)
        return ip.packed
