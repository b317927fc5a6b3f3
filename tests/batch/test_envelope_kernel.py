"""Envelopes of real, bent and hostile messages, with the flatbuffers library as the oracle."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import flatbuffers.table
import numpy as np
import pytest

from cdp_ray_sinks.batch.builder import BatchBuilder, batch_of_messages
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_COLUMNS,
    FACT_EVENT_COUNT,
    FACT_IS_DECODABLE,
    FACT_KEY_OFFSET,
    FACT_SCHEMA_TYPE,
    FACT_SOURCE_IP_OFFSET,
    FACT_STATUS,
    FACT_VERSION,
    FACT_WORKSPACE,
    MESSAGE_MALFORMED,
    MESSAGE_OK,
    MESSAGE_UNKNOWN_KEY,
)
from cdp_ray_sinks.batch.kernels.key_table import key_table_of
from cdp_ray_sinks.batch.message_run import MessageRun

ROUNDS = int(os.environ.get("CDP_FUZZ_ROUNDS", "20000"))
KEY = bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90")
IP = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
CAPTURES = {
    "rust_encoding_0.5.0_frames.bin": bytes.fromhex("feed1e11" * 4),
    "collector_dialect_frames.bin": bytes(range(16)),
}


def make_message(
    key: bytes | None = KEY,
    data: bytes | None = b"\0" * 24,
    source_ip: bytes | None = None,
    schema_type: int = 1,
    version: int = 100,
    batch_id: int = 7,
) -> bytes:
    """An envelope as a general FlatBuffers builder lays it out; None leaves a field out."""
    builder = flatbuffers.Builder(256)
    vectors = [
        None if content is None else builder.CreateByteVector(content)
        for content in (data, key, source_ip)
    ]
    builder.StartObject(6)
    for slot, vector in zip((4, 0, 5), vectors, strict=True):
        if vector is not None:
            builder.PrependUOffsetTRelativeSlot(slot, vector, 0)
    builder.PrependUint64Slot(3, batch_id, 0)
    builder.PrependUint8Slot(1, schema_type, 0)
    builder.PrependUint8Slot(2, version, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def check(messages: list[bytes], guard: int = 0) -> np.ndarray:
    """The facts of the messages, each with 64 guard bytes on both sides."""
    run = MessageRun(len(messages))
    fence = bytes([guard]) * 64
    run.buffer = np.frombuffer(fence + b"".join(m + fence for m in messages), np.uint8)
    run.count = len(messages)
    run.lengths[:] = [len(message) for message in messages]
    run.starts[0] = 64
    run.starts[1:] = 64 + np.cumsum(run.lengths + 64)[:-1]
    run.check(key_table_of(KEY, [42]))
    return run.facts[: run.count].copy()


class Envelope(NamedTuple):
    """What the oracle reads of a valid envelope."""

    key_at: int
    key: bytes
    schema_type: int
    version: int
    batch_id: int
    data: bytes
    source_ip: bytes | None
    source_ip_at: int


class RefusedError(Exception):
    """The oracle says that the envelope is not valid."""


class Oracle:
    """Reads an envelope slowly, noting each byte that it looks at."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.read: set[int] = set()

    def take(self, kind: str, at: int) -> int:
        width = struct.calcsize("<" + kind)
        if at < 0 or at + width > len(self.message):
            raise RefusedError
        self.read.update(range(at, at + width))
        return int(struct.unpack_from("<" + kind, self.message, at)[0])

    def vector(self, at: int) -> tuple[int, bytes]:
        start = at + self.take("I", at)
        count = self.take("I", start)
        if start + 4 + count > len(self.message):
            raise RefusedError
        return start + 4, self.message[start + 4 : start + 4 + count]

    def envelope(self) -> Envelope:
        if len(self.message) < 8:
            raise RefusedError
        table = self.take("I", 0)
        vtable = table - self.take("i", table)
        extent = self.take("H", vtable)
        table_bytes = self.take("H", vtable + 2)
        if extent < 4 or extent % 2 or vtable + extent > len(self.message):
            raise RefusedError
        self.read.update(range(vtable, vtable + extent))
        self.read.update(range(table, table + table_bytes))
        count = (extent - 4) // 2
        slots = [self.take("H", vtable + 4 + 2 * n) if n < count else 0 for n in range(6)]
        at = [table + slot if slot else None for slot in slots]
        if at[0] is None or at[4] is None:
            raise RefusedError
        key_at, key = self.vector(at[0])
        data_at, data = self.vector(at[4])
        self.read.update(range(data_at, data_at + len(data)))
        ip_at, ip = self.vector(at[5]) if at[5] is not None else (-1, None)
        if ip is not None:
            self.read.update(range(ip_at, ip_at + len(ip)))
        schema_type = self.take("B", at[1]) if at[1] is not None else 0
        version = self.take("B", at[2]) if at[2] is not None else 0
        batch_id = self.take("Q", at[3]) if at[3] is not None else 0
        if len(key) != 16 or self.read & set(range(key_at, key_at + 16)):
            raise RefusedError
        if ip is not None and len(ip) != 16:
            ip, ip_at = None, -1
        return Envelope(key_at, key, schema_type, version, batch_id, data, ip, ip_at)


def judge(message: bytes) -> Envelope | None:
    try:
        return Oracle(message).envelope()
    except RefusedError:
        return None


def library_view(message: bytes) -> tuple[object, ...]:
    """All fields but the key, as the flatbuffers library reads them."""
    root = int(flatbuffers.encode.Get(flatbuffers.packer.uoffset, message, 0))
    table = flatbuffers.table.Table(bytearray(message), root)

    def content(slot: int) -> bytes | None:
        offset = table.Offset(4 + 2 * slot)
        if not offset:
            return None
        start = table.Vector(offset)
        return message[start : start + table.VectorLen(offset)]

    def scalar(slot: int, flags: type) -> int:
        offset = table.Offset(4 + 2 * slot)
        return int(table.Get(flags, table.Pos + offset)) if offset else 0

    numbers = flatbuffers.number_types
    return (
        scalar(1, numbers.Uint8Flags), scalar(2, numbers.Uint8Flags),
        scalar(3, numbers.Uint64Flags), content(4), content(5),
    )  # fmt: skip


def compare(messages: list[bytes]) -> tuple[int, int]:
    """Hold the kernel's facts against both oracles; (taken, refused)."""
    facts = check(messages, 0)
    assert np.array_equal(facts, check(messages, 0xFF)), "it looked outside a message"
    taken = 0
    for row, message in zip(facts, messages, strict=True):
        expected = judge(message)
        if expected is None:
            assert row[FACT_STATUS] == MESSAGE_MALFORMED, message.hex()
            continue
        known = expected.key == KEY
        assert row[FACT_STATUS] == (MESSAGE_OK if known else MESSAGE_UNKNOWN_KEY), message.hex()
        assert row[FACT_WORKSPACE] == (42 if known else 0)
        assert row[FACT_KEY_OFFSET] == expected.key_at
        assert row[FACT_SCHEMA_TYPE] == expected.schema_type
        assert row[FACT_VERSION] == expected.version
        assert row[FACT_SOURCE_IP_OFFSET] == expected.source_ip_at
        zeroed = bytearray(message)
        zeroed[expected.key_at : expected.key_at + 16] = bytes(16)
        again = judge(bytes(zeroed))
        assert again == expected._replace(key=bytes(16)), message.hex()
        assert library_view(bytes(zeroed)) == library_view(message)
        taken += 1
    return taken, len(messages) - taken


def base_messages() -> list[bytes]:
    found = [
        make_message(),
        make_message(source_ip=IP),
        make_message(source_ip=b"four"),
        make_message(data=b"", batch_id=0),
        make_message(schema_type=0, version=0),
        make_message(key=bytes(16)),
    ]
    folder = os.environ.get("CDP_CAPTURES")
    if folder:
        for name, key in CAPTURES.items():
            content = (Path(folder) / name).read_bytes()
            while content:
                end = 4 + int.from_bytes(content[:4])
                found.append(content[4:end].replace(key, KEY))
                content = content[end:]
    return found


def mutated(random: np.random.Generator, count: int) -> Iterator[bytes]:
    """Messages bent at random: bytes, 16 and 32-bit values near the head, cuts, swaps."""
    bases = base_messages()
    for _ in range(count):
        message = bytearray(bases[random.integers(len(bases))])
        for _ in range(random.integers(1, 4)):
            way = random.integers(6)
            head = min(len(message), 96)
            if way == 0:
                message[random.integers(len(message))] = random.integers(256)
            elif way == 1:
                message[random.integers(head)] = random.integers(64)
            elif way == 2 and head >= 8:
                at = int(random.integers(head - 3))
                value = int(random.choice([0, 1, 16, 17, 2**31 - 1, 2**31, 2**32 - 1]))
                message[at : at + 4] = struct.pack("<I", value)
            elif way == 3 and head >= 8:
                at = int(random.integers(head // 4)) * 4
                message[at : at + 4] = struct.pack("<I", random.integers(len(message) + 8))
            elif way == 4 and head >= 8:
                at = int(random.integers(head // 2)) * 2
                message[at : at + 2] = struct.pack("<H", random.integers(48))
            elif len(message) > 1:
                del message[int(random.integers(1, len(message))) :]
        yield bytes(message)


def test_whole_messages_are_taken_with_their_fields() -> None:
    """Every base message is valid for both oracles and the kernel."""
    messages = base_messages()
    assert compare(messages) == (len(messages), 0)
    row = check([make_message(source_ip=IP)])[0]
    assert row[FACT_SOURCE_IP_OFFSET] > 0
    assert (row[FACT_STATUS], row[FACT_IS_DECODABLE], row[FACT_EVENT_COUNT]) == (MESSAGE_OK, 0, 0)


def test_mutations_are_judged_as_the_oracles_judge() -> None:
    """No mutation is read outside its bounds, or changed by zeroing its key."""
    random = np.random.default_rng(20260101)
    taken = refused = 0
    for first in range(0, ROUNDS, 5000):
        counts = compare(list(mutated(random, min(5000, ROUNDS - first))))
        taken, refused = taken + counts[0], refused + counts[1]
    assert taken > ROUNDS // 20
    assert refused > ROUNDS // 5


def test_every_cut_of_a_message_is_judged_right() -> None:
    """A message that ends early anywhere is malformed unless nothing needed is missing."""
    for message in base_messages():
        compare([message[:end] for end in range(1, len(message))])


def test_a_key_may_not_share_a_byte_with_anything_that_is_read() -> None:
    """Wherever the key vector is pointed, overlaps with root, vtable, table or data fail."""
    message = bytearray(make_message(source_ip=IP, data=bytes(range(64))))
    table = struct.unpack_from("<I", message)[0]
    vtable = table - struct.unpack_from("<i", message, table)[0]
    slot = table + struct.unpack_from("<H", message, vtable + 4)[0]
    verdicts = []
    for target in range(slot + 4, len(message) - 20):
        bent = bytearray(message)
        struct.pack_into("<I", bent, slot, target - slot)
        struct.pack_into("<I", bent, target, 16)
        verdicts.append(bytes(bent))
    taken, refused = compare(verdicts)
    assert refused > 60
    assert taken >= 1


@pytest.mark.parametrize("key", [None, b"", b"short", KEY[:15], KEY + b"x", KEY * 2])
def test_a_key_of_another_length_is_malformed(key: bytes | None) -> None:
    """Exactly 16 bytes, or it is no key."""
    assert check([make_message(key=key)])[0, FACT_STATUS] == MESSAGE_MALFORMED


def test_a_message_without_data_is_malformed() -> None:
    """Absent data is malformed; empty data is a valid envelope that does not decode."""
    facts = check([make_message(data=None), make_message(data=b"")])
    assert facts[:, FACT_STATUS].tolist() == [MESSAGE_MALFORMED, MESSAGE_OK]
    assert facts[1, FACT_IS_DECODABLE] == 0


def test_bad_messages_leave_their_neighbours_alone() -> None:
    """Good messages between random bytes are all taken."""
    random = np.random.default_rng(1)
    noise = [random.bytes(int(random.integers(0, 200))) for _ in range(500)]
    good = make_message()
    messages = [message for pair in zip(noise, [good] * 500, strict=True) for message in pair]
    facts = check(messages)
    assert (facts[1::2, FACT_STATUS] == MESSAGE_OK).all()
    assert (facts[0::2, FACT_STATUS] == MESSAGE_MALFORMED).all()


def test_keys_are_found_among_many() -> None:
    """Each of 5000 keys leads to its workspace, others to none, also with a near miss."""
    random = np.random.default_rng(2)
    keys = [random.bytes(16) for _ in range(5000)]
    near = [bytearray(key) for key in keys]
    for key in near:
        key[int(random.integers(16))] ^= 1 << int(random.integers(8))
    message = make_message()
    messages = [message.replace(KEY, bytes(key)) for key in [*keys, *near]]
    run = MessageRun(len(messages))
    run.buffer = np.frombuffer(b"".join(messages), np.uint8)
    run.count = len(messages)
    run.lengths[:] = len(message)
    run.starts[:] = np.arange(len(messages)) * len(message)
    run.check(key_table_of(b"".join(keys), list(range(1, 5001))))
    assert run.facts[:, FACT_WORKSPACE].tolist() == [*range(1, 5001), *([0] * 5000)]
    assert (run.ok_count, run.unknown_key_count) == (5000, 5000)


def test_a_workspace_that_is_known_needs_no_key() -> None:
    """Archived messages have zeros for a key; their workspace comes from their place."""
    batch = batch_of_messages([make_message(key=bytes(16))], workspace_id=9)
    assert batch.header.workspace_id == 9
    run = MessageRun(1)
    run.buffer = np.frombuffer(make_message(key=bytes(16)), np.uint8)
    run.count, run.lengths[0] = 1, len(run.buffer)
    run.check()
    assert run.unknown_key_count == 1
    run.check(workspace_id=9)
    assert (run.ok_count, run.facts[0, FACT_WORKSPACE]) == (1, 9)


def test_records_hold_messages_as_received_but_for_the_key() -> None:
    """Mutated messages that are taken land byte for byte, with 16 zeros."""
    random = np.random.default_rng(3)
    messages = [m for m in mutated(random, 3000) if judge(m) is not None]
    batch = batch_of_messages(messages, workspace_id=3, schema_type=1, source_ip=IP)
    landed = [bytes(message) for message in batch.messages()]
    for message, kept in zip(messages, landed, strict=True):
        at = judge(message).key_at  # type: ignore[union-attr]
        assert kept == message[:at] + bytes(16) + message[at + 16 :]
    assert KEY not in batch.records.tobytes()


def test_places_outside_the_buffer_are_malformed() -> None:
    """Starts and lengths that lie are refused, never followed."""
    run = MessageRun(6)
    run.buffer = np.frombuffer(make_message(), np.uint8)
    run.count = 6
    run.starts[:] = [-1, 0, 10**12, 5, 0, -(10**12)]
    run.lengths[:] = [10, 10**12, 5, -3, 0, 10**12 + 5]
    run.check(workspace_id=1)
    assert (run.facts[:, FACT_STATUS] == MESSAGE_MALFORMED).all()
    assert run.facts.shape[1] == FACT_COLUMNS
    builder = BatchBuilder(1, 1, "x")
    assert run.ok_count == builder.message_count == 0
