"""Ack mode between collectors of ours: units of frames, answered once they are settled.

All integers are big-endian. The sender begins with a preamble, and sends one again whenever the
units that follow are of another batch producer; both it and the head of a unit have 32 bytes:

| preamble | bytes | | unit | bytes |
| --- | --- | --- | --- | --- |
| `CDPA` | 4 | | sequence, below 2^62 | 8 |
| version, 1 | 4 | | low: no unit of a lower sequence will come (again) | 8 |
| sender id | 16 | | when its messages were received, Unix ms | 8 |
| epoch | 8 | | bytes of the frames, and how many they are | 4 + 4 |

The frames of the unit follow, `[u32 length][message]` each, all of one workspace and schema. The
receiver makes one batch of them whose id is made of sender, epoch and sequence, so a unit that is
sent again, on whatever connection, is known. A receiver without ack mode takes `CDPA` for a length
that is too large and closes.

An answer is `[u32 code][u64 count]`: with code 0 so many units of this connection are settled, in
the order they came, none before it is missing. Any other code is the last word: see ANSWERS.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MAGIC: Final = b"CDPA"
VERSION: Final = 1
HEAD_BYTES: Final = 32
SEQUENCE_MAX: Final = 2**62 - 1
UNIT_BYTES_MAX: Final = 128 * 1024 * 1024
ANSWER_BYTES: Final = 12

SETTLED: Final = 0
BAD_VERSION: Final = 1
NOT_ALLOWED: Final = 2
UNKNOWN_KEY: Final = 3
MALFORMED: Final = 4
CONFLICT: Final = 5
AGAIN: Final = 6

ANSWERS: Final = {
    BAD_VERSION: "it speaks another version of ack mode",
    NOT_ALLOWED: "this address may not forward (forwarding_peers)",
    UNKNOWN_KEY: "it does not know the api key",
    MALFORMED: "it found a unit that does not hold",
    CONFLICT: "a unit's sequence is taken by other content",
    AGAIN: "it lost a unit before that was settled, or is leaving",
}

_PREAMBLE: Final = struct.Struct(">4sI16sQ")
_UNIT: Final = struct.Struct(">QQQII")
_ANSWER: Final = struct.Struct(">IQ")


class Preamble(NamedTuple):
    """Whose units follow."""

    version: int
    sender: bytes
    epoch: int


class UnitHead(NamedTuple):
    """What stands before a unit's frames."""

    sequence: int
    low: int
    received_at_ms: int
    frame_bytes: int
    frame_count: int


def encode_preamble(sender: bytes, epoch: int) -> bytes:
    """The 32 bytes of a preamble."""
    return _PREAMBLE.pack(MAGIC, VERSION, sender, epoch)


def decode_preamble(head: bytes) -> Preamble | None:
    """A preamble, or None if the 32 bytes are the head of a unit."""
    magic, version, sender, epoch = _PREAMBLE.unpack(head)
    return Preamble(version, sender, epoch) if magic == MAGIC else None


def encode_unit_head(head: UnitHead) -> bytes:
    """The 32 bytes before a unit's frames."""
    return _UNIT.pack(*head)


def decode_unit_head(head: bytes) -> UnitHead:
    """What the 32 bytes claim."""
    return UnitHead(*_UNIT.unpack(head))


def body_bytes(head: bytes) -> int:
    """How many bytes follow those 32."""
    return 0 if head.startswith(MAGIC) else decode_unit_head(head).frame_bytes


def encode_answer(code: int, count: int) -> bytes:
    """The 12 bytes of an answer."""
    return _ANSWER.pack(code, count)


def decode_answer(answer: bytes) -> tuple[int, int]:
    """Code and count."""
    code, count = _ANSWER.unpack(answer)
    return code, count
