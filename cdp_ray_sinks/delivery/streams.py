"""Batches to which other nodes gave their ids, as far as a producer has them under way.

A stream is one producer and epoch of another node. Its sequences have holes, and begin where that
node likes; it says below which nothing will come any more. What of it is still owed to a sink
here keeps that from the lanes' ledgers. Each stream has a book of accounts of its own, which goes
on when this process is another one, so what is sent again is not counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.delivery.account_book import AccountBook
from cdp_ray_sinks.delivery.account_files import prune
from cdp_ray_sinks.delivery.flights import BatchTicket, Flight
from cdp_ray_sinks.delivery.push import Low, Outcomes
from cdp_ray_sinks.errors import BatchConflictError

STREAMS_MAX: Final = 64
"""Of more, those with nothing under way are let go of, the longest unused first."""


class Books:
    """The books of accounts of a producer: its own, and one of each stream; none without a
    directory. Old ones that are there go."""

    def __init__(
        self,
        directory: Path | None,
        days_max: int,
        name: str,
        producer: bytes,
        epoch: int,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._name = name
        if directory is not None:
            with suppress(OSError):  # old ones may be kept for longer
                prune(directory, days_max, clock.now_ms())
        self._own = self.new(producer, epoch)
        self._others: list[AccountBook] = []

    @property
    def problem(self) -> str | None:
        """Why the producer's own can't be written at the moment, None while it can."""
        return None if self._own is None else self._own.problem

    def new(self, producer: bytes, epoch: int) -> AccountBook | None:
        """A book, which goes on where one of an earlier process ended."""
        if self._directory is None:
            return None
        return AccountBook(self._directory, self._name, producer, epoch)

    def of_stream(self, producer: bytes, epoch: int) -> AccountBook | None:
        """The book of a stream; it is written with the others."""
        book = self.new(producer, epoch)
        if book is not None:
            self._others = [*self._others, book]
        return book

    def let_go(self, book: AccountBook | None) -> None:
        """Nothing more comes for that one."""
        if book is not None:
            self._others = [each for each in self._others if each is not book]
            book.close()

    def take(self, first: int, headers: Sequence[BatchHeader], stream: Stream | None) -> None:
        """Batches will go on their way; of a stream they have their sequences."""
        if stream is None:
            if self._own is not None:
                self._own.take(first, headers)
        elif stream.book is not None:
            for header in headers:
                stream.book.take(header.sequence, [header])

    def settle(self, settled: Iterable[tuple[Flight, Outcomes]]) -> None:
        """Every sink has settled those."""
        own: list[tuple[int, Outcomes]] = []
        for flight, outcomes in settled:
            stream = flight.stream
            if stream is None:
                own.append((flight.number, outcomes))
                continue
            stream.under_way.pop(flight.header.sequence, None)
            if stream.book is not None:
                stream.book.settle([(flight.header.sequence, outcomes)])
        if own and self._own is not None:
            self._own.settle(own)

    def write_told(self) -> None:
        """A kill of the process forgets nothing that was told before."""
        for book in (self._own, *self._others):
            if book is not None:
                book.write_told()

    def close(self) -> None:
        """Sync all of them."""
        for book in (self._own, *self._others):
            if book is not None:
                book.close()


@dataclass(slots=True)
class Stream:
    """One of them; `under_way` are tickets and checksums by sequence."""

    producer: bytes
    epoch: int
    book: AccountBook | None
    low: int = 0
    under_way: dict[int, tuple[BatchTicket, int]] = field(default_factory=dict)

    def known(self, sequence: int, checksum: int) -> BatchTicket | None:
        """The ticket of a batch that is under way. Raises BatchConflictError for another one."""
        found = self.under_way.get(sequence)
        if found is None:
            return None
        if found[1] != checksum:
            name = BatchId(self.producer, self.epoch, sequence)
            raise BatchConflictError(f"batch {name} came again with other content")
        return found[0]

    def lowest(self) -> Low:
        """Below which all is settled here and there."""
        return self.producer, self.epoch, min(self.low, min(self.under_way, default=self.low))


class Streams:
    """Those of one producer, which holds its lock when it calls."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._streams: dict[tuple[bytes, int], Stream] = {}

    def of(self, batch_id: BatchId, low: int) -> Stream:
        """The stream of that batch, whose sender says that nothing below `low` will come."""
        key = batch_id.producer, batch_id.epoch
        stream = self._streams.pop(key, None)
        if stream is None:
            stream = Stream(*key, self._books.of_stream(*key))
        self._streams[key] = stream
        stream.low = max(stream.low, low)
        if len(self._streams) > STREAMS_MAX:
            self._let_go_of_one()
        return stream

    def with_known(self, headers: Sequence[BatchHeader]) -> tuple[Stream, list[BatchTicket | None]]:
        """The stream of batches of one producer and epoch, and the tickets of those under way.

        Raises BatchConflictError.
        """
        stream = self.of(headers[0].batch_id, 0)
        return stream, [stream.known(each.sequence, each.checksum) for each in headers]

    def _let_go_of_one(self) -> None:
        for key, stream in self._streams.items():
            if not stream.under_way:
                del self._streams[key]
                self._books.let_go(stream.book)
                return

    def lows(self, streams: Iterable[Stream | None]) -> list[Low]:
        """Of each of them once."""
        once = {id(stream): stream for stream in streams if stream is not None}
        return [stream.lowest() for stream in once.values()]
