"""Many workspaces in one lane: shared syncs, bounded files, faults that stay at home."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError, FencedError, PartialFlushError, TransientError
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.chain_set import ChainSet


@pytest.fixture
def open_set(bench: Any) -> Iterator[Any]:
    """Opens sets of chains on the bench's directory, clock and disk."""
    made: list[ChainSet] = []

    def make(*, open_files_max: int = 256, open_chains_max: int = 4096, **options: Any) -> ChainSet:
        chains = ChainSet(
            bench.base, bench.writer, bench.options(**options), open_files_max=open_files_max,
            open_chains_max=open_chains_max, clock=bench.clock, fs=bench.fs,
        )  # fmt: skip
        chains.open()
        made.append(chains)
        return chains

    yield make
    bench.fs.fails = lambda operation, name: 0
    for chains in made:
        chains.close()


def append(bench: Any, chains: ChainSet, workspaces: range, sequence: int = 0) -> None:
    """A batch for each workspace."""
    for workspace_id in workspaces:
        message = b"workspace %d batch %d" % (workspace_id, sequence)
        chains.append(bench.hand.batch([message], workspace_id=workspace_id, sequence=sequence))


def sequences(chains: ChainSet, workspace_id: int) -> set[int]:
    entries = chains.chain(workspace_id).ledger.snapshot()
    return {sequence for entry in entries for sequence in entry.durable}


def open_files(bench: Any) -> int:
    """Descriptors of segments that this process has open."""
    names = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return sum(name.startswith(str(bench.base)) and ".lane" not in name for name in names)


def test_workspaces_never_share_a_file(bench: Any, open_set: Any) -> None:
    """Each has its own directory, with its own bytes and nothing else."""
    chains = open_set()
    append(bench, chains, range(1, 6))
    chains.flush()
    for workspace_id in range(1, 6):
        (path,) = (bench.base / str(workspace_id)).rglob("*.bin")
        assert path.read_bytes().endswith(b"workspace %d batch 0" % workspace_id)
        assert path.read_bytes().count(b"workspace") == 1


def test_few_segments_are_synced_each_and_many_at_once(bench: Any, open_set: Any) -> None:
    """One sync of the file system replaces hundreds of single ones."""
    chains = open_set()
    append(bench, chains, range(1, 31))
    chains.flush()
    bench.fs.calls.clear()
    append(bench, chains, range(1, 4), 1)
    chains.flush()
    assert [call for call, _ in bench.fs.calls if call.startswith("sync")] == ["sync"] * 6
    bench.fs.calls.clear()
    append(bench, chains, range(1, 31), 2)
    chains.flush()
    assert [call for call, _ in bench.fs.calls if call.startswith("sync")] == ["sync_all"]
    assert all(sequences(chains, workspace_id) >= {0, 2} for workspace_id in range(1, 31))


def test_a_failed_sync_of_many_costs_no_batch_and_makes_no_copy(bench: Any, open_set: Any) -> None:
    """All their segments are retired; the next flush writes the groups anew."""
    chains = open_set()
    append(bench, chains, range(1, 31))
    chains.flush()
    bench.fs.fail_once("sync_all", "")
    append(bench, chains, range(1, 31), 1)
    with pytest.raises(PartialFlushError) as caught:
        chains.flush()
    assert len(caught.value.failures) == 30
    chains.flush()
    chains.close()
    for workspace_id in range(1, 31):
        files = sorted((bench.base / str(workspace_id)).rglob("*.bin"))
        assert [path.name for path in files] == ["data-1.bin", "data.bin"]
        assert files[0].stat().st_size == files[1].stat().st_size > 0


def test_new_segments_that_can_not_be_synced_are_removed(bench: Any, open_set: Any) -> None:
    """Nothing was written to them; the next flush makes them again under the same names."""
    chains = open_set()
    bench.fs.fail_once("sync_all", "")
    append(bench, chains, range(1, 31))
    with pytest.raises(PartialFlushError) as caught:
        chains.flush()
    assert len(caught.value.failures) == 30
    assert list(bench.base.rglob("*.bin*")) == []
    chains.flush()
    assert len(list(bench.base.rglob("data.bin"))) == 30
    assert sequences(chains, 30) == {0}


def test_open_files_stay_below_their_bound_without_new_segments(bench: Any, open_set: Any) -> None:
    """Segments that lost their descriptors are opened again, not sealed."""
    chains = open_set(open_files_max=16)
    for sequence in range(4):
        append(bench, chains, range(1, 41), sequence)
        chains.flush()
        assert open_files(bench) <= 16
    for workspace_id in range(1, 41):
        assert len(list((bench.base / str(workspace_id)).rglob("*.bin"))) == 1
        assert sequences(chains, workspace_id) == {0, 1, 2, 3}


def test_chains_above_their_bound_are_sealed_and_let_go(bench: Any, open_set: Any) -> None:
    """The least recently used one; what it knew is there when it comes back."""
    chains = open_set(open_chains_max=3)
    for workspace_id in range(1, 6):
        append(bench, chains, range(workspace_id, workspace_id + 1))
        chains.flush()
    assert list(chains.chains) == [3, 4, 5]
    assert sequences(chains, 1) == {0}
    assert list(chains.chains) == [4, 5, 1]


def test_a_failing_workspace_is_named_and_the_others_are_durable(bench: Any, open_set: Any) -> None:
    """The next flush writes the same bytes again."""
    chains = open_set()
    append(bench, chains, range(1, 4))
    (bench.base / "2" / "2026-01-01").write_bytes(b"in the way")
    with pytest.raises(PartialFlushError) as caught:
        chains.flush()
    ((workspace_id, text),) = caught.value.failures
    assert workspace_id == 2
    assert "2026-01-01" in text
    assert [sequences(chains, w) for w in (1, 2, 3)] == [{0}, set(), {0}]
    bench.fs.calls.clear()
    (bench.base / "2" / "2026-01-01").unlink()
    chains.flush()
    assert sequences(chains, 2) == {0}
    assert [name for call, name in bench.fs.calls if call == "write"] == ["data.bin"]


def test_a_workspace_held_elsewhere_is_refused_alone(bench: Any, open_set: Any) -> None:
    """Another process has it; the batch is not taken, the lane may try again."""
    first, second = open_set(), open_set()
    append(bench, first, range(1, 2))
    with pytest.raises(TransientError, match="held by process"):
        append(bench, second, range(1, 2))
    append(bench, second, range(2, 3))
    second.flush()
    first.release(1)
    append(bench, second, range(1, 2), 1)
    second.flush()
    assert sequences(second, 1) == {0, 1}


def test_release_makes_durable_first(bench: Any, open_set: Any) -> None:
    """A workspace moves to another lane with all it was given; unknown ones are none of ours."""
    first, second = open_set(), open_set()
    append(bench, first, range(7, 8))
    first.release(7)
    first.release(8)
    assert list(first.chains) == []
    assert sequences(second, 7) == {0}
    first.flush()


def test_release_keeps_what_it_can_not_make_durable(bench: Any, open_set: Any) -> None:
    """It raises, and the batches are still waiting."""
    chains = open_set()
    append(bench, chains, range(7, 8))
    bench.fs.fail_once("write", "data.bin")
    with pytest.raises(TransientError):
        chains.release(7)
    chains.flush()
    assert sequences(chains, 7) == {0}


def test_a_fenced_workspace_stays_lost(bench: Any, open_set: Any) -> None:
    """The others are flushed, then the error is raised; taking it back would fence the other."""
    first = open_set(shared_file_system=True)
    append(bench, first, range(1, 4))
    second = open_set(shared_file_system=True)
    second.chain(2)
    with pytest.raises(FencedError):
        first.flush()
    assert [sequences(first, w) for w in (1, 3)] == [{0}, {0}]
    with pytest.raises(FencedError):
        append(bench, first, range(2, 3))
    append(bench, second, range(2, 3))
    second.flush()
    assert sequences(second, 2) == {0}


@pytest.mark.parametrize("make_base", ["file", "below a file"])
def test_a_base_that_can_not_be_a_directory_is_a_config_error(bench: Any, make_base: str) -> None:
    """It names the path and why."""
    file = bench.base / "file"
    file.write_bytes(b"")
    base = file if make_base == "file" else file / "below"
    with pytest.raises(ConfigError, match=f"path = '{base}'"):
        ChainSet(base, bench.writer, bench.options()).open()


def test_the_limit_of_open_files_is_raised_to_what_the_bounds_need(
    bench: Any, open_set: Any
) -> None:
    """As far as the system allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        open_set(open_chains_max=1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft >= min(hard, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


FEW_DESCRIPTORS = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from cdp_ray_sinks.batch.builder import batch_of_messages
from cdp_ray_sinks.files.chain_options import ChainOptions
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.chain_set import ChainSet
from cdp_ray_sinks.writers.binary import BinaryWriter
chains = ChainSet(Path(sys.argv[1]), BinaryWriter, ChainOptions())
chains.open()
for sequence in range(2):
    for workspace_id in range(1, 401):
        batch = batch_of_messages([b"%d" % sequence], workspace_id=workspace_id)
        header = batch.header._replace(producer=b"p" * 16, epoch=1, sequence=sequence)
        chains.append(type(batch)(header, batch.records, batch.offsets))
    chains.flush()
    print(len(chains.chains), len(list(Path("/proc/self/fd").iterdir())))
chains.close()
"""


def test_few_descriptors_make_it_slower_but_not_fail(tmp_path: Path) -> None:
    """Where the system allows fewer than the bounds ask for, the bounds give way."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.split()]
    assert max(counts[1::2]) < 300
    assert max(counts[::2]) < 300
    report = verify(tmp_path)
    assert (report.ok, report.messages) == (True, 800)


def test_ticks_seal_in_the_background(bench: Any, open_set: Any) -> None:
    """All chains are told the time; the same segments are not kept as open."""
    chains = open_set(idle_s=10)
    append(bench, chains, range(1, 4))
    chains.flush()
    bench.clock.turn(10_000)
    chains.tick(bench.clock.now_ms())
    chains.chain(1).segments.join()
    chains.tick(bench.clock.now_ms())
    assert open_files(bench) == 0
    assert chains.chain(3).segment_counters.sealed == 1
