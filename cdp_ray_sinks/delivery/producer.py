"""The producer: owns batches from submission until every sink has settled them.

A plain object inside the source's process. It puts batches into the object store, numbers
them, sends references to the router in groups, and sends again whatever was not answered
when a router was lost. Whatever queued up while calls were under way is the next group.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId, Pack, pack_batches
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.flights import BatchTicket, Flight, Hold, SinkTally, Tallies, Window
from cdp_ray_sinks.delivery.limits import ProducerLimits as ProducerLimits
from cdp_ray_sinks.delivery.push import Group, Outcomes, Payload, fitting, make_group
from cdp_ray_sinks.delivery.router_link import (
    COMPLETE,
    REQUIRED_SETTLED,
    LinkError,
    RouteAnswer,
    RouterLink,
    SettledAnswer,
)
from cdp_ray_sinks.delivery.source_flow import SourceFlow
from cdp_ray_sinks.delivery.streams import Books, Stream, Streams
from cdp_ray_sinks.errors import DrainTimeoutError

IDLE_WAIT_MS = 500
LINGER_MS = 5
"""How long a batch waits for others at most while calls are under way."""


class Producer:
    """Takes batches; thread-safe. `submit` blocks while the window is full.

    `epoch` is made unique unless given; only a source whose ids and content are
    deterministic may give it. With `accounts_dir` it keeps a book there; see `account_book`.
    """

    def __init__(
        self,
        name: str,
        link: RouterLink,
        random: Callable[[], float],
        *,
        limits: ProducerLimits | None = None,
        clock: Clock | None = None,
        epoch: int | None = None,
        accounts_dir: Path | None = None,
        accounts_days_max: int = 90,
    ) -> None:
        self.name = name
        self._link = link
        self._random = random
        self._limits = limits or ProducerLimits()
        self._clock = clock or SystemClock()
        self._producer = xxhash.xxh3_128_digest(name.encode())
        made_epoch = (self._clock.now_ms() << 20) | int(random() * (1 << 20))
        self._epoch = made_epoch if epoch is None else epoch
        self._books = Books(
            accounts_dir, accounts_days_max, name, self._producer, self._epoch, self._clock
        )
        self._streams = Streams(self._books)
        self._sequence = 0
        self._session = 0
        self._number = 0
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._window = Window(self._limits.window_bytes, self._limits.window_batches)
        self._flights: dict[int, Flight] = {}
        self._queue: deque[Flight] = deque()
        self._calls: dict[int, list[Flight]] = {}
        self._lingering: list[Flight] = []
        self._is_polling = False
        self._in_doubt = True
        self._closed = False
        self._tallies = Tallies()
        self._flow = SourceFlow()
        self.resends = 0
        self._courier = threading.Thread(target=self._run, name=f"courier-{name}", daemon=True)
        self._courier.start()

    # -- what sources call ------------------------------------------------------------

    def submit(self, batch: Batch) -> BatchTicket:
        """Take one batch; on return its buffers may be reused. Blocks while the window is full."""
        return self.submit_packed([batch])[0]

    def submit_as(self, batch: Batch, batch_id: BatchId, low: int) -> BatchTicket:
        """Take one batch under the id that another node gave it; see `sources.base.TakesNamed`."""
        named = batch.header._replace(**batch_id._asdict())
        with self._changed:
            stream = self._streams.of(batch_id, low)
            known = stream.known(batch_id.sequence, named.checksum)
        if known is not None:
            return known
        return self._submit([replace(batch, header=named)], stream)[0]

    def submit_packed(self, batches: Sequence[Batch]) -> list[BatchTicket]:
        """Take several batches as one object of the store. Blocks while the window is full."""
        return self._submit(batches)

    def _submit(self, batches: Sequence[Batch], stream: Stream | None = None) -> list[BatchTicket]:
        pack, headers = pack_batches(batches)
        is_small = pack.held_bytes <= self._limits.inline_bytes_max
        hold = Hold(pack.held_bytes, len(headers))
        self._admit(hold, headers)
        try:
            payload = pack.copied() if is_small else self._link.put(pack)
        except BaseException:
            with self._changed:
                self._window.give_back(hold, headers)
                self._changed.notify_all()
            raise
        return self._enqueue([(header, payload) for header in headers], hold, stream)

    def put(self, pack: Pack) -> Payload:
        """A pack in the object store, for `submit_reference`; gone when it is let go of."""
        return self._link.put(pack)

    def submit_reference(
        self, headers: Sequence[BatchHeader], payload: Payload, held_bytes: int | None = None
    ) -> list[BatchTicket]:
        """Take batches whose pack already lies in the object store, owned by the caller.

        The caller keeps the object alive until the tickets are done. With `held_bytes` it weighs
        so much in this producer's window, and batches keep their ids, of one producer and epoch.
        """
        stream: Stream | None = None
        known: list[BatchTicket | None] = [None for _ in headers]
        if held_bytes is not None:
            with self._changed:
                stream, known = self._streams.with_known(headers)
        news = [each for each, ticket in zip(headers, known, strict=True) if ticket is None]
        hold = Hold(held_bytes or 0, len(news))
        if news:
            self._admit(hold, news)
        made = iter(self._enqueue([(header, payload) for header in news], hold, stream))
        return [ticket or next(made) for ticket in known]

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every required sink has settled all that was submitted before.

        Raises DrainTimeoutError with the count that is still unsettled.
        """
        with self._changed:
            last = self._sequence
            done = self._changed.wait_for(lambda: not self._unsettled(last), timeout_s)
            if not done:
                count = self._unsettled(last)
                raise DrainTimeoutError(
                    f"producer {self.name!r}: {count} batches unsettled after {timeout_s} s", count
                )

    def close(self, deadline_s: float) -> None:
        """Flush, then take no more. Raises DrainTimeoutError; the producer is closed anyway."""
        try:
            self.flush(deadline_s)
            with self._changed:
                self._changed.wait_for(lambda: not self._flights, min(deadline_s, 5.0))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Take and send no more, whatever is unsettled. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._courier.join(5)
        self._books.close()

    def accounts_problem(self) -> str | None:
        """Why the accounts can't be written at the moment, None while they can."""
        return self._books.problem

    def tallies(self) -> dict[str, SinkTally]:
        """What each sink has settled so far."""
        with self._changed:
            return self._tallies.copy()

    def in_flight(self) -> tuple[int, int]:
        """Batches and bytes submitted and not yet settled by every sink."""
        with self._changed:
            return len(self._flights), self._window.used_bytes

    def flow(self) -> dict[str, Any]:
        """Totals, latencies, and for how long the oldest unsettled batch has waited."""
        with self._changed:
            oldest = next(iter(self._flights.values()), None)
            lag_ms = self._clock.monotonic_ms() - oldest.queued_ms if oldest else 0
            return {**self._flow.report(), "lag_s": lag_ms / 1000}

    # -- sending ----------------------------------------------------------------------

    def _admit(self, hold: Hold, headers: Sequence[BatchHeader]) -> None:
        """Wait for room in the window and take it."""
        with self._changed:
            while not self._window.admits(hold, headers) and not self._closed:
                self._changed.wait()
            if self._closed:
                raise RuntimeError(f"producer {self.name!r} is closed")
            self._window.take(hold, headers)

    def _enqueue(
        self, batches: list[tuple[BatchHeader, Payload]], hold: Hold, stream: Stream | None = None
    ) -> list[BatchTicket]:
        tickets, queued_ms = [], self._clock.monotonic_ms()
        with self._changed:
            headers = [header for header, _ in batches]
            self._books.take(self._sequence, headers, stream)
            self._flow.take(headers)
            for header, payload in batches:
                ticket, named = BatchTicket(), header
                if stream is None:
                    batch_id = BatchId(self._producer, self._epoch, self._sequence)
                    named = header._replace(**batch_id._asdict())
                else:
                    stream.under_way[header.sequence] = ticket, header.checksum
                flight = Flight(named, payload, hold, ticket, self._sequence, stream, 0, queued_ms)
                self._flights[self._sequence] = flight
                self._sequence += 1
                self._queue.append(flight)
                tickets.append(ticket)
            is_idle = not self._calls and not self._in_doubt
            if not is_idle:
                self._changed.notify_all()
        if is_idle:
            self._send_next()
        return tickets

    def _send_next(self) -> bool:
        """Send one group if there is one and a call is free; whether it did."""
        with self._sending:
            with self._changed:
                if self._in_doubt or not self._may_call():
                    return False
                flights = self._take_group()
                self._number += 1
                number, session = self._number, self._session
                self._calls[number] = flights
                group = self._group(flights)
            key = (session, number)
            self._books.write_told()
            try:
                self._link.route(
                    self._producer, session, number, group, lambda a: self._on_answer(key, a)
                )
            except LinkError as error:
                self._on_answer(key, error)
        return True

    def _take_group(self) -> list[Flight]:
        limits = self._limits
        waiting = ((flight.header, flight.payload) for flight in self._queue)
        count, _ = fitting(waiting, limits.group_batches_max, limits.group_bytes_max)
        return [self._queue.popleft() for _ in range(count)]

    def _group(self, flights: list[Flight]) -> Group:
        low = next(iter(self._flights), self._sequence)
        lows = self._streams.lows(flight.stream for flight in flights)
        lows.append((self._producer, self._epoch, low))
        return make_group([(f.header, f.payload) for f in flights], lows)

    def _on_answer(self, key: tuple[int, int], answer: RouteAnswer | Exception) -> None:
        """A call ended: settle its batches, or be in doubt. Runs in the link's thread."""
        session, number = key
        with self._changed:
            flights = self._calls.pop(number, None) if session == self._session else None
            if flights is None:
                return
            if isinstance(answer, Exception):
                self._in_doubt = True
            else:
                self._settle_all(flights, answer)
            self._changed.notify_all()

    def _settle_all(self, flights: list[Flight], answer: RouteAnswer) -> None:
        settled: list[tuple[Flight, Outcomes]] = []
        now_ms = self._clock.monotonic_ms()
        for flight, outcomes, state in zip(flights, answer.outcomes, answer.states, strict=True):
            if state >= REQUIRED_SETTLED:
                if not flight.ticket.done():
                    self._flow.latency.add((now_ms - flight.queued_ms) / 1000)
                flight.ticket.settle(outcomes)
            if state < COMPLETE:
                flight.state = state
                self._lingering.append(flight)
            elif self._flights.pop(flight.number, None) is not None:
                self._tallies.add(flight.header, outcomes)
                self._window.settle(flight)
                settled.append((flight, outcomes))
        self._books.settle(settled)

    def _on_lingering(self, polled: list[Flight], answer: SettledAnswer | Exception) -> None:
        with self._changed:
            self._is_polling = False
            if isinstance(answer, Exception):
                self._in_doubt = True
            else:
                changed = [polled[place] for place in answer.places]
                for place in reversed(answer.places):
                    del polled[place]
                self._lingering += polled
                self._settle_all(changed, RouteAnswer(answer.outcomes, answer.states))
            self._changed.notify_all()

    # -- the courier thread -----------------------------------------------------------

    def _run(self) -> None:
        """Send what queues up, ask for what lingers, and recover a lost router."""
        while True:
            with self._changed:
                wait_ms = LINGER_MS if self._queue else IDLE_WAIT_MS
                self._changed.wait_for(self._has_work, wait_ms / 1000)
                if self._closed:
                    return
                must_recover = self._in_doubt and not self._calls and not self._is_polling
                polled = self._take_lingering()
            self._books.write_told()
            if must_recover:
                self._recover()
            elif polled:
                self._ask_lingering(polled)
            else:
                self._send_next()

    def _has_work(self) -> bool:
        if self._closed:
            return True
        if self._in_doubt:
            return not self._calls and not self._is_polling
        if self._lingering and not self._is_polling:
            return True
        return self._may_call()

    def _may_call(self) -> bool:
        """Whether another call should go now."""
        if not self._calls:
            return bool(self._queue)
        limits = self._limits
        if not self._queue or len(self._calls) >= limits.large_calls_in_flight_max:
            return False
        if len(self._calls) >= limits.calls_in_flight_max:
            first = islice(self._queue, limits.group_batches_max)
            return sum(flight.header.record_bytes for flight in first) >= limits.large_call_bytes
        if len(self._queue) >= limits.group_batches_min:
            return True
        return self._queue[0].queued_ms + LINGER_MS <= self._clock.monotonic_ms()

    def _take_lingering(self) -> list[Flight]:
        if self._in_doubt or self._is_polling or not self._lingering:
            return []
        polled, self._lingering = self._lingering, []
        self._is_polling = True
        return polled

    def _ask_lingering(self, polled: list[Flight]) -> None:
        known = [(flight.header.batch_id, flight.state) for flight in polled]
        try:
            self._link.settled(known, lambda answer: self._on_lingering(polled, answer))
        except LinkError as error:
            self._on_lingering(polled, error)

    def _recover(self) -> None:
        """Find the router again and queue all that is unsettled, in order."""
        backoff, attempt = Backoff(delay_ms_max=1_000), 0
        session = self._clock.now_ms() * 1000 + int(self._random() * 1000)
        session = max(session, self._session + 1)
        while not self._closed:
            try:
                in_force = self._link.begin(self._producer, session)
                if in_force > session:  # the clock was set back since this producer's last life
                    session = in_force + 1
                    self._link.begin(self._producer, session)
                break
            except LinkError:
                attempt += 1
                with self._changed:
                    self._changed.wait(backoff.delay_ms(attempt, self._random) / 1000)
        with self._changed:
            if self._session:
                self.resends += len(self._flights)
            self._session, self._number = session, 0
            self._lingering = []
            self._queue = deque(self._flights.values())
            self._in_doubt = False

    def _unsettled(self, before: int) -> int:
        """Batches with a sequence below `before` that a required sink still owes."""
        return sum(1 for seq, f in self._flights.items() if seq < before and not f.ticket.done())
