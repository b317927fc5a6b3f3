"""Payloads of JSON to Python objects, many at a time, by a library.

What clients get wrong in the text is put right first: bytes that are no UTF-8, halves of
surrogate pairs (a name cut inside an emoji) become U+FFFD, and a byte order mark is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
import numpy as np

Kind = TypeVar("Kind")

NO_PAYLOAD: Final = "no payload"
NOT_JSON: Final = "payload is not JSON"
NOT_AN_OBJECT: Final = "payload is JSON, but not an object"

CHUNK_PAYLOADS: Final = 1024
CHUNK_BYTES: Final = 1024 * 1024

_NOT_READ: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PAIR: Final = r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF: Final = r"u[dD][89a-fA-F][0-9a-fA-F]{2}"
_ESCAPES: Final = re.compile(rf"\\(?:({_PAIR})|({_HALF})|.)", re.DOTALL)


def chunks_of(payloads: Sequence[bytes]) -> Iterator[slice]:
    """Where to cut payloads so that their objects stay in the processor's cache.

    Each part has at most CHUNK_PAYLOADS, and CHUNK_BYTES unless a single one has more.
    """
    ends = np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)))
    start, start_bytes = 0, 0
    while start < len(payloads):
        fitting = int(np.searchsorted(ends, start_bytes + CHUNK_BYTES, "right"))
        end = min(max(fitting, start + 1), start + CHUNK_PAYLOADS, len(payloads))
        yield slice(start, end)
        start, start_bytes = end, int(ends[end - 1])


class ObjectReader(Generic[Kind]):
    """Reads JSON objects as `kind`: a dict, or a msgspec Struct whose fields have defaults.

    Of a key given twice the last counts. Numbers that are no integers stay what the client
    wrote, as `msgspec.Raw`.
    """

    def __init__(self, kind: type[Kind]) -> None:
        self._decode = msgspec.json.Decoder(kind, float_hook=msgspec.Raw).decode

    def read(self, payloads: Sequence[bytes]) -> tuple[list[Kind], dict[int, str]]:
        """The object of each payload, an empty one for those that have none; and, by their
        place, why those have none."""
        found: list[Kind] = []
        refused: dict[int, str] = {}
        decoded = map(self._decode, payloads)
        while True:
            try:
                found.extend(decoded)
            except _NOT_READ:
                # What came before the one that failed has been taken, and the map goes on
                # behind it.
                place = len(found)
                found.append(self._repaired(payloads[place], place, refused))
            else:
                return found, refused

    def _repaired(self, payload: bytes, place: int, refused: dict[int, str]) -> Kind:
        text = payload.decode("utf-8", "replace").removeprefix("\ufeff").strip()
        try:
            return self._decode(_ESCAPES.sub(_whole, text))
        except _NOT_READ as error:
            # An object is not valid either if a number in it has more digits than are read.
            is_other = isinstance(error, msgspec.ValidationError) and not text.startswith("{")
            refused[place] = NOT_AN_OBJECT if is_other else NOT_JSON if text else NO_PAYLOAD
        return self._decode(b"{}")


def _whole(escape: re.Match[str]) -> str:
    return r"\ufffd" if escape[2] else escape[0]


def text_of(value: Any) -> str:
    """A string as it is, anything else as its JSON text without spaces."""
    return value if type(value) is str else msgspec.json.encode(value).decode()
