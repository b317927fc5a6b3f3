"""For tests of sinks, ours and yours: batches that can be told apart, a clock that waits.

`check_sink` runs the promises of `sinks.base.Sink` on any sink; a sink of your own passes
it before it goes behind an actor.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

import lz4.frame
import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, BatchId
from cdp_ray_sinks.batch.enums import LENGTH_BYTES, METADATA_BYTES, RECORD_PREFIX_BYTES, EventType
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import BatchConflictError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.sinks.base import KeepsLedger, Sink, SinkConfig, SinkContext

RECEIVED_AT_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC."""
TEST_PRODUCER = b"test-producer-id"
_ALL: Final = 2**62


class NewBatch(Protocol):
    """Makes the batches that a sink is checked with: `numbered_batch` or `numbered_events`."""

    def __call__(
        self, number: int, workspace_id: int, record_bytes: int, messages: int = 1
    ) -> Batch:
        """A batch of so many records of about that size, all of which carry the number."""
        ...


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int = RECEIVED_AT_MS) -> None:
        self._now_ms = now_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        """Wall time, milliseconds since the Unix epoch."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Milliseconds told so far."""
        return self._monotonic_ms

    def sleep_ms(self, duration_ms: int) -> None:
        """Move on by so much, at once."""
        self._now_ms += duration_ms
        self._monotonic_ms += duration_ms


class KeptTicket:
    """The ticket of a batch that was kept: done at once."""

    def done(self) -> bool:
        """Always."""
        return True

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        """No sink has anything to say."""
        return {}


class BatchKeeper:
    """Takes batches from a source in the producer's place and keeps copies of them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._named: dict[BatchId, int] = {}

    def submit(self, batch: Batch) -> KeptTicket:
        """Keep a copy; the caller's buffers are free on return."""
        self.batches.append(
            Batch(batch.header, batch.records.copy(), batch.offsets.copy(), batch.pattern_ids)
        )
        return KeptTicket()

    def submit_as(self, batch: Batch, batch_id: BatchId, low: int) -> KeptTicket:
        """Keep a copy under that id, unless it is there; BatchConflictError with other content."""
        known = self._named.setdefault(batch_id, batch.header.checksum)
        if known != batch.header.checksum:
            raise BatchConflictError(f"batch {batch_id} came again with other content")
        if batch_id not in {kept.header.batch_id for kept in self.batches}:
            self.submit(replace(batch, header=batch.header._replace(**batch_id._asdict())))
        return KeptTicket()

    def submit_packed(self, batches: Sequence[Batch]) -> Sequence[KeptTicket]:
        """Keep a copy of each."""
        return [self.submit(batch) for batch in batches]


def numbered_batch(
    number: int,
    workspace_id: int = 1,
    record_bytes: int = 100_000,
    messages: int = 1,
    received_at_ms: int = RECEIVED_AT_MS,
) -> Batch:
    """A batch whose messages all begin with `number` (u64, little-endian) and differ by it.

    `record_bytes` is that of each record, at least 36. The id is (TEST_PRODUCER, 1, number).
    """
    record = np.full(record_bytes, number % 251, np.uint8)
    prefix = received_at_ms.to_bytes(8, "big") + bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
    prefix += (record_bytes - RECORD_PREFIX_BYTES).to_bytes(LENGTH_BYTES, "big")
    record[:RECORD_PREFIX_BYTES] = np.frombuffer(prefix, np.uint8)
    record[RECORD_PREFIX_BYTES : RECORD_PREFIX_BYTES + 8] = np.frombuffer(
        number.to_bytes(8, "little"), np.uint8
    )
    records = np.tile(record, messages)
    header = BatchHeader(
        TEST_PRODUCER, 1, number, 1, 2, workspace_id, "test", received_at_ms, messages,
        messages, len(records), xxh3(records),
    )  # fmt: skip
    offsets = np.arange(messages + 1, dtype=np.uint64) * np.uint64(record_bytes)
    return Batch(header, records, offsets)


def numbered_events(
    number: int,
    workspace_id: int = 1,
    record_bytes: int = 0,
    messages: int = 1,
    received_at_ms: int = RECEIVED_AT_MS,
) -> Batch:
    """As `numbered_batch`, of messages that decode: one event each, `{"n":number}` its payload.

    `record_bytes` is that of each record, where a message is not larger anyway.
    """
    from cdp_ray_sinks.batch.encoding import encode_events

    payload = b'{"n":%d}' % number
    filler = max(0, record_bytes - 200 - RECORD_PREFIX_BYTES)
    if filler:
        payload = payload[:-1] + b',"filler":"' + b"x" * filler + b'"}'
    records, offsets = encode_events(
        [EventType.TRACK] * messages,
        [received_at_ms + place % 1000 for place in range(messages)],
        device_ids=np.tile(np.frombuffer(number.to_bytes(16, "big"), np.uint8), (messages, 1)),
        names=pa.array(["Numbered"] * messages),
        payloads=pa.array([payload] * messages),
        events_per_message=1,
        received_at_ms=received_at_ms,
    )
    header = BatchHeader(
        TEST_PRODUCER, 1, number, 1, 2, workspace_id, "test", received_at_ms, messages,
        messages, len(records), xxh3(records),
    )  # fmt: skip
    return Batch(header, records, offsets)


def numbers_in(base: Path) -> list[int]:
    """The numbers of all records in the .bin and .bin.lz4 files under `base`, in file order.

    Uses neither index nor ledger: records are told by their size alone. Raises ValueError
    at a torn tail.
    """
    found = []
    for path in sorted([*base.rglob("*.bin"), *base.rglob("*.bin.lz4")]):
        data, position = _content(path), 0
        while position < len(data):
            size_at = position + METADATA_BYTES
            message_at = size_at + LENGTH_BYTES
            end = message_at + int.from_bytes(data[size_at:message_at], "big")
            if end > len(data):
                raise ValueError(f"{path} is torn at byte {position}")
            found.append(int.from_bytes(data[message_at : message_at + 8], "little"))
            position = end
    return found


def numbers_in_lines(base: Path) -> list[int]:
    """The numbers of all raw lines in the .log and .log.lz4 files under `base`, in file order.

    Raises ValueError for a torn or any other line.
    """
    found = []
    for path in sorted([*base.rglob("*.log"), *base.rglob("*.log.lz4")]):
        lines = _content(path).split(b"\n")
        if lines.pop():
            raise ValueError(f"{path} is torn in its last line")
        for line in lines:
            match = _RAW_LINE.match(line)
            if match is None:
                raise ValueError(f"{path}: not a raw line: {line[:200]!r}")
            message = bytes.fromhex(match[1].decode()) if match[1] else _unescaped(match[2])
            found.append(int.from_bytes(message[:8], "little"))
    return found


def numbers_in_tables(base: Path) -> list[int]:
    """The numbers of all events in the Parquet files under `base`, in file order.

    Raises what pyarrow raises for a file that is not whole, ValueError for other payloads.
    """
    return _numbers_in_files(sorted(base.rglob("*.parquet")))


def _numbers_in_files(paths: Sequence[Path]) -> list[int]:
    import pyarrow.parquet as pq

    found = []
    for path in paths:
        table = pq.read_table(path, columns=["payload"], partitioning=None)
        found += [_payload_number(text) for text in table["payload"].to_pylist()]
    return found


def numbers_in_warehouse(base: Path) -> list[int]:
    """As `numbers_in_tables`, and those of journals under `base` that are not published yet.

    May be called while a sink is at work.
    """
    from cdp_ray_sinks.batch.columns import decode_events
    from cdp_ray_sinks.files.journal_reading import JournalReader
    from cdp_ray_sinks.writers.parquet import read_footer

    journalled: dict[str, list[int]] = {}
    for path in sorted((base / ".journal").rglob("*.bin")):
        reader = JournalReader(path, lambda *at: None)
        reader.read_index()
        payloads = [decode_events(b).table["payload"].to_pylist() for b in reader.take(_ALL, _ALL)]
        journalled[reader.journal_id] = [_payload_number(p.decode()) for p in chain(*payloads)]
    # After the journals, so that what is published meanwhile is seen at least once; looked for
    # once, so that it is seen no more than once.
    paths = sorted(base.rglob("*.parquet"))
    published = {read_footer(path).metadata.get("journal_id") for path in paths}
    waiting = [numbers for name, numbers in journalled.items() if name not in published]
    return [*_numbers_in_files(paths), *chain(*waiting)]


def _payload_number(payload: str) -> int:
    number = json.loads(payload)["n"]
    if not isinstance(number, int):
        raise ValueError(f"not a numbered payload: {payload[:200]}")  # noqa: TRY004
    return number


_RAW_LINE: Final = re.compile(
    rb"\[[^]]+\] \[RAW\] source_ip=[0-9.]+ msg_len=\d+ payload=(?:0x([0-9a-f]{16})|(.{,64}))"
)


def _unescaped(text: bytes) -> bytes:
    """The bytes behind the beginning of an escaped value."""
    short = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\"}
    return re.sub(
        rb"\\(?:x(..)|(.))",
        lambda match: short[match[2]] if match[2] else chr(int(match[1], 16)).encode(),
        text,
    )


def numbers_in_clickhouse(directory: Path) -> list[int]:
    """The numbers of the rows of events_v1 in an embedded ClickHouse, the first of `{"n":…}`.

    While this process has it open; another process has to close it first.
    """
    import clickhouse_connect

    if not directory.exists():
        return []
    client: Any = clickhouse_connect.get_client(interface="chdb", path=str(directory))
    try:
        sql = "SELECT simpleJSONExtractUInt(properties, 'n') FROM cdp.events_v1 ORDER BY 1"
        return [int(row[0]) for row in client.query(sql).result_rows]
    finally:
        client.close()


def _content(path: Path) -> bytes:
    """A file's content, decompressed if it says so; no frame at all is no content."""
    if path.stat().st_size == 0:
        return b""
    with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
        data: bytes = file.read()
    return data


def check_sink(
    config: SinkConfig,
    clock: Clock,
    read_back: Callable[[], Sequence[int]] | None,
    new_batch: NewBatch = numbered_batch,
    state_dir: Path | None = None,
) -> None:
    """Assert what every sink promises. The destination and `state_dir` must be empty.

    `read_back` gives the numbers that are durable there, in the order of each workspace, one
    per message; None for a sink that keeps nothing. `new_batch` is `numbered_events` for a sink
    that decodes.
    """
    assert pickle.loads(pickle.dumps(config)) == config, "the config must travel to its node"
    assert type(config).model_validate(config.model_dump()) == config

    def lands(numbers: list[int]) -> None:
        if read_back is not None:
            assert sorted(read_back()) == sorted(numbers)

    context = SinkContext("checked", clock, state_dir)
    _check_empty_life(config, context)
    lands([])
    sink = config.build(context)
    sink.open()
    expected = _write_each_size(sink, new_batch)
    lands(expected)
    sink.flush()
    sink.tick(clock.now_ms())
    lands(expected)
    _resend(sink, new_batch)
    lands(expected)
    sink.write(new_batch(900, 2, 64))
    sink.close()
    sink.close()
    lands([*expected, 900])
    _check_second_life(config, context, new_batch)
    lands([*expected, 900, 901])


def _check_empty_life(config: SinkConfig, context: SinkContext) -> None:
    """Opening, flushing nothing, ticking and closing twice does nothing."""
    sink = config.build(context)
    sink.open()
    sink.flush()
    assert sink.due_in_ms(context.clock.now_ms()) >= 0
    sink.tick(context.clock.now_ms())
    sink.close()
    sink.close()


def _write_each_size(sink: Sink, new_batch: NewBatch) -> list[int]:
    """One message, ten thousand, a very large one, two workspaces; then one flush."""
    batches = [
        new_batch(1, 1, 36),
        new_batch(2, 1, 40, 10_000),
        new_batch(3, 1, 16 * 1024 * 1024 + RECORD_PREFIX_BYTES),
        new_batch(4, 2, 1_000),
        new_batch(5, 1, 1_000),
    ]
    for batch in batches:
        sink.write(batch)
    sink.flush()
    return [b.header.sequence for b in batches for _ in range(b.header.message_count)]


def _resend(sink: Sink, new_batch: NewBatch) -> None:
    """What a lane does with batches that come again: it writes those the ledger lacks."""
    if not isinstance(sink, KeepsLedger):
        return
    for batch in (new_batch(1, 1, 36), new_batch(5, 1, 1_000)):
        h = batch.header
        if not sink.ledger_for(1).has(h.producer, h.epoch, h.sequence, h.checksum):
            sink.write(batch)
    sink.flush()


def _check_second_life(config: SinkConfig, context: SinkContext, new_batch: NewBatch) -> None:
    """A new sink over the same destination goes on where the first one ended."""
    sink = config.build(context)
    sink.open()
    _resend(sink, new_batch)
    sink.write(new_batch(901, 1, 64))
    sink.flush()
    sink.close()
