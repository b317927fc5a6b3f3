"""From the bodies of requests to batches, in a thread beside the one that serves sockets.

It may block, as the taker does while its window is full; then bodies queue up, and the
server answers 503 once they are too many. One body is unpacked and read at a time.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import API_KEY_BYTES, FRAME_BYTES_MAX
from cdp_ray_sinks.batch.json_lines import LineProblem, LineReader, TooManyLinesError
from cdp_ray_sinks.batch.kernels.facts import FACT_KEY_OFFSET, FACT_SCHEMA_TYPE, FACT_WORKSPACE
from cdp_ray_sinks.batch.kernels.frames import INDEX_END
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import BatchTaker, Ticket
from cdp_ray_sinks.sources.collector import BatchCollector
from cdp_ray_sinks.sources.http import HttpConfig

INGEST: Final = 0
"""Stands for the schema of a body that is one message."""

_WAIT_MS: Final = 50
_TICKET_CHECK_MS: Final = 2
_GZIP_WINDOW: Final = 31
INTAKE_COUNTERS: Final = (
    "events", "messages", "batches", "lines_rejected", "messages_malformed",
    "messages_undecodable", "auth_failures", "requests_not_kept",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a body: an HTTP status and what to say of it."""

    status: int
    accepted: int = 0
    rejected: int = 0
    problems: tuple[LineProblem, ...] = ()
    error: str = ""


@dataclass(slots=True)
class Job:
    """One body: `schema_type` of its lines, or INGEST; `key` is the one that came beside it.

    `deliver` is called once, in the intake's thread. `is_abandoned`: nobody waits any more.
    """

    schema_type: int
    body: bytes
    is_gzip: bool
    workspace_id: int
    key: bytes
    peer_ip: Bytes
    deliver: Callable[[Job, Answer], None]
    is_abandoned: bool = False
    answer: Answer | None = None
    tickets: list[Ticket] = field(default_factory=list)
    is_open: bool = False


class Intake:
    """Reads bodies in the order of `put` and answers each."""

    def __init__(
        self,
        config: HttpConfig,
        taker: BatchTaker,
        source_id: str,
        clock: Clock,
        keys: ApiKeys,
        on_turn: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._keys = keys
        self._on_turn = on_turn
        self._collector = BatchCollector(
            taker,
            source_id,
            clock,
            batch_bytes_max=config.batch_bytes_max,
            batch_age_ms=config.batch_age_ms,
            builder_bytes_total_max=config.builder_bytes_total_max,
            on_handed_over=self._on_handed_over,
        )
        self._reader = LineReader(config.line_count_max)
        self._run = MessageRun(4096)
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._open_jobs: dict[tuple[int, int], list[Job]] = {}
        self._waiting: list[Job] = []
        self._thread = threading.Thread(target=self._work, name="http-intake", daemon=True)
        self.counters = dict.fromkeys(INTAKE_COUNTERS, 0)
        self.failure: Exception | None = None
        """What ended the thread before its time."""

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a body, from any thread."""
        with self._changed:
            self._queue.append(job)
            self._changed.notify()

    def end(self) -> None:
        """Hand over what is there; the thread ends once every body is answered."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - the source raises it in its own thread
            self.failure = error
            left = [*self._waiting, *(job for jobs in self._open_jobs.values() for job in jobs)]
            with self._changed:
                left += self._queue
                self._queue.clear()
            for job in left:
                job.deliver(job, Answer(503, error="the source has failed"))
        finally:
            self._on_turn()

    def _turn(self) -> bool:
        """Read what is queued, hand over what is due, answer what is settled."""
        with self._changed:
            if not self._queue and not self._is_ending:
                self._changed.wait(self._wait_ms() / 1000)
            jobs = [self._queue.popleft() for _ in range(len(self._queue))]
            is_ending = self._is_ending
        for job in jobs:
            self._take(job)
            self._collector.hand_over_due()
        if is_ending:
            self._collector.flush()
        self._collector.hand_over_due()
        self.counters["batches"] = self._collector.batches
        self._answer_settled()
        self._on_turn()
        if is_ending and self._waiting and not jobs:
            self._clock.sleep_ms(_TICKET_CHECK_MS)
        return not is_ending or bool(jobs or self._waiting)

    def _wait_ms(self) -> int:
        due_in_ms = self._collector.due_in_ms()
        wait_ms = _WAIT_MS if due_in_ms is None else min(due_in_ms, _WAIT_MS)
        return min(wait_ms, _TICKET_CHECK_MS) if self._waiting else wait_ms

    def _take(self, job: Job) -> None:
        if job.is_abandoned:
            self.counters["requests_not_kept"] += 1
            job.deliver(job, Answer(503, error="not taken in time"))
            return
        try:
            body = _unpacked(job.body, self._config.body_bytes_max) if job.is_gzip else job.body
            job.body = b""
            answer = self._take_body(job, body)
        except (RefusedBodyError, TooManyLinesError) as error:
            status = error.status if isinstance(error, RefusedBodyError) else 413
            answer = Answer(status, error=str(error))
        if not answer.accepted or self._config.ack == "accepted":
            self._forget(job)
            job.deliver(job, answer)
            return
        job.answer = answer
        self._waiting.append(job)

    def _take_body(self, job: Job, body: bytes) -> Answer:
        if job.schema_type == INGEST:
            return self._take_message(job, body)
        lines = self._reader.read(body, job.schema_type, self._clock.now_ms())
        self.counters["lines_rejected"] += lines.rejected_count
        if lines.event_count:
            _, status = self._run.index(lines.records, 0, len(lines.records), FRAME_BYTES_MAX)
            if status != INDEX_END:
                raise AssertionError(f"frames of our own can't be indexed: {status}")
            self._run.check(workspace_id=job.workspace_id)
            self._collect(job, job.workspace_id, job.schema_type)
        if not lines.event_count and not lines.rejected_count:
            return Answer(400, error="no line with an event in it")
        status = 207 if lines.rejected_count else 202
        if not lines.event_count:
            status = 400
        return Answer(status, lines.event_count, lines.rejected_count, lines.problems)

    def _take_message(self, job: Job, body: bytes) -> Answer:
        run = self._run
        if not body:
            return Answer(400, error="an empty body is no message")
        run.buffer = np.frombuffer(body, np.uint8)
        run.count, run.starts[0], run.lengths[0] = 1, 0, len(body)
        run.check(self._keys.key_table)
        self.counters["messages_malformed"] += run.malformed_count
        if run.malformed_count:
            return Answer(400, error="not a message: its envelope is malformed")
        start = int(run.facts[0, FACT_KEY_OFFSET])
        if job.key and body[start : start + API_KEY_BYTES] != job.key:
            self.counters["auth_failures"] += 1
            return Answer(403, error="the key of the message is not the key of the request")
        if run.unknown_key_count:
            self.counters["auth_failures"] += 1
            return Answer(401, error="unknown api key")
        self.counters["messages_undecodable"] += run.undecodable_count
        events = run.event_count
        self._collect(job, int(run.facts[0, FACT_WORKSPACE]), int(run.facts[0, FACT_SCHEMA_TYPE]))
        return Answer(202, max(events, 1))

    def _collect(self, job: Job, workspace_id: int, schema_type: int) -> None:
        """Copy the checked run; the job waits for the batches that its messages are in."""
        key = (workspace_id, schema_type)
        self._open_jobs.setdefault(key, []).append(job)
        job.is_open = True
        self._collector.take(self._run, job.peer_ip, False)
        if not job.is_open and self._collector.is_open(key):
            self._open_jobs.setdefault(key, []).append(job)
            job.is_open = True
        self.counters["messages"] += self._run.ok_count
        self.counters["events"] += self._run.event_count

    def _on_handed_over(self, keys: Sequence[tuple[int, int]], tickets: Sequence[Ticket]) -> None:
        for key, ticket in zip(keys, tickets, strict=True):
            for job in self._open_jobs.pop(key, ()):
                job.is_open = False
                job.tickets.append(ticket)

    def _forget(self, job: Job) -> None:
        """A job that waits for no ticket need not be found by one."""
        for key, jobs in list(self._open_jobs.items()):
            if jobs[-1] is job:
                jobs.pop()
            if not jobs:
                del self._open_jobs[key]

    def _answer_settled(self) -> None:
        still = []
        for job in self._waiting:
            if job.is_open or not all(ticket.done() for ticket in job.tickets):
                still.append(job)
                continue
            assert job.answer is not None
            job.deliver(job, _kept(job.tickets, job.answer))
        self._waiting = still


class RefusedBodyError(ValueError):
    """A body that can't be read at all; `status` says how to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _unpacked(body: bytes, bytes_max: int) -> bytes:
    """The content of a gzip file, of one member or several; never more than `bytes_max`."""
    parts: list[bytes] = []
    room = bytes_max
    while body:
        unpacker = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part = unpacker.decompress(body, room + 1)
        except zlib.error:
            raise RefusedBodyError(400, "the body is not gzip") from None
        if len(part) > room:
            raise RefusedBodyError(413, f"unpacks to more than {bytes_max} bytes")
        if not unpacker.eof:
            raise RefusedBodyError(400, "the gzip body ends too early")
        parts.append(part)
        room -= len(part)
        body = unpacker.unused_data
    return b"".join(parts)


def _kept(tickets: Sequence[Ticket], answer: Answer) -> Answer:
    """The answer, unless a sink refused one of the batches."""
    try:
        outcomes: list[Mapping[str, str]] = [ticket.result(0) for ticket in tickets]
    except CdpError as error:
        return Answer(503, error=f"not kept: {error}")
    del outcomes
    return answer
