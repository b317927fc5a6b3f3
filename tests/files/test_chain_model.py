"""Chains against a model: any order of appends, commits, faults, kills, ticks and restarts."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdp_ray_sinks.errors import TransientError

FAULTS = [
    ("write", "data.bin"), ("append", ".idx"), ("sync", ".bin"), ("sync", ".idx"),
    ("truncate", ".idx"), ("sync", ".new"), ("append", ".new"),
    ("sync_directory", "open"), ("sync_directory", "00"),
]  # fmt: skip


class ChainMachine(RuleBasedStateMachine):
    """The model: which sequences were appended, which acknowledged, in which order."""

    make_bench: Any = None

    @initialize(
        segment_bytes_max=st.sampled_from([60, 200, 10_000]),
        fsync=st.sampled_from(["commit", "commit", "interval", "off"]),
    )
    def begin(self, segment_bytes_max: int, fsync: str) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.bench = self.make_bench(self.directory)
        self.options = {
            "segment_bytes_max": segment_bytes_max,
            "open_partitions_max": 2,
            "fsync": fsync,
        }
        self.chain = self.bench.chain(**self.options)
        self.sequence = 0
        self.waiting: list[int] = []
        self.acked: list[int] = []

    @rule(hour=st.integers(0, 3), filler=st.integers(0, 80))
    def append(self, hour: int, filler: int) -> None:
        """A batch of some hour."""
        at_ms = self.bench.hand.start_ms + hour * 3_600_000
        batch = self.bench.batch(self.sequence, text="x" * filler, received_at_ms=at_ms)
        self.chain.append(batch)
        self.waiting.append(self.sequence)
        self.sequence += 1

    @rule()
    def commit(self) -> None:
        """All that waits is durable, or what is not is still waiting."""
        try:
            self.chain.commit()
        except TransientError:
            assert self.chain.is_dirty
            known = self.bench.known(self.chain)
            self.acked += [s for s in self.waiting if s in known]
            self.waiting = [s for s in self.waiting if s not in known]
            return
        self.acked += self.waiting
        self.waiting = []

    @rule(fault=st.sampled_from(FAULTS), number=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def break_something(self, fault: tuple[str, str], number: int) -> None:
        """The next such call fails."""
        self.bench.fs.fail_once(*fault, number)

    @rule(turn_ms=st.sampled_from([1, 61_000, 3_700_000]))
    def turn_the_clock(self, turn_ms: int) -> None:
        """Time passes and the chain is told."""
        self.bench.clock.turn(turn_ms)
        self.chain.tick(self.bench.clock.now_ms())

    @rule()
    def kill_and_start(self) -> None:
        """What was not acknowledged is gone, and may or may not be stored."""
        self.bench.kill(self.chain)
        self._start()

    @rule()
    def close_and_start(self) -> None:
        """A clean end."""
        try:
            self.chain.close()
        except TransientError:
            known = self.bench.known(self.chain)
            self.acked += [s for s in self.waiting if s in known]
            self.waiting = [s for s in self.waiting if s not in known]
        else:
            self.acked += self.waiting
            self.waiting = []
        self._start()

    def _start(self) -> None:
        self.bench.fs.fails = lambda operation, name: 0
        self.chain = self.bench.chain(**self.options)
        known = self.bench.known(self.chain)
        assert set(self.acked) <= known
        again, self.waiting = self.waiting, []
        self.acked += [s for s in again if s in known]
        for sequence in [s for s in again if s not in known]:
            batch = self.bench.batch(sequence)
            self.chain.append(batch)
            self.waiting.append(sequence)

    @precondition(lambda self: hasattr(self, "chain"))
    @invariant()
    def what_is_acknowledged_is_stored_once(self) -> None:
        """Each by its own bytes; and the ledger knows exactly what is acknowledged."""
        self.chain.segments.join()
        assert self.bench.known(self.chain) == set(self.acked)
        stored = self.bench.stored()
        assert len(stored) == len(set(stored))
        assert set(self.acked) <= set(stored)
        assert set(stored) <= set(self.acked) | set(self.waiting)

    def teardown(self) -> None:
        """Let go of everything."""
        if hasattr(self, "bench"):
            self.bench.close()
            shutil.rmtree(self.directory)


def test_a_chain_agrees_with_its_model(bench: Any) -> None:
    """Nothing acknowledged is lost, nothing is stored twice, whatever happens in which order."""

    def make_bench(base: Path) -> Any:
        return type(bench)(base, bench.hand, type(bench.fs)())

    ChainMachine.make_bench = staticmethod(make_bench)
    case = ChainMachine.TestCase()
    case.settings = settings(
        max_examples=25,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case.runTest()


@pytest.fixture(autouse=True)
def quick_disk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Directories of the model go where the tests' own go."""
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("model"))
    yield
    tempfile.tempdir = before
