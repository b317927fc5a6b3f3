"""Text of clients that people will see on a terminal, made harmless."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final, TextIO

_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSAFE: Final = [
    *range(0x20),
    *range(0x7F, 0xA0),  # DEL and C1
    *range(0x2028, 0x202F),  # line ends and the bidirectional overrides
    *range(0x2066, 0x206A),
]
_ESCAPES: Final = {
    code: _SHORT_ESCAPES.get(chr(code), f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
    for code in _UNSAFE
}
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def escaped(text: str) -> str:
    """Text of a client, safe to print on one line of a terminal."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def without_colours(text: str) -> str:
    """The same without the colours that we put in; nobody else's survive `escaped`."""
    return _COLOUR.sub("", text)


def printer_to(stream: TextIO) -> Callable[[str], None]:
    """What prints lines to a stream at once, with their colours if it is a terminal.

    Characters that the stream's encoding lacks are escaped. Raises what the stream raises.
    """
    is_coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    encoding = stream.encoding or "utf-8"

    def print_text(text: str) -> None:
        plain = text if is_coloured else without_colours(text)
        stream.write(plain.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()

    return print_text
