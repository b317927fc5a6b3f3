"""Signals to the pipeline's own processes, and what memory they have for themselves."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from cdp_ray_sinks.bench.private_memory import anonymous_bytes_of

SAMPLE_S: Final = 1.0
JUDGED_S: Final = 60.0
GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Actor:
    """One of the pipeline's actors, as `status` names it."""

    name: str
    kind: str
    pid: int

    @property
    def short_name(self) -> str:
        """Its name without the pipeline's."""
        return self.name.partition("/")[2]

    @property
    def is_there(self) -> bool:
        """Whether that process is alive and still one of Ray's: pids are given out again."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().startswith(b"ray::")
        except OSError:
            return False


def kill(actor: Actor) -> bool:
    """SIGKILL; whether there was anything to kill."""
    return actor.is_there and _signalled([actor.pid], signal.SIGKILL) > 0


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT whatever happens."""
    _signalled(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signalled(pids, signal.SIGCONT)


@contextmanager
def file_size_limited(pids: Sequence[int], limit_bytes: int) -> Iterator[None]:
    """No file of these processes grows beyond the limit: writes fail, as at the end of a quota."""
    before: dict[int, tuple[int, int]] = {}
    try:
        for pid in pids:
            with suppress(OSError):
                before[pid] = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, before[pid][1]))
        yield
    finally:
        for pid, limits in before.items():
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def raylet_of(actor: Actor) -> int | None:
    """The raylet that has started the actor, None if it is not found."""
    with suppress(OSError):
        parent = int(Path(f"/proc/{actor.pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text().startswith("raylet"):
            return parent
    return None


def _signalled(pids: Sequence[int], number: signal.Signals) -> int:
    sent = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            sent += 1
    return sent


@dataclass(slots=True)
class MemoryLife:
    """The private memory of one process over its life, without mapped files, once a second."""

    name: str
    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    @property
    def lived_s(self) -> float:
        """From the first sample to the last."""
        return self.samples[-1][0] - self.samples[0][0]

    @property
    def early_bytes(self) -> int:
        """The median of its second quarter: by then it has all that it needs."""
        count = len(self.samples)
        return self._median(count // 4, max(count // 2, 1))

    @property
    def late_bytes(self) -> int:
        """The median of its last quarter."""
        return self._median(len(self.samples) * 3 // 4, len(self.samples))

    def _median(self, first: int, end: int) -> int:
        return int(median(held for _, held in self.samples[first:end]))

    @property
    def is_flat(self) -> bool | None:
        """Whether it ends with what it had; None for a life too short to tell."""
        if self.lived_s < JUDGED_S:
            return None
        return self.late_bytes - self.early_bytes <= GROWTH_BYTES_MAX


class MemoryWatch:
    """Samples the processes it is told of, in a thread, until it is stopped."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int], MemoryLife] = {}
        self._watched: Mapping[int, str] = {os.getpid(): "driver"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self._thread.start()

    def watch(self, actors: Sequence[Actor]) -> None:
        """From now on these, and the driver."""
        self._watched = {os.getpid(): "driver", **{a.pid: a.short_name for a in actors}}

    def stop(self) -> list[MemoryLife]:
        """All lives, the longest of each name first."""
        self._stop.set()
        self._thread.join()
        lives = [life for life in self._lives.values() if len(life.samples) > 1]
        return sorted(lives, key=lambda life: (life.name, -life.lived_s))

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for pid, name in self._watched.items():
                held_bytes = anonymous_bytes_of(pid)
                if held_bytes:
                    life = self._lives.setdefault((name, pid), MemoryLife(name, pid))
                    life.samples.append((time.monotonic(), held_bytes))
