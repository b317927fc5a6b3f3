"""A lane: one sink's writer with everything around it that the sink does not know.

Pushes come numbered, per router session, and are taken in that order. One writer thread
takes all that is queued, writes it, flushes once and answers all: natural group commit.
A sink that wants larger flushes (`due_in_ms`) gets them, whatever arrives meanwhile.
What is already durable is answered from the ledger; what is queued twice is written once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.delivery.backoff import Backoff, RetryTimer
from cdp_ray_sinks.delivery.burial import Burial
from cdp_ray_sinks.delivery.lane_items import DeadLetters, LaneItem, LaneStream, PushAnswer
from cdp_ray_sinks.delivery.push import DEAD_LETTERED, DROPPED, DURABLE, REFUSED, Low
from cdp_ray_sinks.delivery.turns import Turns
from cdp_ray_sinks.errors import (
    BatchConflictError,
    DroppedError,
    FencedError,
    PartialFlushError,
    PartialWriteError,
    RefusedMessagesError,
    SinkError,
    TerminalError,
    TransientError,
    as_transient,
)
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.metrics import MetricsSnapshot, SinkMetrics
from cdp_ray_sinks.sinks.base import CommitsInTurn, KeepsLedger, RefusesLate, Sink

TICK_MS = 1_000
ANSWER_WAIT_S = 0.5


class Lane:
    """Delivery into one sink. `push` may be called from several threads."""

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        dead_letters: DeadLetters,
        random: Callable[[], float],
        *,
        by_workspace: bool,
        backoff: Backoff | None = None,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._by_workspace = by_workspace
        self._retry = RetryTimer(backoff or Backoff(), random)
        self._turns = Turns()
        self._own_ledger = Ledger()
        self._changed = threading.Condition()
        self._queue: deque[tuple[Batch, PushAnswer, int]] = deque()
        self._lows: dict[tuple[bytes, int], int] = {}
        self._closing = False
        self._open: dict[BatchId, LaneItem] = {}
        self._streams: dict[int, LaneStream] = {}
        self._flush_at_ms = 0
        self._broken: SinkError | None = None
        self._unclosed: SinkError | None = None
        self._is_abandoned = False
        self._tick_error: str | None = None
        self.metrics = SinkMetrics()
        self._burial = Burial(dead_letters, self.metrics)
        self._writer = threading.Thread(target=self._run, name="lane-writer", daemon=True)

    def start(self) -> None:
        """Open the sink and begin to take pushes. Raises what `Sink.open` raises."""
        self._sink.open()
        self._writer.start()

    def hello(self, router_id: str, session: int) -> int:
        """Begin a router's session at push 1; the session in force, see `Turns.begin`."""
        return self._turns.begin(router_id, session)

    def push(
        self,
        router_id: str,
        session: int,
        number: int,
        lows: Sequence[Low],
        batches: Sequence[Batch],
    ) -> list[str]:
        """Write the batches; returns one outcome each, once all of them are settled.

        What is being retried is answered as pending after `ANSWER_WAIT_S`, so that a
        workspace that is stuck does not keep the answers of others. Files that are only slow
        are waited for: asking again would make them slower.

        Raises SequenceGapError when an earlier push of the session is missing or the session
        is over, and FencedError when another writer owns this lane. Nothing of the push is
        acknowledged then.
        """
        push = PushAnswer(len(batches))
        with self._turns.turn(router_id, session, number), self._changed:
            if self._broken is not None:
                raise self._broken
            if self._closing:
                raise TransientError("the lane is closing")
            for producer, epoch, low in lows:
                key = (producer, epoch)
                self._lows[key] = max(low, self._lows.get(key, 0))
            self._queue.extend((batch, push, place) for place, batch in enumerate(batches))
            self._changed.notify()
        if not batches:
            return []
        return push.wait(ANSWER_WAIT_S, is_patient=self._by_workspace)

    def queued_bytes(self) -> int:
        """Bytes taken and not yet settled."""
        with self._changed:
            queued = sum(batch.header.record_bytes for batch, _, _ in self._queue)
            return queued + sum(i.batch.header.record_bytes for i in self._open.values())

    def snapshot(self) -> MetricsSnapshot:
        """The counters so far."""
        return self.metrics.snapshot()

    def last_error(self) -> str | None:
        """What the sink is being retried for at the moment, None when all is well."""
        if self._broken is not None:
            return str(self._broken)
        waiting = (s.error for s in list(self._streams.values()) if s.error)
        return next(waiting, self._tick_error)

    def close(self, deadline_ms: int) -> bool:
        """Take no more, settle what is queued, close the sink; False if that failed or took long.

        Batches unsettled at the deadline are answered with TransientError.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(max(0, deadline_ms) / 1000)
        is_closed = not self._writer.is_alive() and self._unclosed is None
        self._is_abandoned = True
        return is_closed

    def _run(self) -> None:
        next_tick_ms = self._clock.monotonic_ms() + TICK_MS
        while True:
            batches, lows = self._take(next_tick_ms)
            if self._broken is None:
                try:
                    self._round(batches, lows)
                except FencedError as error:
                    self._break(error)
            if self._is_abandoned:
                self._break(TransientError("the lane closed before this could be written"))
            now_ms = self._clock.monotonic_ms()
            if now_ms >= next_tick_ms:
                next_tick_ms = now_ms + TICK_MS
                self._tick()
            with self._changed:
                if self._closing and not self._queue and not self._open:
                    break
        self._close_sink()

    def _take(
        self, next_tick_ms: int
    ) -> tuple[list[tuple[Batch, PushAnswer, int]], dict[tuple[bytes, int], int]]:
        """All that is queued; waits for it, or for the next retry, flush or tick."""
        with self._changed:
            if not self._queue and not self._closing:
                until_ms = next_tick_ms
                if self._open:
                    until_ms = min(until_ms, max(self._retry.at_ms, self._flush_at_ms))
                self._changed.wait(max(0.0, (until_ms - self._clock.monotonic_ms()) / 1000))
            elif self._closing and self._open and not self._queue:
                wait_ms = self._retry.at_ms - self._clock.monotonic_ms()
                self._changed.wait(max(0.0, wait_ms / 1000))
            batches, lows = list(self._queue), self._lows
            self._queue.clear()
            self._lows = {}
        return batches, lows

    def _round(
        self, batches: list[tuple[Batch, PushAnswer, int]], lows: dict[tuple[bytes, int], int]
    ) -> None:
        """Write what is new, try again what is due, flush, answer."""
        for batch, push, place in batches:
            self._accept(batch, push, place, lows)
        if not self._open:
            return
        is_waiting = self._clock.monotonic_ms() < self._retry.at_ms
        if not batches and is_waiting:
            return
        failed: dict[int, SinkError] = {}
        for key, stream in self._streams.items():
            error = self._write(stream)
            if error is not None:
                failed[key] = error
        # Where all go to one destination, new batches are no reason to try it earlier.
        is_held = not failed and is_waiting and not self._by_workspace
        if not is_held:
            failed.update(self._tried(self._settle_committed))
            is_held = not failed and self._holds_back()
        if is_held:  # tell those who wait what is known, or nothing more would come
            for push in {push for _, push, _ in batches if not push.is_question}:
                push.release()
            return
        failed.update(self._tried(self._flush))
        self._settle(failed)

    def _ledger(self, workspace_id: int) -> Ledger:
        sink = self._sink
        return sink.ledger_for(workspace_id) if isinstance(sink, KeepsLedger) else self._own_ledger

    def _accept(
        self, batch: Batch, push: PushAnswer, place: int, lows: dict[tuple[bytes, int], int]
    ) -> None:
        header = batch.header
        same = self._open.get(header.batch_id)
        if same is not None:
            if same.batch.header.checksum == header.checksum:
                self.metrics.add(duplicates=1)
                same.waiting.append((push, place))
                push.has_known = True
            else:
                self._answer([(push, place)], REFUSED)
            return
        push.has_news = True
        self.metrics.add(batches_received=1)
        low = lows.get((header.producer, header.epoch), 0)
        try:
            if self._burial.has(header, low):
                self._answer([(push, place)], DEAD_LETTERED)
                return
            ledger = self._ledger(header.workspace_id)
            ledger.raise_low(header.producer, header.epoch, low)
            if ledger.has(header.producer, header.epoch, header.sequence, header.checksum):
                self.metrics.add(duplicates=1)
                self._answer([(push, place)], DURABLE)
                return
            is_known_new = True
        except BatchConflictError:
            self.metrics.add(write_errors=1)
            self._answer([(push, place)], REFUSED)
            return
        except (TransientError, TerminalError):
            is_known_new = False  # the ledger did not open: writing meets and handles the same
        item = LaneItem(batch, [(push, place)], is_known_new)
        self._open[header.batch_id] = item
        key = header.workspace_id if self._by_workspace else 0
        self._streams.setdefault(key, LaneStream()).items.append(item)

    def _write(self, stream: LaneStream) -> SinkError | None:
        """Hand the stream's unwritten batches to the sink, in order, up to the first that waits."""
        for item in stream.items:
            if item.written:
                continue
            try:
                self._hand_over(item)
            except FencedError:
                raise
            except Exception as error:  # noqa: BLE001 - a sink of somebody's own may raise anything
                return as_transient(error)
            item.written = True
        return None

    def _hand_over(self, item: LaneItem) -> None:
        """Write one batch, or keep as dead letters what the sink will never take of it."""
        header = item.batch.header
        try:
            if not item.is_known_new and self._ledger(header.workspace_id).has(
                header.producer, header.epoch, header.sequence, header.checksum
            ):
                return
            self._sink.write(item.batch)
        except BatchConflictError:
            item.outcome = REFUSED
        except DroppedError:
            item.outcome = DROPPED
            self.metrics.add(dropped=1)
        except PartialWriteError as error:
            self._burial.bury(item, error, error.failed_messages)
        except TerminalError as error:
            self._burial.bury(item, error, None)

    def _holds_back(self) -> bool:
        """Whether the sink would rather have more before the next flush, and may."""
        wait_ms = 0 if self._closing else self._sink.due_in_ms(self._clock.now_ms())
        self._flush_at_ms = self._clock.monotonic_ms() + wait_ms
        return wait_ms > 0

    def _flush(self) -> None:
        self.metrics.add(flush_count=1)
        while True:
            try:
                self._sink.flush()
            except RefusedMessagesError as error:
                self._burial.bury_refused(self._open, error)
                assert isinstance(self._sink, RefusesLate)
                self._sink.refusals_kept()
            else:
                return

    def _settle_committed(self) -> None:
        """Answer for what has become durable without a flush."""
        if isinstance(self._sink, CommitsInTurn):
            for batch_id in self._sink.committed():
                if batch_id in self._open:
                    self._settle_item(self._open[batch_id], self._clock.now_ms())
            for stream in self._streams.values():
                while stream.items and stream.items[0].batch.header.batch_id not in self._open:
                    stream.items.popleft()

    def _tried(self, step: Callable[[], None]) -> dict[int, SinkError]:
        """Do it; what failed, for each stream that did."""
        try:
            step()
        except PartialFlushError as error:
            return {key: TransientError(text) for key, text in error.failures}
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001 - a sink of somebody's own may raise anything
            # Nothing is known to be durable: keep all of it and try again.
            return dict.fromkeys(self._streams, as_transient(error))
        return {}

    def _settle(self, failed: dict[int, SinkError]) -> None:
        now_ms = self._clock.now_ms()
        for key, stream in list(self._streams.items()):
            error = failed.get(key)
            if error is not None:
                stream.error = str(error)
                self.metrics.add(write_errors=1)
                for push in {push for item in stream.items for push, _ in item.waiting}:
                    push.is_retried = True
                continue
            for item in stream.items:
                if item.batch.header.batch_id in self._open:
                    self._settle_item(item, now_ms)
            del self._streams[key]
        if not failed:
            self._retry.succeeded()
            return
        self.metrics.add(retries=1)
        asked_ms = max(e.retry_after_ms for e in failed.values() if isinstance(e, TransientError))
        self._retry.failed(self._clock.monotonic_ms(), asked_ms)

    def _settle_item(self, item: LaneItem, now_ms: int) -> None:
        h = item.batch.header
        del self._open[h.batch_id]
        if not isinstance(self._sink, KeepsLedger):
            self._own_ledger.add(h.producer, h.epoch, h.sequence, h.checksum, now_ms)
        if item.outcome == DURABLE:
            self.metrics.add(
                batches_written=1,
                messages_written=h.message_count,
                events_written=h.event_count,
                bytes_written=h.record_bytes,
            )
        self._answer(item.waiting, item.outcome)

    def _answer(self, waiting: list[tuple[PushAnswer, int]], outcome: str) -> None:
        for push, place in waiting:
            push.settle(place, outcome)

    def _break(self, error: SinkError) -> None:
        """Another writer owns the lane: answer nobody, refuse everybody."""
        with self._changed:
            self._broken = error
            waiting = [w for item in self._open.values() for w in item.waiting]
            waiting += [(push, place) for _, push, place in self._queue]
            self._open.clear()
            self._queue.clear()
        self._streams.clear()
        for push, _ in waiting:
            if not push.future.done():
                push.future.set_exception(error)

    def _tick(self) -> None:
        self._tick_error = None
        try:
            self._sink.tick(self._clock.now_ms())
        except FencedError as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001 - a sink of somebody's own may raise anything
            self.metrics.add(write_errors=1)
            self._tick_error = str(as_transient(error))

    def _close_sink(self) -> None:
        try:
            self._sink.close()
            self._burial.close()
        except Exception as error:  # noqa: BLE001 - a sink of somebody's own may raise anything
            told = error if isinstance(error, SinkError) else as_transient(error)
            self._broken = self._unclosed = told
