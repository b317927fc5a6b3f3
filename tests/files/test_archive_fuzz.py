"""Archives with random damage: never a crash or a hang, never a good neighbour lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.commit_index import (
    ENTRY,
    LZ4,
    RANGE_CHECKSUM,
    RECORDS,
    Commit,
    IndexHeader,
    Seal,
    encode_commit,
    encode_seal,
)
from cdp_ray_sinks.writers.binary import BinaryReader, SeekableBinaryReader

PLAIN_ROUNDS = 250
SOAK_ROUNDS = 100_000


def commits_of(maker: Any, rng: random.Random) -> list[list[Any]]:
    """A few commits of a few batches of a few messages, some of them small, some empty."""
    commits, sequence = [], 0
    for _ in range(rng.randint(1, 4)):
        batches = []
        for _ in range(rng.randint(0, 3)):
            messages = [
                maker.message(rng.randint(1, 3), schema_type=rng.choice([1, 1, 2]))
                if rng.random() < 0.7
                else rng.randbytes(rng.randint(1, 90))
                for _ in range(rng.randint(1, 4))
            ]
            received_at_ms = maker.start_ms + rng.randint(0, 3_000_000)
            batches.append(maker.batch(messages, sequence=sequence, received_at_ms=received_at_ms))
            sequence += 1
        commits.append(batches)
    return commits


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place : place + 8] = rng.choice([bytes(8), b"\xff" * 8, rng.randbytes(8)])


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.randint(1, 60)]


def repeat(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = data[place : place + rng.randint(1, 200)]


def append(data: bytearray, rng: random.Random) -> None:
    data += rng.choice([bytes(100), rng.randbytes(50), data[-90:]])


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip,
    flip,
    flip,
    overwrite,
    cut,
    remove,
    repeat,
    append,
]


def read_everything(path: Path) -> dict[int, bytes]:
    """Ask all readers and `verify`; the batches that came with an id, by sequence."""
    found: dict[int, bytes] = {}
    try:
        with BinaryReader.open(path) as reader:
            for batch in reader.batches():
                assert int(batch.offsets[-1]) == len(batch.records)
                assert len(batch.offsets) == batch.header.message_count + 1
                if batch.header.producer != bytes(16):
                    found[batch.header.sequence] = batch.records.tobytes()
            messages = reader.read_all()
        with SeekableBinaryReader.open(path) as seekable:
            assert len(list(seekable.scan_time_range(0, 2**64))) == len(messages)
            count = 0
            while seekable.skip_message():
                count += 1
            assert count == len(messages)
    except CdpError:
        pass
    report = verify(path)
    assert report.ok == (report.damaged == [])
    return found


def damage_and_read(maker: Any, directory: Path, rounds: int, seed: int) -> None:
    """Damage one of the two files a little, many times, and read all there is."""
    rng = random.Random(seed)
    for round_number in range(rounds):
        if round_number % 50 == 0:
            commits = commits_of(maker, rng)
            name = rng.choice(["data.bin", "data.bin.lz4"])
            path = maker.segment(directory, commits, name=name, is_sealed=rng.random() < 0.7)
            index = path.with_name(name + ".idx")
            originals = {each: each.read_bytes() for each in (path, index)}
            truth = {b.header.sequence: b.records.tobytes() for c in commits for b in c}
        target = rng.choice([path, index])
        data = bytearray(originals[target])
        if not data:
            continue
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            if data:
                rng.choice(MUTATIONS)(data, rng)
        target.write_bytes(data)
        found = read_everything(path)
        for sequence, records in found.items():
            assert truth[sequence] == records
        if target == path and name == "data.bin":
            for sequence, records in untouched(originals[path], bytes(data), commits).items():
                assert found[sequence] == records
        if target == path and name == "data.bin.lz4":
            for sequence in untouched_frames(originals[path], bytes(data), commits, maker):
                assert found[sequence] == truth[sequence]
        target.write_bytes(originals[target])


def untouched_frames(before: bytes, after: bytes, commits: list[list[Any]], maker: Any) -> set[int]:
    """The batches of commits whose frames are where they were, by sequence."""
    start, found = 0, set()
    for commit in commits:
        frame = maker.frame(b"".join(batch.records.tobytes() for batch in commit))
        assert before[start : start + len(frame)] == frame
        if after[start : start + len(frame)] == frame:
            found |= {batch.header.sequence for batch in commit}
        start += len(frame)
    return found


def untouched(before: bytes, after: bytes, commits: list[list[Any]]) -> dict[int, bytes]:
    """The batches whose bytes are where they were, by sequence."""
    start, found = 0, {}
    for batch in (batch for commit in commits for batch in commit):
        end = start + len(batch.records)
        if after[start:end] == before[start:end]:
            found[batch.header.sequence] = before[start:end]
        start = end
    return found


def test_random_damage_costs_only_what_it_hits(maker: Any, tmp_path: Path) -> None:
    """Whatever is mutated, readers end, ids tell the truth, untouched batches are read."""
    damage_and_read(maker, tmp_path, PLAIN_ROUNDS, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_damages(maker: Any, tmp_path: Path, seed: int) -> None:
    """The same, for long."""
    damage_and_read(maker, tmp_path, SOAK_ROUNDS, seed=100 + seed)


def test_any_one_damaged_record_of_a_sealed_index_costs_no_message(
    maker: Any, tmp_path: Path
) -> None:
    """Each part of the index in turn is zeroed; all messages are read all the same."""
    rng = random.Random(3)
    commits = [[maker.batch([maker.message()] * rng.randint(1, 3), sequence=n)] for n in range(5)]
    path = maker.segment(tmp_path, commits)
    total = sum(batch.header.message_count for commit in commits for batch in commit)
    parts = maker.index(commits)
    for place, part in enumerate(parts):
        damaged = [*parts[:place], bytes(len(part)), *parts[place + 1 :]]
        path.with_name("data.bin.idx").write_bytes(b"".join(damaged))
        with BinaryReader.open(path) as reader:
            assert len(reader.read_all()) == total, place
            assert reader.damaged != [] or place == len(parts) - 1


def random_number(rng: random.Random, near: int) -> int:
    return rng.choice(
        [
            0,
            1,
            28,
            near,
            near + 1,
            max(0, near - 1),
            rng.randrange(2**16),
            2**31,
            2**32 - 1,
            2**63,
            2**64 - 1,
        ]
    )


def lying_index(rng: random.Random, data_bytes: int, flags: int) -> bytes:
    """An index of valid records that say anything."""
    parts = [IndexHeader(1, 1, rng.choice([0, 42, 2**63]), 0, flags).to_bytes()]
    position = 0
    for _ in range(rng.randint(1, 4)):
        entries = np.frombuffer(rng.randbytes(ENTRY.itemsize * rng.randint(0, 4)), ENTRY).copy()
        for row in entries:
            row["record_bytes"] = random_number(rng, data_bytes // 4)
            row["message_count"] = random_number(rng, 1) % 2**32
        end = position + sum(entries["record_bytes"].tolist())
        if rng.random() < 0.3:
            end = random_number(rng, data_bytes)
        parts.append(
            encode_commit(Commit(position % 2**64, end % 2**64, rng.getrandbits(64), 0, entries))
        )
        position = end
    if rng.random() < 0.5:
        parts.append(encode_seal(Seal(random_number(rng, data_bytes), 1, 1, 0)))
    return b"".join(parts)


@pytest.mark.parametrize("name", ["data.bin", "data.bin.lz4"])
def test_an_index_that_lies_under_valid_checksums_harms_nobody(
    maker: Any, tmp_path: Path, name: str
) -> None:
    """Offsets, sizes and counts are claims: nothing is read or allocated by them unchecked."""
    rng = random.Random(4)
    path = maker.segment(tmp_path, [[maker.batch([maker.message()] * 4)]], name=name)
    size = path.stat().st_size
    for _ in range(PLAIN_ROUNDS):
        flags = rng.choice([0, RANGE_CHECKSUM, RANGE_CHECKSUM | LZ4 | RECORDS, 0xFFFF])
        path.with_name(name + ".idx").write_bytes(lying_index(rng, size, flags))
        read_everything(path)


@pytest.mark.parametrize("name", ["data.bin", "data.bin.lz4"])
def test_noise_is_not_an_archive(tmp_path: Path, name: str) -> None:
    """Random bytes as data, as index, as both."""
    rng = random.Random(5)
    path = tmp_path / name
    for _ in range(PLAIN_ROUNDS):
        start = rng.choice([b"", lz4.frame.compress(b"")[:7]])
        path.write_bytes(start + rng.randbytes(rng.randint(0, 300)))
        index = path.with_name(name + ".idx")
        index.write_bytes(rng.choice([b"", b"CDPIDX1\0"]) + rng.randbytes(rng.randint(0, 300)))
        assert read_everything(path) == {}
        index.unlink()
        assert read_everything(path) == {}


def test_an_index_made_to_be_slow_is_read_soon(tmp_path: Path) -> None:
    """Places that all look like the beginning of a large record don't make the search square."""
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(100))
    head = (2).to_bytes(4, "little") + (1 << 20).to_bytes(4, "little")
    index = IndexHeader(1, 1, 42, 0).to_bytes() + b"\xff" * 16 + head * (1 << 18)
    path.with_name("data.bin.idx").write_bytes(index)
    assert read_everything(path) == {}


@pytest.mark.parametrize("name", ["data.bin", "data.bin.lz4"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), max_size=3),
        max_size=4,
    ),
    st.booleans(),
)
def test_any_archive_reads_back_as_it_was_written(
    maker: Any, tmp_path: Path, name: str, plan: list[list[list[bytes]]], is_sealed: bool
) -> None:
    """Any commits of any batches of any messages, by every reader, and `verify` is content."""
    sequence = iter(range(1000))
    commits = [
        [maker.batch(messages, sequence=next(sequence)) for messages in batches] for batches in plan
    ]
    path = maker.segment(tmp_path, commits, name=name, is_sealed=is_sealed)
    written = [batch for commit in commits for batch in commit]
    with BinaryReader.open(path) as reader:
        assert [b.header.batch_id for b in reader.batches()] == [b.header.batch_id for b in written]
        assert [bytes(m.message) for m in reader.read_all()] == [
            message for batches in plan for messages in batches for message in messages
        ]
        assert reader.damaged == []
    report = verify(path)
    assert (report.ok, report.messages) == (True, sum(b.header.message_count for b in written))
    path.with_name(name + ".idx").unlink()
    with BinaryReader.open(path) as reader:
        records = b"".join(batch.records.tobytes() for batch in reader.batches())
        assert records == b"".join(batch.records.tobytes() for batch in written)
        assert reader.damaged == []
