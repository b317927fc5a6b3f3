"""What a book of accounts holds on disk: what was taken, and what became of it.

A record: u32 kind, u32 payload bytes, the payload, u64 xxh3-64 of all that; little-endian. A
file begins with one of kind HEAD and ends where the first record does not hold.

| kind | payload |
| --- | --- |
| HEAD | JSON: whose book it is and which part of it, `Head` |
| WORDS | u32 number, then JSON: [[sink, outcome], …], which TOTALS, SETTLED, KNOWN name by it |
| TAKEN | u64 first sequence, then an entry of TAKEN for each batch, sequences rising by one |
| SETTLED | an entry of SETTLED for each batch |
| KNOWN | an entry of KNOWN for each batch: one of another producer, and what became of it |
| OPEN | u64 the next sequence, then an entry of OPEN for each batch taken and not settled |
| TOTALS | an entry of TOTALS for each workspace, hour and outcome |
| GAPS | u64 each: sequences that were passed over and may still be taken |
| RECENT | an entry of KNOWN for each of the last: they are counted in an earlier part |
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import xxhash

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.delivery.push import Outcomes
from cdp_ray_sinks.files.landed import Count
from cdp_ray_sinks.files.partition import HOUR_MS

HEAD, WORDS, TAKEN, SETTLED, KNOWN, OPEN, TOTALS, RECENT, GAPS = range(1, 10)
PAYLOAD_BYTES_MAX: Final = 256 * 1024 * 1024

GAPS_MAX: Final = 16_384
"""How far below the highest one a sequence may be taken late, in a stream of another node."""

_RECORD: Final = struct.Struct("<II")
_CHECKSUM: Final = struct.Struct("<Q")
_NUMBER: Final = struct.Struct("<I")
_SEQUENCE: Final = struct.Struct("<Q")
_TAKEN: Final = struct.Struct("<IqII")
_SETTLED: Final = struct.Struct("<QI")
_OPEN: Final = struct.Struct("<QIqII")
_KNOWN: Final = struct.Struct("<16sQQIqIII")
_TOTALS: Final = struct.Struct("<IIqQQQ")


class Taken(NamedTuple):
    """What is counted of one batch."""

    workspace_id: int
    hour: int
    messages: int
    events: int

    @classmethod
    def of(cls, header: BatchHeader) -> Taken:
        """What is counted of that batch."""
        return cls(
            header.workspace_id,
            header.received_at_ms // HOUR_MS,
            header.message_count,
            header.event_count,
        )


TotalsKey: TypeAlias = tuple[int, int, int]
"""Number of the words, workspace, hour."""


@dataclass(frozen=True, slots=True)
class Head:
    """Whose book a file belongs to: the producer's name, its id in hex, and its epoch.

    `first_part` to `last_part` are covered by the file; a log covers one.
    """

    name: str
    producer: str
    epoch: int
    first_part: int
    last_part: int
    is_log: bool


@dataclass(slots=True)
class Part:
    """What one file says; a writer's own state as well."""

    head: Head | None = None
    words: list[Outcomes] = field(default_factory=list)
    totals: dict[TotalsKey, Count] = field(default_factory=dict)
    open: dict[int, Taken] = field(default_factory=dict)
    next_sequence: int = 0
    gaps: set[int] = field(default_factory=set)
    recent: dict[BatchId, int] = field(default_factory=dict)
    valid_bytes: int = 0

    def take(self, first: int, taken: Iterable[Taken]) -> None:
        """Batches were taken; those that were before are not counted again."""
        for sequence, each in enumerate(taken, first):
            if sequence > self.next_sequence:
                self._pass_over(sequence)
            if sequence >= self.next_sequence:
                self.open[sequence] = each
                self.next_sequence = sequence + 1
            elif sequence in self.gaps:
                self.gaps.discard(sequence)
                self.open[sequence] = each

    def _pass_over(self, sequence: int) -> None:
        """Those before it may come late: a spool keeps the order of each workspace only."""
        lowest = sequence - GAPS_MAX
        self.gaps.update(range(max(self.next_sequence, lowest, 0), sequence))
        if len(self.gaps) > 2 * GAPS_MAX:
            self.gaps = {each for each in self.gaps if each >= lowest}

    def settle(self, sequence: int, number: int) -> None:
        """One that was taken has its outcomes."""
        taken = self.open.pop(sequence, None)
        if taken is not None:
            self.count(number, taken)

    def count(self, number: int, taken: Taken) -> None:
        """Add one batch to the totals."""
        key = (number, taken.workspace_id, taken.hour)
        count = self.totals.get(key)
        if count is None:
            count = self.totals[key] = Count()
        count.add(1, taken.messages, taken.events)

    def merge(self, other: Part) -> None:
        """Add the totals of another part of the same book."""
        numbers = {words: number for number, words in enumerate(self.words)}
        for (number, workspace_id, hour), count in other.totals.items():
            words = other.words[number]
            if words not in numbers:
                numbers[words] = len(self.words)
                self.words.append(words)
            key = (numbers[words], workspace_id, hour)
            self.totals.setdefault(key, Count()).add_all(count)


def record(kind: int, payload: bytes) -> bytes:
    """One record."""
    body = _RECORD.pack(kind, len(payload)) + payload
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def head_record(head: Head) -> bytes:
    """The first record of a file."""
    return record(HEAD, json.dumps(asdict(head)).encode())


def words_record(number: int, words: Outcomes) -> bytes:
    """The outcomes that go by that number."""
    return record(WORDS, _NUMBER.pack(number) + json.dumps(words).encode())


def taken_record(first: int, taken: Sequence[Taken]) -> bytes:
    """Batches with sequences from `first` on were taken."""
    layout = _taken_layout(len(taken))
    payload_bytes = layout.size - _RECORD.size
    body = layout.pack(TAKEN, payload_bytes, first, *chain.from_iterable(taken))
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


@lru_cache(maxsize=64)
def _taken_layout(count: int) -> struct.Struct:
    """A whole record but its checksum: there is one of these for each submission."""
    return struct.Struct("<IIQ" + count * _TAKEN.format.removeprefix("<"))


def settled_record(settled: Iterable[tuple[int, int]]) -> bytes:
    """(sequence, number of its outcomes) of each."""
    return record(SETTLED, b"".join([_SETTLED.pack(*each) for each in settled]))


def known_record(batch_id: BatchId, number: int, taken: Taken) -> bytes:
    """What became of a batch that another producer's book has as taken."""
    return record(KNOWN, _KNOWN.pack(*batch_id, taken[0], taken[1], taken[2], taken[3], number))


def part_records(part: Part) -> bytes:
    """All of a part but its head: words, totals, what is open, the recent ones."""
    found = [words_record(number, words) for number, words in enumerate(part.words)]
    if part.totals:
        rows = [_TOTALS.pack(*key, c.batches, c.messages, c.events) for key, c in _items(part)]
        found.append(record(TOTALS, b"".join(rows)))
    opened = [_OPEN.pack(sequence, *taken) for sequence, taken in part.open.items()]
    found.append(record(OPEN, _SEQUENCE.pack(part.next_sequence) + b"".join(opened)))
    if part.gaps:
        found.append(record(GAPS, b"".join([_SEQUENCE.pack(each) for each in sorted(part.gaps)])))
    if part.recent:
        ids = [_KNOWN.pack(*batch_id, 0, 0, 0, 0, n) for batch_id, n in part.recent.items()]
        found.append(record(RECENT, b"".join(ids)))
    return b"".join(found)


def _items(part: Part) -> list[tuple[TotalsKey, Count]]:
    return sorted(part.totals.items(), key=lambda item: item[0])


def read_part(data: bytes) -> Part:
    """What a file's bytes say, as far as they hold; `head` is None if not even that does."""
    part = Part()
    for kind, payload, end in _records(data):
        try:
            _apply(part, kind, payload)
        except (struct.error, ValueError, TypeError, KeyError, IndexError):
            break  # written by another version, or not by us
        part.valid_bytes = end
    return part


def _records(data: bytes) -> Iterator[tuple[int, memoryview, int]]:
    view, position = memoryview(data), 0
    while position + _RECORD.size + _CHECKSUM.size <= len(data):
        kind, payload_bytes = _RECORD.unpack_from(data, position)
        end = position + _RECORD.size + payload_bytes
        if payload_bytes > PAYLOAD_BYTES_MAX or end + _CHECKSUM.size > len(data):
            return
        if _CHECKSUM.unpack_from(data, end)[0] != xxhash.xxh3_64_intdigest(view[position:end]):
            return
        yield kind, view[position + _RECORD.size : end], end + _CHECKSUM.size
        position = end + _CHECKSUM.size


def _apply(part: Part, kind: int, payload: memoryview) -> None:
    if kind == HEAD:
        part.head = Head(**json.loads(bytes(payload)))
    elif part.head is None:
        raise ValueError("no head")
    elif kind == WORDS:
        number = _NUMBER.unpack_from(payload)[0]
        if number != len(part.words):
            raise ValueError("a number is left out")
        pairs = json.loads(bytes(payload[_NUMBER.size :]))
        part.words.append(tuple((str(sink), str(outcome)) for sink, outcome in pairs))
    elif kind == TAKEN:
        rows = _TAKEN.iter_unpack(payload[_SEQUENCE.size :])
        part.take(_SEQUENCE.unpack_from(payload)[0], (Taken(*row) for row in rows))
    elif kind == SETTLED:
        for sequence, number in _SETTLED.iter_unpack(payload):
            part.settle(sequence, _known(part, number))
    elif kind in (KNOWN, RECENT):
        for *batch_id, workspace_id, hour, messages, events, number in _KNOWN.iter_unpack(payload):
            part.recent[BatchId(*batch_id)] = number
            if kind == KNOWN:
                part.count(_known(part, number), Taken(workspace_id, hour, messages, events))
    elif kind == OPEN:
        part.next_sequence = _SEQUENCE.unpack_from(payload)[0]
        for sequence, *taken in _OPEN.iter_unpack(payload[_SEQUENCE.size :]):
            part.open[sequence] = Taken(*taken)
    elif kind == GAPS:
        part.gaps = {sequence for (sequence,) in _SEQUENCE.iter_unpack(payload)}
    elif kind == TOTALS:
        for number, workspace_id, hour, *count in _TOTALS.iter_unpack(payload):
            key = (_known(part, number), workspace_id, hour)
            part.totals.setdefault(key, Count()).add(*count)


def _known(part: Part, number: int) -> int:
    if number >= len(part.words):
        raise ValueError(f"no words {number}")
    return number
