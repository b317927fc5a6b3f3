"""Make the columns of invented events and log entries, fast and the same every time.

What entry `n` looks like depends on the seed and `n` alone, whatever batch it is in.
Every payload begins `{"n":<n>` with a running number, so that what landed somewhere can be
checked against what was sent (see running_number.py).

A payload is a template: literals of at most 32 bytes with a fill behind each. Literals
are copied 32 bytes at a time, so the output has SLACK_BYTES behind its last payload.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.memory import copy_32, load_u16, store_u16, store_u64

FILL_END: Final = 0
"""Nothing: the template ends."""
FILL_NUMBER: Final = 1
"""The running number, decimal."""
FILL_RANDOM: Final = 2
"""A random number below the argument, decimal."""
FILL_HEX: Final = 3
"""16 random hex digits."""
FILL_WORD: Final = 4
"""A random word of word list `argument`."""
FILL_DEVICE: Final = 5
"""The index of the entry's device, decimal."""
FILL_NOTHING: Final = 6
"""Nothing yet: the literal goes on in the next piece."""

PIECE_BYTES: Final = 32
SLACK_BYTES: Final = 64
PAYLOAD_BYTES_MAX: Final = 1024

KIND_TRACK: Final = 0
KIND_IDENTIFY: Final = 1
KIND_CONTEXT: Final = 2
KIND_LOG: Final = 3

_FILLS: Final = {
    "": FILL_END,
    "number": FILL_NUMBER,
    "random": FILL_RANDOM,
    "hex": FILL_HEX,
    "word": FILL_WORD,
    "device": FILL_DEVICE,
}
_HEX_DIGITS = np.frombuffer(b"".join(b"%02x" % value for value in range(256)), np.uint8)
_DECIMAL_PAIRS = np.frombuffer(b"".join(b"%02d" % value for value in range(100)), np.uint8)


@njit(nogil=True, cache=True)
def mixed(seed, value):  # type: ignore[no-untyped-def]
    """64 random bits for (seed, value): splitmix64, https://prng.di.unimi.it/splitmix64.c."""
    bits = np.uint64(seed) + np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@njit(nogil=True, cache=True)
def below(bits, limit):  # type: ignore[no-untyped-def]
    """A number in [0, limit) from the upper 32 of 64 random bits; limit below 2**31."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))


@njit(nogil=True, cache=True, inline="always")
def _write_decimal(out, position, value, pairs):  # type: ignore[no-untyped-def]
    """The digits of `value` at `position`; returns the end. No leading zeros."""
    rest = np.uint64(value)  # unsigned: division by a constant is a multiplication then
    hundred, ten = np.uint64(100), np.uint64(10)
    end = position + 1
    limit = ten
    while rest >= limit and end - position < 19:
        end += 1
        limit *= ten
    place = end
    while rest >= hundred:
        place -= 2
        store_u16(out, place, load_u16(pairs, np.int64(rest % hundred) << 1))
        rest //= hundred
    if rest >= ten:
        store_u16(out, place - 2, load_u16(pairs, np.int64(rest) << 1))
    else:
        out[place - 1] = np.uint8(48) + np.uint8(rest)
    return end


@njit(nogil=True, cache=True, inline="always")
def _write_payload(  # type: ignore[no-untyped-def]
    out,
    position,
    number,
    device,
    bits,
    pieces,
    first_piece,
    literals,
    words,
    word_lists,
    hex_digits,
    pairs,
):
    """One payload at `position`; returns its end. `bits` are the entry's random bits."""
    piece = first_piece
    while True:
        copy_32(out, position, literals, PIECE_BYTES * piece)
        position += pieces[piece, 0]
        fill = pieces[piece, 1]
        argument = pieces[piece, 2]
        if fill == FILL_END:
            return position
        if fill == FILL_NOTHING:
            pass
        elif fill == FILL_NUMBER:
            position = _write_decimal(out, position, number, pairs)
        elif fill == FILL_DEVICE:
            position = _write_decimal(out, position, device, pairs)
        else:
            bits = bits * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            if fill == FILL_RANDOM:
                position = _write_decimal(out, position, below(bits, argument), pairs)
            elif fill == FILL_HEX:
                rest = bits
                for _ in range(8):
                    digits = load_u16(hex_digits, np.int64(2 * (rest & np.uint64(255))))
                    store_u16(out, position, digits)
                    position += 2
                    rest >>= np.uint64(8)
            else:
                first, count = word_lists[argument, 0], word_lists[argument, 1]
                word = first + below(bits, count)
                copy_32(out, position, words, PIECE_BYTES * word)
                position += word_lists[word, 2]
        piece += 1


@njit(nogil=True, cache=True, inline="always")
def _write_id(out, position, seed, value):  # type: ignore[no-untyped-def]
    """A random (version 4) UUID for `value`."""
    low = mixed(seed, 2 * value)
    high = mixed(seed, 2 * value + 1)
    low = (low & np.uint64(0xFF0FFFFFFFFFFFFF)) | np.uint64(0x0040000000000000)
    high = (high & np.uint64(0xFFFFFFFFFFFFFF3F)) | np.uint64(0x0000000000000080)
    store_u64(out, position, low)
    store_u64(out, position + 8, high)


@njit(nogil=True, cache=True)
def fill_devices(seed, ids):  # type: ignore[no-untyped-def]
    """Fill `ids` (u8[count, 16], flat) with as many random UUIDs."""
    for place in range(len(ids) // 16):
        _write_id(ids, 16 * place, seed, place)


@njit(nogil=True, cache=True)
def fill_entries(  # type: ignore[no-untyped-def]
    first_number,
    count,
    seed,
    kind_limits,
    is_log,
    device_count,
    name_count,
    time_ms,
    step_us,
    starts,
    pieces,
    literals,
    words,
    word_lists,
    hex_digits,
    pairs,
    kinds,
    times,
    devices,
    names,
    payload_offsets,
    payloads,
):
    """Entries number `first_number` on, `count` of them, as columns.

    `kind_limits` are the shares of IDENTIFY and of IDENTIFY + CONTEXT, of 2**32. Fills
    kinds (KIND_*), times (ms, rising, the last is `time_ms`), devices (index), names
    (index), payloads and payload_offsets (i32, count + 1). Stops early if `payloads` has
    no room for another; returns how many entries were made.
    """
    position = 0
    payload_offsets[0] = 0
    for row in range(count):
        if position + PAYLOAD_BYTES_MAX + SLACK_BYTES > len(payloads):
            return row
        number = first_number + row
        bits = mixed(seed, number)
        kind = KIND_LOG
        if not is_log:
            share = np.int64(bits & np.uint64(0xFFFFFFFF))
            kind = KIND_TRACK
            if share < kind_limits[1]:
                kind = KIND_IDENTIFY if share < kind_limits[0] else KIND_CONTEXT
        device = below(bits, device_count)
        kinds[row] = kind
        times[row] = time_ms - ((count - 1 - row) * step_us) // 1000
        devices[row] = device
        # A product of two: a few names are common and most are rare, as with real events.
        name = below(bits << np.uint64(11), name_count)
        names[row] = name * (1 + below(bits << np.uint64(23), name_count)) // name_count
        position = _write_payload(
            payloads,
            position,
            number,
            device,
            bits,
            pieces,
            starts[kind],
            literals,
            words,
            word_lists,
            hex_digits,
            pairs,
        )
        payload_offsets[row + 1] = position
    return count


class PayloadTemplates:
    """Templates and word lists in the form that `fill_entries` takes.

    `templates` has one per KIND_*: text with fills in angle brackets, `<number>`,
    `<random:N>`, `<hex>`, `<word:LIST>`, `<device>`. Raises ValueError for a word of more
    than PIECE_BYTES, or a template that could become longer than PAYLOAD_BYTES_MAX.
    """

    def __init__(self, templates: list[str], word_lists: dict[str, list[str]]) -> None:
        self._list_places = {name: place for place, name in enumerate(word_lists)}
        words = [word.encode() for group in word_lists.values() for word in group]
        self.words = _in_pieces(words)
        self.word_lists = np.zeros((max(len(words), len(word_lists)), 3), np.int64)
        first = 0
        for place, group in enumerate(word_lists.values()):
            self.word_lists[place, :2] = first, len(group)
            first += len(group)
        self.word_lists[: len(words), 2] = [len(word) for word in words]
        literals: list[bytes] = []
        pieces: list[tuple[int, int, int]] = []
        starts: list[int] = []
        for template in templates:
            starts.append(len(pieces))
            parsed = self._parse(template)
            if sum(len(literal) + PIECE_BYTES for literal, _, _ in parsed) > PAYLOAD_BYTES_MAX:
                raise ValueError(f"too long a payload: {template!r}")
            for literal, fill, argument in parsed:
                literals.append(literal)
                pieces.append((len(literal), fill, argument))
        self.starts = np.array(starts, np.int64)
        self.pieces = np.array(pieces, np.int64)
        self.literals = _in_pieces(literals)
        self.tables = (_HEX_DIGITS, _DECIMAL_PAIRS)

    def _parse(self, template: str) -> list[tuple[bytes, int, int]]:
        parsed = []
        for part in template.split(">"):
            text, _, fill = part.partition("<")
            literal = text.encode()
            while len(literal) > PIECE_BYTES:
                parsed.append((literal[:PIECE_BYTES], FILL_NOTHING, 0))
                literal = literal[PIECE_BYTES:]
            name, _, argument = fill.partition(":")
            place = self._list_places[argument] if name == "word" else int(argument or 0)
            parsed.append((literal, _FILLS[name], place))
        return parsed

    @property
    def arguments(self) -> tuple[NDArray[Any], ...]:
        """What `fill_entries` takes of it, in its order."""
        return (self.starts, self.pieces, self.literals, self.words, self.word_lists,
                *self.tables)  # fmt: skip


def _in_pieces(texts: list[bytes]) -> NDArray[np.uint8]:
    """Each text in PIECE_BYTES of its own, one behind the other."""
    too_long = [text for text in texts if len(text) > PIECE_BYTES]
    if too_long:
        raise ValueError(f"more than {PIECE_BYTES} bytes: {too_long[0]!r}")
    joined = b"".join(text.ljust(PIECE_BYTES, b" ") for text in texts)
    return readonly(np.frombuffer(joined, np.uint8))


def warm() -> None:
    """Compile these kernels, or load them from the cache."""
    templates = PayloadTemplates(['{"n":<number>}'] * 4, {"none": ["x"]})
    fill_entries(
        0,
        1,
        1,
        np.zeros(2, np.int64),
        False,
        1,
        1,
        0,
        1,
        *templates.arguments,
        np.zeros(1, np.uint8),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        np.zeros(1, np.int64),
        np.zeros(2, np.int32),
        np.zeros(2048, np.uint8),
    )
    fill_devices(1, np.zeros(16, np.uint8))
