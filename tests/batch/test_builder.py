"""Batches are built of messages, and their buffers used again."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import xxhash

from cdp_ray_sinks.batch.batch import NO_PRODUCER
from cdp_ray_sinks.batch.builder import BatchBuilder, batch_of_messages
from cdp_ray_sinks.batch.message_run import MessageRun

HOUR_MS = 3_600_000
IP = bytes(range(16))


def run_of(messages: list[bytes]) -> MessageRun:
    """A checked run of workspace 5."""
    stream = b"".join(struct.pack(">I", len(message)) + message for message in messages)
    run = MessageRun(len(messages) + 1)
    run.index(np.frombuffer(stream, np.uint8), 0, len(stream), 2**24)
    run.check(workspace_id=5)
    return run


def append(builder: BatchBuilder, run: MessageRun, first: int = 0, at_ms: int = 10) -> int:
    """Append all of the run from `first` on."""
    everything = np.arange(run.count)
    return builder.append(
        run, everything, first, received_at_ms=at_ms, monotonic_ms=at_ms,
        peer_ip=np.frombuffer(IP, np.uint8),
    )  # fmt: skip


def test_a_batch_says_what_is_in_it(maker: Any) -> None:
    """Counts, times, checksum, offsets and the records themselves."""
    messages = [maker.message(n) for n in (3, 1, 2)]
    builder = BatchBuilder(5, 1, "here")
    assert append(builder, run_of(messages), at_ms=77) == 3
    header = builder.build().header
    records = b"".join(maker.record(message, 77, IP) for message in messages)
    assert builder.build().records.tobytes() == records
    assert header.message_count == 3
    assert (header.event_count, header.event_types) == (6, 2)
    assert (header.time_min_ms, header.time_max_ms) == (maker.start_ms, maker.start_ms + 2)
    assert (header.producer, header.epoch, header.sequence) == (NO_PRODUCER, 0, 0)
    assert (header.workspace_id, header.schema_type, header.source_id) == (5, 1, "here")
    assert header.received_at_ms == builder.opened_at_monotonic_ms == 77
    assert header.checksum == xxhash.xxh3_64_intdigest(records)
    sizes = [28 + len(message) for message in messages]
    assert builder.build().offsets.tolist() == [0, *np.cumsum(sizes).tolist()]


def test_a_full_builder_stops_between_messages_and_goes_on_after_reset(maker: Any) -> None:
    """Nothing is lost or repeated over many small batches, and the bound is kept."""
    messages = [maker.message(1, filler=b"%d" % n * (n % 7)) for n in range(500)]
    run = run_of(messages)
    builder = BatchBuilder(5, 1, "here", records_bytes_max=2000)
    landed: list[bytes] = []
    place = 0
    while place < run.count:
        place = append(builder, run, place)
        batch = builder.build()
        assert batch.header.record_bytes <= 2000
        assert batch.header.checksum == xxhash.xxh3_64_intdigest(batch.records)
        landed += [bytes(message) for message in batch.messages()]
        builder.reset()
    assert landed == messages
    assert builder.held_bytes < 10_000


def test_the_message_count_is_bounded_too(maker: Any) -> None:
    """A batch of tiny messages ends at the bound, then the builder is full."""
    run = run_of([maker.message(1)] * 1000)
    builder = BatchBuilder(5, 1, "here", message_count_max=600)
    assert append(builder, run) == 600
    assert builder.is_full
    builder.reset()
    assert append(builder, run, 600) == 1000
    assert not builder.is_full


def test_a_message_larger_than_the_bound_has_a_batch_to_itself(maker: Any) -> None:
    """It neither joins others nor is it refused, and its memory is not kept."""
    large = maker.message(1, filler=b"x" * 50_000)
    run = run_of([maker.message(1), large, maker.message(1)])
    builder = BatchBuilder(5, 1, "here", records_bytes_max=4096)
    assert append(builder, run) == 1
    builder.reset()
    assert append(builder, run, 1) == 2
    assert builder.is_full
    assert builder.build().header.record_bytes == 28 + len(large)
    builder.reset()
    assert builder.held_bytes < 10_000
    assert append(builder, run, 2) == 3


def test_appending_bit_by_bit_gives_the_same_batch(maker: Any) -> None:
    """The checksum runs along; how the messages came in makes no difference."""
    messages = [maker.message(1, filler=b"%d" % n) for n in range(50)]
    whole, parts = BatchBuilder(5, 1, "here"), BatchBuilder(5, 1, "here")
    append(whole, run_of(messages))
    for message in messages:
        append(parts, run_of([message]))
    assert parts.build().header == whole.build().header
    assert np.array_equal(parts.build().records, whole.build().records)


def test_another_hour_is_refused(maker: Any) -> None:
    """The appender must split there; after reset any hour will do."""
    run = run_of([maker.message(1)])
    builder = BatchBuilder(5, 1, "here")
    append(builder, run, at_ms=HOUR_MS - 1)
    assert not builder.takes_hour_of(HOUR_MS)
    with pytest.raises(ValueError, match="hour"):
        append(builder, run, at_ms=HOUR_MS)
    builder.reset()
    assert append(builder, run, at_ms=HOUR_MS) == 1


def test_an_empty_batch_can_not_be_built() -> None:
    """A batch holds at least one message."""
    with pytest.raises(ValueError, match="at least one"):
        BatchBuilder(5, 1, "here").build()
    with pytest.raises(ValueError, match="at least one"):
        batch_of_messages([])


def test_the_plain_way_takes_anything(maker: Any) -> None:
    """Valid messages are counted and lose their key; others are kept as they are."""
    key = bytes(range(1, 17))
    batch = batch_of_messages([maker.message(2, key=key), b"", b"junk"], workspace_id=8)
    assert (batch.header.message_count, batch.header.event_count) == (3, 2)
    assert (batch.header.workspace_id, batch.header.schema_type) == (8, 1)
    kept = [bytes(message) for message in batch.messages()]
    assert kept == [maker.message(2), b"", b"junk"]
    assert batch_of_messages([b"junk"]).header.schema_type == 0
