"""`top` and `status` as processes of their own, on a real terminal and without one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline, SourceFailedError

PATIENCE_S = 120
BEGIN_SCREEN, END_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"


def config(folder: Path, name: str) -> PipelineConfig:
    return PipelineConfig(
        pipeline={"name": name, "state_dir": folder / "state"},
        delivery={"window_bytes": 64 * 1024 * 1024, "populate_object_store": False},
        sources={"made": {"type": "synthetic", "workspaces": 2, "rate_events_per_s": 5000}},
        sinks={
            "nothing": {"type": "null"},
            "archive": {"type": "disk_binary", "path": folder / "archive"},
        },
    )


@pytest.fixture
def running(cluster: None, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that goes on until it is stopped."""
    with Pipeline(config(tmp_path, f"top-{os.getpid()}")) as pipeline:
        stop = threading.Event()

        def go_on() -> None:
            with contextlib.suppress(SourceFailedError):  # a test may stop it while it runs
                pipeline.wait(stop=stop)

        waiting = threading.Thread(target=go_on, daemon=True)
        waiting.start()
        yield pipeline
        stop.set()
        waiting.join()


def command(pipeline: Pipeline, verb: str, *more: str) -> list[str]:
    name, address = pipeline.config.pipeline.name, pipeline.address
    cdp_sinks = [sys.executable, "-m", "cdp_ray_sinks", verb]
    return [*cdp_sinks, "--name", name, "--address", address, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TERM": "xterm"}


class Terminal:
    """A process on a terminal of 80 columns."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self._end = pty.fork()
        if not self.pid:
            os.execve(argv[0], argv, environment())
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        self.shown = b""

    def read(self) -> bool:
        """Take what there is within a moment; False at the end."""
        if select.select([self._end], [], [], 0.2)[0]:
            try:
                more = os.read(self._end, 65536)
            except OSError:
                return False
            self.shown += more
            return bool(more)
        return True

    def read_until(self, *wanted: bytes) -> None:
        """Read until the screen has been sent all of that."""
        until = time.monotonic() + PATIENCE_S
        while not all(part in self.shown for part in wanted):
            assert self.read(), self.shown.decode(errors="replace")
            assert time.monotonic() < until, self.shown.decode(errors="replace")

    def end(self) -> int:
        """Ctrl-C; the exit code once the process is gone."""
        os.kill(self.pid, signal.SIGINT)
        while self.read():
            pass
        _, code = os.waitpid(self.pid, 0)
        os.close(self._end)
        return os.waitstatus_to_exitcode(code)


def test_top_fills_a_terminal_waits_for_a_pipeline_and_gives_the_terminal_back(
    running: Pipeline, tmp_path: Path
) -> None:
    """Rates come, the end and a new start of the pipeline are seen, Ctrl-C leaves cleanly."""
    name = running.config.pipeline.name
    terminal = Terminal(command(running, "top", "--interval", "0.5"))
    terminal.read_until(BEGIN_SCREEN, b"events/s", b"archive", b"workspace")
    running.drain()
    running.stop()
    terminal.read_until(b"no pipeline named", b"waiting")
    terminal.shown = terminal.shown.replace(b"archive", b"")
    with Pipeline(config(tmp_path / "again", name)):
        terminal.read_until(b"archive")
    assert terminal.end() == 0
    assert terminal.shown.count(BEGIN_SCREEN) == terminal.shown.count(END_SCREEN) == 1
    assert terminal.shown.rfind(SHOW_CURSOR) > terminal.shown.rfind(HIDE_CURSOR)
    assert b"Traceback" not in terminal.shown


def test_top_once_and_status_without_a_terminal(running: Pipeline) -> None:
    """One look with rates as text and as JSON; status has totals; nothing else on stdout."""
    asked = {
        "top": command(running, "top", "--once", "--interval", "0.5"),
        "json": command(running, "top", "--once", "--json", "--interval", "0.5"),
        "status": command(running, "status"),
        "nobody": [*command(running, "top"), "--name", "nobody"],
    }
    processes = {
        what: subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment())
        for what, argv in asked.items()
    }
    said = {what: process.communicate(timeout=PATIENCE_S)[0] for what, process in processes.items()}
    codes = {what: process.returncode for what, process in processes.items()}
    assert codes == {"top": 0, "json": 0, "status": 0, "nobody": 2}
    assert said["nobody"] == ""
    found = json.loads(said["json"])
    assert found["pipeline"] == running.config.pipeline.name
    assert [row["name"] for row in found["sinks"]] == ["archive", "nothing"]
    assert found["interval_s"] > 0
    assert found["sources"][0]["events"] >= found["sources"][0]["events_per_s"] >= 0
    assert {row["workspace"] for row in found["workspaces"]} <= {1, 2}
    assert "events/s" in said["top"]
    assert "events/s" not in said["status"]
    assert "pid" in said["status"]
    for text in (said["top"], said["status"]):
        assert "\x1b" not in text
        for head in ("source", "router", "sink", "workspace", "p99", "spool"):
            assert head in text
