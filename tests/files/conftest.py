"""What the tests of chains share: a clock to turn, a disk that fails, and a second opinion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.files.commit_index import (
    RANGE_CHECKSUM,
    Commit,
    IndexHeader,
    Seal,
    encode_commit,
    encode_seal,
    encode_snapshot,
    entries_of,
    parse_index,
)
from cdp_ray_sinks.files.rotation_policy import RotationPolicy

WORKSPACE = 42
START_MS = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC."""


class Hand:
    """Makes batches and segment files by hand, without the code under test."""

    start_ms = START_MS

    def batch(
        self,
        messages: Sequence[bytes],
        *,
        sequence: int = 0,
        received_at_ms: int = START_MS,
        workspace_id: int = WORKSPACE,
        schema_type: int = 1,
    ) -> Batch:
        """A batch of these messages, of one event each."""
        metadata = received_at_ms.to_bytes(8, "big") + bytes(16)
        records = [metadata + len(m).to_bytes(4, "big") + m for m in messages]
        joined = np.frombuffer(b"".join(records), np.uint8)
        header = BatchHeader(
            producer=bytes(range(16)),
            epoch=7,
            sequence=sequence,
            schema_type=schema_type,
            event_types=2,
            workspace_id=workspace_id,
            source_id="hand",
            received_at_ms=received_at_ms,
            message_count=len(messages),
            event_count=len(messages),
            record_bytes=len(joined),
            checksum=xxhash.xxh3_64_intdigest(joined),
        )
        offsets = np.cumsum([0, *map(len, records)]).astype(np.uint64)
        return Batch(header, joined, offsets)

    def index(self, commits: Sequence[Sequence[Batch]], *, is_sealed: bool = True) -> list[bytes]:
        """The parts of an index: header, snapshot, a record per commit, the seal."""
        parts = [IndexHeader(3, 1, WORKSPACE, START_MS).to_bytes(), encode_snapshot([])]
        end = 0
        for batches in commits:
            headers = [batch.header for batch in batches]
            start, end = end, end + sum(header.record_bytes for header in headers)
            entries = entries_of(headers, [0] * len(headers))
            parts.append(encode_commit(Commit(start, end, 0, START_MS, entries)))
        if is_sealed:
            count = sum(map(len, commits))
            parts.append(encode_seal(Seal(end, count, count, START_MS)))
        return parts

    def segment(
        self, base: Path, commits: Sequence[Sequence[Batch]], *, is_sealed: bool = True
    ) -> Path:
        """Write a segment and its index; returns the data file."""
        directory = base / str(WORKSPACE) / "2026-01-01" / "00"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "data.bin"
        path.write_bytes(b"".join(b.records.tobytes() for batches in commits for b in batches))
        index = self.index(commits, is_sealed=is_sealed)
        path.with_name("data.bin.idx").write_bytes(b"".join(index))
        return path


@pytest.fixture
def hand() -> Hand:
    """Makes batches and segments by hand."""
    return Hand()


class TurnedClock:
    """A clock that stands until a test turns it."""

    def __init__(self, now_ms: int) -> None:
        self.wall_ms = now_ms
        self.steady_ms = 0

    def turn(self, duration_ms: int) -> None:
        """Let time pass."""
        self.wall_ms += duration_ms
        self.steady_ms += duration_ms

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> int:
        return self.steady_ms

    def sleep_ms(self, duration_ms: int) -> None:
        self.turn(duration_ms)


class PlainWriter:
    """Hands over the records as they are."""

    suffix = ".bin"
    index_flags = 0

    def __init__(self) -> None:
        self.encoded_count = self.released_count = 0

    def stream_of(self, header: BatchHeader) -> str:
        return "data"

    def encode(self, batches: Sequence[Batch]) -> list[memoryview]:
        self.encoded_count += 1
        return [batch.records.data for batch in batches]

    def release(self) -> None:
        self.released_count += 1


class DoublingWriter(PlainWriter):
    """Stands for formats that serialise: two streams, each byte twice."""

    suffix = ".twice"
    index_flags = RANGE_CHECKSUM

    def stream_of(self, header: BatchHeader) -> str:
        return "logs" if header.schema_type == 2 else "events"

    def encode(self, batches: Sequence[Batch]) -> list[memoryview]:
        return [memoryview(batch.records.repeat(2)) for batch in batches]


class Bench:
    """A base directory, a clock and a disk; opens chains and says what is in the files."""

    writer: type[PlainWriter] = PlainWriter

    def __init__(self, base: Path, hand: Hand, fs: Any) -> None:
        self.base = base
        self.hand = hand
        self.clock = TurnedClock(hand.start_ms)
        self.fs = fs
        self._chains: list[Chain] = []

    def options(self, **changes: Any) -> ChainOptions:
        """Options, with the policy's keys among them."""
        own = {"interval", "segment_bytes_max", "lateness_s", "idle_s"}
        policy = RotationPolicy(**{key: changes.pop(key) for key in own & set(changes)})
        return ChainOptions(policy=policy, **changes)

    def chain(self, **changes: Any) -> Chain:
        """An open chain of workspace 42."""
        chain = Chain(
            self.base,
            WORKSPACE,
            self.writer(),
            self.options(**changes),
            clock=self.clock,
            fs=self.fs,
        )
        self._chains.append(chain)
        chain.open()
        return chain

    def kill(self, chain: Chain) -> None:
        """Let go of a chain as a kill would: descriptors and locks go, nothing is written."""
        chain.segments.abandon()
        chain._let_go()

    def batch(self, sequence: int, *, text: str = "", **header: Any) -> Batch:
        """A batch with one record that says its sequence."""
        messages = [f"batch {sequence} {text}".encode()]
        header.setdefault("received_at_ms", self.hand.start_ms)
        return self.hand.batch(messages, sequence=sequence, workspace_id=WORKSPACE, **header)

    @property
    def data_files(self) -> list[str]:
        """Names of the segments, relative to the workspace, in order of their making."""
        root = self.base / str(WORKSPACE)
        numbered = [
            (parse_index(p.read_bytes(), "").header.segment_number, p) for p in root.rglob("*.idx")
        ]
        return [str(p.relative_to(root)).removesuffix(".idx") for _, p in sorted(numbered)]

    def path(self, name: str) -> Path:
        """A file of the workspace."""
        return self.base / str(WORKSPACE) / name

    def contents(self, name: str) -> Any:
        """What a segment's index says."""
        return parse_index(self.path(name + ".idx").read_bytes(), name)

    def stored(self) -> list[int]:
        """Sequences of all batches in the archive, each proven by its own bytes; in order."""
        return [sequence for name in self.data_files for sequence in self.stored_in(name)]

    def stored_in(self, name: str) -> list[int]:
        """Sequences of the batches in a segment; fails if one is not whole."""
        data = self.path(name).read_bytes()
        found = []
        for commit in self.contents(name).commits:
            position = commit.start_offset
            for entry in commit.entries:
                end = position + int(entry["record_bytes"])
                assert xxhash.xxh3_64_intdigest(data[position:end]) == int(entry["checksum"])
                found.append(int(entry["sequence"]))
                position = end
            assert position == commit.end_offset
        return found

    def known(self, chain: Chain) -> set[int]:
        """Sequences that the chain's ledger holds."""
        return {sequence for entry in chain.ledger.snapshot() for sequence in entry.durable}

    def marks(self) -> list[str]:
        """The names of the open marks."""
        return sorted(path.name for path in self.path(".lane").glob("*.open"))

    def close(self) -> None:
        """Let go of whatever a test left open."""
        self.fs.fails = lambda operation, name: 0
        for chain in self._chains:
            self.kill(chain)


@pytest.fixture
def bench(tmp_path: Path, hand: Hand, failing_disk: Any) -> Iterator[Bench]:
    """A place to try chains in."""
    bench = Bench(tmp_path, hand, failing_disk)
    yield bench
    bench.close()


@pytest.fixture
def serialising_bench(tmp_path: Path, hand: Hand, failing_disk: Any) -> Iterator[Bench]:
    """The same with a writer that serialises."""
    bench = Bench(tmp_path, hand, failing_disk)
    bench.writer = DoublingWriter
    yield bench
    bench.close()
