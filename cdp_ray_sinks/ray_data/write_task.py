"""One task of a write: blocks of rows into a pipeline, each batch settled before it ends.

A task's batches have ids made from the write and the task, numbered in the order of the rows.
So a task that is tried again sends the same batches under the same ids, and
lanes know which they have.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from cdp_ray_sinks.actors.joining import Joined
from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId
from cdp_ray_sinks.delivery.flights import BatchTicket
from cdp_ray_sinks.delivery.producer import Producer
from cdp_ray_sinks.delivery.push import LOST
from cdp_ray_sinks.errors import (
    BatchConflictError,
    CdpError,
    ConfigError,
    DrainTimeoutError,
    TransientError,
)
from cdp_ray_sinks.ray_data.row_batches import BlockRows, RowMapping
from cdp_ray_sinks.ray_data.row_columns import SHOWN_MAX, BadRowsError
from cdp_ray_sinks.ray_data.write_ids import new_id, time_of

LOOK_S: Final = 2.0
"""How often a task looks whether its pipeline is still there."""
TRIES_MAX: Final = 5
"""How often batches are sent of which a sink's answer is that they were lost on their way."""


class WriteFailedError(CdpError):
    """A write did not end well; its text names the write, the task and the reason."""


@dataclass(slots=True)
class WriteReport:
    """What a write, or one task of it, did. `outcomes` count events: sink, outcome, how many.

    `bad_rows` were kept in `bad_rows_to`; they are none of `events`.
    """

    rows: int = 0
    events: int = 0
    batches: int = 0
    bad_rows: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, other: WriteReport) -> None:
        """Count another part in."""
        self.rows += other.rows
        self.events += other.events
        self.batches += other.batches
        self.bad_rows += other.bad_rows
        for sink, counts in other.outcomes.items():
            self.outcomes[sink] = dict(Counter(self.outcomes.get(sink, {})) + Counter(counts))


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What all tasks of a write have in common. `write_id` and `received_at_ms` fix its ids, and
    `kind`: a tap never has those of a write."""

    pipeline: str
    namespace: str
    write_id: str
    received_at_ms: int
    mapping: RowMapping
    bad_rows_to: str | None = None
    kind: Literal["write", "tap", "blocks"] = "write"

    def producer_name(self, task: str) -> str:
        """Of a task's producer, from which its ids are made."""
        room = "ray_data" if self.kind == "write" else f"ray_data/{self.kind}"
        return f"{room}/{self.write_id}/{task}"


def plan_under(
    kind: Literal["tap", "blocks"],
    id_name: str,
    own_id: str | None,
    mapping: RowMapping,
    received_at_ms: int | None,
    bad_rows_to: str | Path | None,
    *,
    pipeline: str = "",
    namespace: str = "",
) -> WritePlan:
    """The plan of what is sent under `own_id`, given as the argument `id_name`, or a new id.

    Raises ConfigError, see `time_of`.
    """
    if own_id is None:
        own_id, received_at_ms = new_id(received_at_ms)
    else:
        received_at_ms = time_of(id_name, own_id, received_at_ms, mapping)
    kept = None if bad_rows_to is None else str(Path(bad_rows_to).absolute())
    # Without a time each row has one, in a column.
    return WritePlan(pipeline, namespace, own_id, received_at_ms or 0, mapping, kept, kind)


def id_base(name: str) -> tuple[bytes, int]:
    """Producer and epoch of the batches known by that name, the same each time."""
    data = name.encode()
    return xxhash.xxh3_128_digest(data), int(xxhash.xxh3_64_intdigest(data)) >> 1


class Settling:
    """Batches under ids made from `name` and their numbers, settled before a task ends.

    The ids are the same each time, and no lane forgets them before their epoch expires. Raises
    WriteFailedError from any of its methods once the pipeline has gone, which would otherwise be
    waited for without an end.
    """

    def __init__(self, joined: Joined, name: str, title: str) -> None:
        self._title = title
        self._joined = joined
        self._origin, self._epoch = id_base(name)
        self._producer: Producer = joined.producer(name)
        self._tickets: list[tuple[int, BatchTicket]] = []
        self.events = 0
        """In all batches so far."""
        self._is_gone = False
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, name="watch-pipeline", daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            if not self._joined.is_there():
                self._is_gone = True
                self._producer.abandon()
                return

    def submit(self, batch: Batch, number: int) -> None:
        """Send a batch under that number; on return its buffers may be used again."""
        batch_id = BatchId(self._origin, self._epoch, number)
        try:
            ticket = self._producer.submit_as(batch, batch_id, 0)
            self._tickets.append((batch.header.event_count, ticket))
            self.events += batch.header.event_count
        except RuntimeError as error:
            raise self._gone(error) from None

    def submit_block(self, headers: Sequence[BatchHeader], reference: Any, held_bytes: int) -> None:
        """Send batches that have their ids, all of one producer and epoch, by the block they
        lie in, of which the window holds so many bytes."""
        try:
            tickets = self._producer.submit_reference(headers, reference, held_bytes)
        except RuntimeError as error:
            raise self._gone(error) from None
        self._tickets += zip((header.event_count for header in headers), tickets, strict=True)
        self.events += sum(header.event_count for header in headers)

    def settle(self) -> WriteReport:
        """Wait until all is settled by every required sink; what became of it.

        Raises WriteFailedError if a sink refused a batch: it has another one of that id.
        """
        while True:
            if self._is_gone:
                raise self._gone(None)
            try:
                self._producer.flush(LOOK_S)
                break
            except DrainTimeoutError:
                continue
        report = WriteReport(batches=len(self._tickets))
        for events, ticket in self._tickets:
            report.events += events
            for sink, outcome in self._outcomes(ticket).items():
                counts = report.outcomes.setdefault(sink, {})
                counts[outcome] = counts.get(outcome, 0) + events
        return report

    def _outcomes(self, ticket: BatchTicket) -> dict[str, str]:
        try:
            return dict(ticket.result(0))
        except BatchConflictError as error:
            raise WriteFailedError(
                f"{self._title}: {error}. An earlier try under this id had other rows here: what "
                "makes the rows must give the same each time, in the same order"
            ) from None

    def _gone(self, error: Exception | None) -> WriteFailedError:
        if not self._is_gone:
            return WriteFailedError(f"{self._title}: {error}")
        settled = sum(1 for _, ticket in self._tickets if ticket.done())
        return WriteFailedError(
            f"{self._title}: pipeline {self._joined.name!r} is gone; {settled} of "
            f"{len(self._tickets)} batches sent are durable"
        )

    def may_stop(self, report: WriteReport, tries: int) -> bool:
        """Whether all arrived somewhere; otherwise everything is to be sent again, under its ids.

        What an earlier try of a task had under way is lost with its process, and the router
        takes the same id for the same batch until it has an answer. Raises WriteFailedError
        after TRIES_MAX.
        """
        lost = max((counts.get(LOST, 0) for counts in report.outcomes.values()), default=0)
        if not lost:
            return True
        if tries >= TRIES_MAX:
            raise WriteFailedError(f"{self._title}: {lost} events were lost on their way each time")
        self._tickets, self.events = [], 0
        return False

    def close(self) -> None:
        """Let go of the producer, whatever is unsettled."""
        self._ended.set()
        self._producer.abandon()


def write_blocks(plan: WritePlan, task: str, tables: Callable[[], Any]) -> WriteReport:
    """Send the rows of all blocks; on return they are durable in every required sink.

    Raises WriteFailedError, BadRowsError that names rows and columns, ConfigError.
    """
    title = f"{plan.kind} {plan.write_id!r}, task {task}"
    try:
        joined = Joined(plan.pipeline, plan.namespace)
        settling = Settling(joined, plan.producer_name(task), title)
    except (ConfigError, TransientError) as error:
        raise WriteFailedError(f"{title}: {error}") from None
    kept: list[pa.Table] = []
    bad = tries = 0
    try:
        while True:
            number = 0
            for place, table in enumerate(kept if tries else tables()):
                if not tries:
                    kept.append(table)  # Ray Data keeps them too until the task ends
                good, bad_here = good_rows(plan, task, place, table, title)
                bad += 0 if tries else bad_here
                for batch in good.batches():
                    settling.submit(batch, number)
                    number += 1
            report, tries = settling.settle(), tries + 1
            if settling.may_stop(report, tries):
                break
    finally:
        settling.close()
    report.rows, report.bad_rows = sum(table.num_rows for table in kept), bad
    return report


def good_rows(
    plan: WritePlan, task: str, place: int, table: pa.Table, title: str
) -> tuple[BlockRows, int]:
    """The rows of a block that can be sent, and how many can't and were kept elsewhere."""
    rows = BlockRows(table, plan.mapping, plan.received_at_ms)
    bad = rows.bad_rows
    if not bad:
        return rows, 0
    if plan.bad_rows_to is None:
        reasons = tuple(f"row {row}: {text}" for row, text in list(bad.items())[:SHOWN_MAX])
        raise BadRowsError(f"{title}, block {place}", len(bad), reasons)
    _keep_bad_rows(Path(plan.bad_rows_to) / plan.write_id, f"{task}-{place}", table, bad)
    is_good = pa.array([row not in bad for row in range(table.num_rows)])
    return BlockRows(table.filter(is_good), plan.mapping, plan.received_at_ms), len(bad)


def _keep_bad_rows(folder: Path, name: str, table: pa.Table, bad: dict[int, str]) -> None:
    """The rows as they came and why, as a file that a second try replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = table.take(pa.array(list(bad), pa.int64()))
    kept = kept.append_column("reason", pa.array(list(bad.values())))
    unfinished = folder / f".{name}.parquet"
    pq.write_table(kept, unfinished)
    unfinished.replace(folder / f"{name}.parquet")
