"""The faults themselves: real, and gone afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp_ray_sinks.chaos.faults import ALL_FAULTS, Fault, injected, possible
from cdp_ray_sinks.chaos.processes import (
    JUDGED_S,
    Actor,
    MemoryLife,
    file_size_limited,
    frozen,
    kill,
)
from cdp_ray_sinks.chaos.settings import SCENARIOS, bounded_rate
from cdp_ray_sinks.chaos.small_disk import SmallDisk, read_only
from cdp_ray_sinks.errors import ConfigError

MIB = 1024 * 1024
WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
while True:
    try:
        os.write(fd, b"x")
    except OSError as error:
        print(error.errno, flush=True)
    time.sleep(0.005)
"""


class Stage:
    """Neither server nor disk."""

    server = None
    small_disk = None
    directory = Path()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], bool]]]:
    """A process that appends to a file again and again, and whether it goes on."""
    path = tmp_path / "written"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )

    def goes_on() -> bool:
        before = path.stat().st_size if path.exists() else 0
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if path.exists() and path.stat().st_size > before:
                return True
            time.sleep(0.01)
        return False

    assert goes_on()
    yield process, goes_on
    process.kill()
    process.wait()


def test_a_frozen_process_stands_still_and_goes_on(
    writer: tuple[subprocess.Popen[str], Callable[[], bool]],
) -> None:
    """Also when the block ends by an error."""
    process, goes_on = writer

    def wait_until_stopped() -> None:
        state = Path(f"/proc/{process.pid}/stat")
        until = time.monotonic() + 10
        with frozen([process.pid]):
            while state.read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < until
            raise KeyError

    with pytest.raises(KeyError):
        wait_until_stopped()
    assert goes_on()


def test_a_limited_process_gets_an_error_and_goes_on(
    writer: tuple[subprocess.Popen[str], Callable[[], bool]],
) -> None:
    """EFBIG while it lasts."""
    process, goes_on = writer
    assert process.stdout is not None
    with file_size_limited([process.pid], 0):
        assert process.stdout.readline() == "27\n"
    assert goes_on()


def test_only_processes_of_ray_are_killed(
    writer: tuple[subprocess.Popen[str], Callable[[], bool]],
) -> None:
    """A pid may belong to someone else by now."""
    process, goes_on = writer
    assert not kill(Actor("chaos/router", "router", process.pid))
    assert goes_on()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not kill(Actor("chaos/router", "router", process.pid))


def test_a_fault_without_a_target_says_so() -> None:
    """And does nothing."""
    fault = Fault("kills", "SIGKILL", ("router",))
    with injected(fault, Stage(), [], random.Random(1)) as target:
        assert target is None


def test_what_is_not_possible_is_left_out_and_told() -> None:
    """Without a server there are no faults of it; all others are there."""
    found, left_out = possible(Stage(), SCENARIOS)
    assert {fault.scenario for fault in found} == set(SCENARIOS)
    assert not [fault for fault in found if "rows" in fault.targets[0]]
    assert len(left_out) == 1
    assert len(found) < len(ALL_FAULTS)
    assert {f.scenario for f in possible(Stage(), ["disk"])[0]} == {"disk"}


def test_a_full_disk_is_full_and_then_is_not(tmp_path: Path) -> None:
    """What is there stays, nothing more goes in, until it does; kept it is a plain folder."""
    disk = SmallDisk(tmp_path / "small", 64 * MIB)
    if not disk.is_mounted:
        pytest.skip("mounting a small file system needs rights that are not there")
    try:
        (disk.folder / "before").write_bytes(b"1" * MIB)
        with disk.full(), pytest.raises(OSError, match="No space left"):
            (disk.folder / "meanwhile").write_bytes(b"2" * MIB)
        (disk.folder / "afterwards").write_bytes(b"3" * MIB)
    finally:
        disk.close(is_kept=True)
    assert (disk.folder / "before").read_bytes() == b"1" * MIB
    assert (disk.folder / "afterwards").stat().st_size == MIB
    assert not os.path.ismount(disk.folder)
    assert list(tmp_path.iterdir()) == [disk.folder]


def test_a_read_only_folder_takes_no_file_and_then_does(tmp_path: Path) -> None:
    """Nor a folder below it."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    with read_only(tmp_path / "a") as is_done:
        if is_done:
            with pytest.raises(OSError, match="ermi"):
                (inner / "file").touch()
            with pytest.raises(OSError, match="ermi"):
                (tmp_path / "a" / "c").mkdir()
    (inner / "file").touch()
    (tmp_path / "a" / "c").mkdir()


def test_the_rate_is_bounded_by_the_disk(tmp_path: Path) -> None:
    """A run may fill half of what is free, whatever was asked for."""
    assert bounded_rate(60, 1000, tmp_path) == 1000
    endless = bounded_rate(60, 1e12, tmp_path / "not" / "there")
    assert 1000 < endless < 1e12
    with pytest.raises(ConfigError, match="too little"):
        bounded_rate(1e12, 1e6, tmp_path)


@pytest.mark.parametrize(
    ("seconds", "late", "is_flat"),
    [(JUDGED_S - 1, 900, None), (JUDGED_S, 130, True), (JUDGED_S, 300, False)],
)
def test_memory_is_judged_over_a_long_life(seconds: float, late: int, is_flat: bool | None) -> None:
    """From its second quarter, when all is warm, to its last."""
    sizes = [10] * 25 + [100] * 25 + [100] * 25 + [late] * 25
    samples = [(seconds * place / 99, size * MIB) for place, size in enumerate(sizes)]
    life = MemoryLife("router", 1, samples)
    assert life.early_bytes == 100 * MIB
    assert life.late_bytes == late * MIB
    assert life.is_flat is is_flat
