"""Bytes that nobody meant to send: never a crash, a lost neighbour, or a value made up.

Each damaged message lies between good ones in a batch. The flatbuffers library, behind a
check of every offset, is the judge of what is valid and of what is in it: the kernels must
take exactly the same messages and read exactly the same values. `CDP_FUZZ_ROUNDS` says how
many messages are damaged (20000 if unset).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.count import count_records
from cdp_ray_sinks.batch.kernels.tables import BUDGET_FACTOR
from cdp_ray_sinks.errors import MalformedMessageError

ROUNDS = int(os.environ.get("CDP_FUZZ_ROUNDS", "20000"))
MESSAGES_A_BATCH = 100
INTERESTING = (0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 127, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF)
RECORD_COLUMNS = ["message_index", "received_at_ms", "source_ip"]

Rows = list[dict[str, Any]]


def seeds(oracle: Any, schema_type: int) -> list[bytes]:
    """Small valid messages of every layout there is."""
    count = 3
    ones = np.ones(count, np.uint8)
    bodies = pa.array([b'{"n":1}', b"x" * 200, None])
    texts = pa.array(["checkout_started", None, "A name that is longer than 16"])
    devices = pa.array([b"\x91" * 16, None, b"\x92" * 16], pa.binary(16))
    found = []
    for layout in ("sdk", "collector"):
        form: dict[str, Any] = {"events_per_message": count, "as_frames": True, "layout": layout}
        if schema_type == 2:
            frames, _ = encode_logs(ones, None, ones, devices, texts, texts, bodies, **form)
        else:
            services = texts if layout == "sdk" else None
            frames, _ = encode_events(ones, ones, devices, devices, texts, services, bodies, **form)
        found += oracle.frames(frames.tobytes())
    id_16, text, body = b"\x91" * 16, b"checkout_started", b'{"n":1}'
    if schema_type == 2:
        row = [("u8", 1), id_16, ("u8", 3), ("u64", 5), text, text, body]
    else:
        row = [("u8", 1), ("u64", 5), text, id_16, id_16, text, body]
    found.append(oracle.build_rows([row, row[:4], row], schema_type))
    found.append(oracle.build_rows([row, row, row], schema_type, shared=True))
    return found


def damaged(chance: random.Random, message: bytes, other: bytes) -> bytes:
    """`message` with one to four things wrong."""
    content = bytearray(message)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if len(content) < 12:
            break
        place = chance.randrange(len(content) - 8)
        match chance.randrange(8):
            case 0:
                content[place] ^= 1 << chance.randrange(8)
            case 1:
                content[place] = chance.randrange(256)
            case 2:
                content[place : place + 2] = chance.choice(INTERESTING).to_bytes(8, "little")[:2]
            case 3:
                content[place : place + 4] = chance.choice(INTERESTING).to_bytes(8, "little")[:4]
            case 4:  # near the right value: reaches just outside, or into a neighbour
                place &= ~3
                value = int.from_bytes(content[place : place + 4], "little")
                value = (value + chance.choice((-8, -4, -1, 1, 4, 8, len(content)))) % 2**32
                content[place : place + 4] = value.to_bytes(4, "little")
            case 5:
                del content[place:]
            case 6:
                start = chance.randrange(len(other))
                end = min(len(other), start + chance.randrange(1, 64))
                content[place : place + end - start] = other[start:end]
            case 7:  # another field's offset: vectors overlap
                source = chance.randrange(len(content) - 4) & ~3
                content[place & ~3 : (place & ~3) + 4] = content[source : source + 4]
    return bytes(content)


def batches(oracle: Any, schema_type: int, rounds: int) -> Iterator[tuple[Batch, list[bytes]]]:
    """Batches in which every second message is damaged."""
    chance = random.Random(20 + schema_type)
    good = seeds(oracle, schema_type)
    for first in range(0, rounds, MESSAGES_A_BATCH):
        messages = []
        for _ in range(min(MESSAGES_A_BATCH, rounds - first)):
            messages += [
                chance.choice(good),
                damaged(chance, chance.choice(good), chance.choice(good)),
            ]
        yield oracle.batch(messages, schema_type, event_count=chance.choice((0, 10**6))), messages


def judged(read: Callable[[bytes], Rows], message: bytes) -> Rows | None:
    """The rows of a message, None if it is damaged."""
    try:
        return read(message)
    except MalformedMessageError:
        return None


def compare(
    batch: Batch, messages: list[bytes], decoded: Any, read: Callable[[bytes], Rows]
) -> None:
    """The decoder's rows are those of the judge, message by message."""
    table = decoded.table
    table.validate(full=True)
    found: dict[int, Rows] = {place: [] for place in range(len(messages))}
    indexes = table["message_index"].to_pylist()
    for index, row in zip(indexes, table.drop_columns(RECORD_COLUMNS).to_pylist(), strict=True):
        found[index].append(row)
    refused = set(decoded.damaged.tolist())
    for place, message in enumerate(messages):
        expected = judged(read, message)
        assert (place in refused) == (expected is None), (place, message.hex())
        assert found[place] == (expected or []), message.hex()


def is_of_schema(oracle: Any, message: bytes, schema_type: int) -> bool:
    """Whether the envelope is sound and says so."""
    try:
        oracle.data_of(message, schema_type)
    except MalformedMessageError:
        return False
    return True


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_damaged_events_are_taken_exactly_if_the_library_takes_them(
    oracle: Any, dialect: Any
) -> None:
    """Read as one dialect, kernel and generated readers agree on every byte string."""
    buffers = DecodeBuffers()
    for batch, messages in batches(oracle, 1, ROUNDS // 4):
        decoded = decode_events(batch, dialect, buffers)
        compare(batch, messages, decoded, lambda message: oracle.events(message, dialect))


def test_damaged_log_entries_are_taken_exactly_if_the_library_takes_them(oracle: Any) -> None:
    """Kernel and generated readers agree on every byte string."""
    buffers = DecodeBuffers()
    for batch, messages in batches(oracle, 2, ROUNDS // 4):
        compare(batch, messages, decode_logs(batch, buffers), oracle.logs)


def test_told_apart_by_itself_a_damaged_table_is_one_dialect_or_the_other(oracle: Any) -> None:
    """Every row that "auto" gives is the row that "v1" or "v2" gives, and as many of them.

    Counting comes to the same verdict as decoding, and no message gives more than its budget.
    """
    auto, first, second = DecodeBuffers(), DecodeBuffers(), DecodeBuffers()
    for batch, messages in batches(oracle, 1, ROUNDS // 4):
        decoded = decode_events(batch, buffers=auto)
        tables = [
            decode_events(batch, "v1", first).table.to_pylist(),
            decode_events(batch, "v2", second).table.to_pylist(),
        ]
        rows = decoded.table.to_pylist()
        for row, as_collector, as_sdk in zip(rows, *tables, strict=True):
            assert row in (as_collector, as_sdk)
        counted = np.empty((len(messages), 5), np.int64)
        count_records(readonly(batch.records), readonly(batch.offsets), 1, counted)
        index = decoded.table["message_index"].to_numpy()
        events = np.bincount(index, minlength=len(messages))
        # Counting leaves the schema in the envelope to its caller.
        is_event = np.array([is_of_schema(oracle, message, 1) for message in messages])
        assert (counted[is_event, 1] == events[is_event]).all()
        unpacked = np.zeros(len(messages), np.int64)
        for place, row in zip(index.tolist(), rows, strict=True):
            unpacked[place] += sum(
                len(row[name] or b"") for name in ("payload", "service", "event_name")
            )
        assert (unpacked <= BUDGET_FACTOR * np.array([len(m) for m in messages])).all()


class Guarded:
    """Memory that ends where a page begins that nobody may touch."""

    def __init__(self) -> None:
        self._pages: list[mmap.mmap] = []

    def array(self, content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        page = mmap.PAGESIZE
        whole = -(-max(len(content), 1) // page) * page
        memory = mmap.mmap(-1, whole + page)
        memory[whole - len(content) : whole] = content
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        no_access = 0
        assert libc.mprotect(ctypes.c_void_p(address + whole), page, no_access) == 0
        self._pages.append(memory)
        return np.frombuffer(memory, np.uint8, len(content), whole - len(content))


def test_nothing_is_read_behind_the_records(oracle: Any) -> None:
    """The records of a batch may end where the process's memory ends."""
    chance = random.Random(7)
    guarded = Guarded()
    for schema_type, decode in ((1, decode_events), (2, decode_logs)):
        good = seeds(oracle, schema_type)
        buffers = DecodeBuffers()
        for _ in range(300):
            last = damaged(chance, chance.choice(good), chance.choice(good))
            batch = oracle.batch([chance.choice(good), last], schema_type)
            records = guarded.array(batch.records.tobytes())
            expected = decode(batch).table.to_pylist()
            found = decode(Batch(batch.header, records, batch.offsets), buffers=buffers)
            assert found.table.to_pylist() == expected


def test_bytes_at_random_are_no_message(oracle: Any) -> None:
    """Noise decodes to nothing and breaks nothing."""
    noise = np.random.default_rng(3)
    messages = [noise.bytes(int(noise.integers(0, 200))) for _ in range(2000)]
    for schema_type, decode in ((1, decode_events), (2, decode_logs)):
        decoded = decode(oracle.batch(messages, schema_type))
        assert decoded.table.num_rows == 0
        assert len(decoded.damaged) == len(messages)


def test_offsets_at_random_break_nothing(oracle: Any) -> None:
    """Whatever a batch's offsets claim, nothing outside its records is touched."""
    good = seeds(oracle, 1)
    batch = oracle.batch(good * 5)
    chance = np.random.default_rng(5)
    for _ in range(300):
        offsets = batch.offsets.copy()
        places = chance.integers(0, len(offsets), 3)
        shifts = chance.integers(0, 64, 3, np.uint64)
        offsets[places] = chance.integers(0, 2**64, 3, np.uint64) >> shifts
        decoded = decode_events(Batch(batch.header, batch.records, offsets))
        decoded.table.validate(full=True)


def test_a_header_that_lies_only_costs_time(oracle: Any) -> None:
    """Counts in the header size the first try and decide nothing."""
    message = oracle.build_rows([[("u8", 1), ("u64", 5), None, None, None, b"x", b"{}"]] * 50)
    for claimed in (0, 1, 2**62):
        batch = oracle.batch([message] * 20, event_count=claimed)
        assert decode_events(batch).table.num_rows == 1000
    header = BatchHeader(NO_PRODUCER, 0, 0, 2, 0, 1, "t", 0, 99, -5, 1, 0)
    batch = oracle.batch([message])
    assert decode_events(Batch(header, batch.records, batch.offsets)).table.num_rows == 50
