"""A run that fills a warehouse, its chains killed all along, with a reader who looks all along."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers

WORKSPACES = 2
CONFIG = """
[pipeline]
name = "publication-kills"
[delivery]
drain_deadline_s = 600
[sources.made]
type = "synthetic"
workspaces = {workspaces}
batch_events = 200
rate_events_per_s = 8000
[sinks.warehouse]
type = "parquet"
path = "warehouse"
buffer_rows = 300
segment_bytes_max = 200000
"""


class Reader:
    """Opens every file it sees, as soon as it sees it, and again at the end."""

    def __init__(self, warehouse: Path) -> None:
        self.seen: dict[Path, tuple[int, int]] = {}
        self.problems: list[str] = []
        self._warehouse = warehouse
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def _poll(self) -> None:
        while not self._stop.is_set():
            for path in self._warehouse.rglob("*.parquet"):
                if path not in self.seen:
                    self._look(path)
            time.sleep(0.01)

    def _look(self, path: Path) -> None:
        try:
            rows = pq.read_table(path, columns=["payload"], partitioning=None).num_rows
            found = path.stat()
            self.seen[path] = (found.st_ino, found.st_mtime_ns)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to say so
            self.seen[path] = (0, 0)
            self.problems.append(f"{path}: {error}")
            return
        if not rows:
            self.problems.append(f"{path}: no rows")

    def stop(self) -> None:
        """Look a last time: no file has gone or is another one than when it was first seen."""
        self._stop.set()
        self._thread.join()
        for path, before in list(self.seen.items()):
            self._look(path)
            if self.seen[path] != before:
                self.problems.append(f"{path}: not the file it was")


class Chain:
    """The chain of one workspace, known by the epochs it leaves."""

    def __init__(self, warehouse: Path, workspace: int) -> None:
        self._lane = warehouse / ".journal" / str(workspace) / ".lane"
        self._published = warehouse / str(workspace)
        self._epoch = 0

    def kill(self, within_s: float, chance: random.Random, killed: set[int]) -> None:
        """SIGKILL the next process that takes the workspace, at some instant of its life."""
        until = time.monotonic() + within_s
        while True:
            while (newest := max(self._epochs(), default=0)) <= self._epoch:
                assert time.monotonic() < until, "no chain has come back"
                time.sleep(0.005)
            try:
                pid = int((self._lane / f"epoch-{newest}").read_text().split()[0])
            except FileNotFoundError:
                continue  # a newer one has come meanwhile
            self._epoch = newest
            # A chain that was killed for another workspace may have held this one too.
            if pid in killed:
                continue
            self._wait_for_the_instant(chance)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            return

    def _wait_for_the_instant(self, chance: random.Random) -> None:
        """Any, or the one in which a file has just been published and its journal is still there.

        The first such after a start is often that of what the last process has left.
        """
        if chance.random() < 0.4:
            time.sleep(chance.choice([0.05, 0.5, 2.0]) * chance.random())
            return
        known = self._published_count()
        until = time.monotonic() + 2
        while self._published_count() == known and time.monotonic() < until:
            pass
        time.sleep(chance.choice([0.0, 0.0, 0.002, 0.01]))

    def _published_count(self) -> int:
        return sum(1 for _ in self._published.rglob("*.parquet"))

    def _epochs(self) -> Iterator[int]:
        """Those whose files say who made them; old ones are removed meanwhile."""
        for path in self._lane.glob("epoch-*"):
            with suppress(FileNotFoundError):
                if path.stat().st_size:
                    yield int(path.name.removeprefix("epoch-"))


def start_run(folder: Path) -> subprocess.Popen[str]:
    """A run that has begun."""
    run = subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "run", "run.toml", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        if re.match(r"running on", line):
            return run
    raise AssertionError("the run did not begin: " + "".join(said))


def kill_chains(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Run with that many kills, then end it; returns what it did and where the kills struck."""
    warehouse = folder / "warehouse"
    (folder / "run.toml").write_text(CONFIG.format(workspaces=WORKSPACES))
    chance = random.Random(seed)
    run = start_run(folder)
    reader = Reader(warehouse)
    killed: set[int] = set()
    struck = {"making": 0, "kills": 0}
    chains = [Chain(warehouse, workspace) for workspace in range(1, WORKSPACES + 1)]
    try:
        for turn in range(count):
            chains[turn % WORKSPACES].kill(120, chance, killed)
            struck["kills"] += 1
            struck["making"] += any(warehouse.rglob("*.inprogress"))
            assert run.poll() is None, "the run was over before the kill"
        run.send_signal(signal.SIGTERM)
        output, errors = run.communicate(timeout=120 + 10 * count)
    finally:
        run.kill()
        reader.stop()
    assert run.returncode == 0, errors
    report = json.loads(output)
    events = report["sources"]["made"]["events"]
    assert report["sinks"]["warehouse"]["events"] == events
    assert not reader.problems, reader.problems[:5]
    numbers = RunningNumbers(events)
    files = list(warehouse.rglob("*.parquet"))
    assert set(files) == set(reader.seen)
    for path in files:
        numbers.add(pq.read_table(path, columns=["payload"], partitioning=None)["payload"])
    assert (numbers.missing, numbers.duplicated, numbers.foreign) == (0, 0, 0)
    assert not any(path.stat().st_size for path in (warehouse / ".journal").rglob("*.bin"))
    return struck | {"files": len(files), "events": events}


def test_six_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """Published files hold every number once, each was whole whenever it was looked at."""
    struck = kill_chains(tmp_path, 6, seed=11)
    print(struck)
    assert struck["kills"] == 6
    assert struck["files"] > 0


@pytest.mark.soak
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    """The same for some minutes."""
    struck = kill_chains(tmp_path, 100, seed=12)
    print(struck)
    assert struck["kills"] == 100
