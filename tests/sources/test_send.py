"""Sending frames to a TCP source: whole, at a rate, and until told to stop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.framing import FrameBlock, Framer
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.sources.send import Rate, connect, send_blocks
from cdp_ray_sinks.testing import FakeClock


def refuse(problem: str) -> None:
    raise AssertionError(problem)


@pytest.fixture
def running(api_keys: Path, run_source: Any) -> Any:
    """A TCP source."""
    config = load_source_config("tcp", {"listen": "127.0.0.1:0", "api_keys": str(api_keys)})
    return run_source(config.build(SourceContext("tcp_main")))


def blocks_of(path: Path) -> Iterator[FrameBlock]:
    return Framer(None, refuse).of_file(path)


def test_a_file_of_frames_arrives_whole(
    tmp_path: Path, running: Any, wire: Any, taker: Any
) -> None:
    """Every frame is taken, and the progress ends at the file's bytes."""
    path = tmp_path / "frames.bin"
    path.write_bytes(b"".join(wire.frame(wire.one, [b'{"n":%d}' % n]) for n in range(30_000)))
    seen: list[int] = []
    with connect("127.0.0.1", running.counter("port")) as peer:
        sent = send_blocks(blocks_of(path), peer, progress=seen.append)
    running.finish()
    size = path.stat().st_size
    assert sent == (30_000, 30_000, size, True)
    assert seen == sorted(seen)
    assert seen[-1] == size
    assert taker.events == 30_000


@pytest.mark.parametrize(
    ("rate", "due_ms"),
    [(Rate(100_000, "bytes"), 10 * 2000), (Rate(500, "events"), 1000 * 2000 * 3 // 500)],
)
def test_it_keeps_to_the_rate(
    tmp_path: Path, running: Any, wire: Any, taker: Any, rate: Rate, due_ms: int
) -> None:
    """It sleeps as long as the bytes or events sent so far are worth, and not in one go."""
    path = tmp_path / "frames.bin"
    path.write_bytes(wire.frame(wire.one, [b"a", b"b", b"c"]) * 2000)
    sleeps: list[int] = []

    class SleepingClock(FakeClock):
        def sleep_ms(self, duration_ms: int) -> None:
            sleeps.append(duration_ms)
            super().sleep_ms(duration_ms)

    clock = SleepingClock()
    with connect("127.0.0.1", running.counter("port")) as peer:
        sent = send_blocks(blocks_of(path), peer, rate=rate, clock=clock)
    running.finish()
    if rate.of == "bytes":
        due_ms = path.stat().st_size * 1000 // 100_000
    assert clock.monotonic_ms() == due_ms
    assert max(sleeps) <= 100
    assert sent.events == taker.events == 6000


def test_a_stop_ends_with_a_whole_frame(
    tmp_path: Path, running: Any, wire: Any, taker: Any
) -> None:
    """What is counted as sent is what the receiver took, and nothing is torn."""
    path = tmp_path / "frames.bin"
    path.write_bytes(wire.frame(wire.one, [b"x"] * 10) * 1000)
    stop = threading.Event()

    class StoppingClock(FakeClock):
        def sleep_ms(self, duration_ms: int) -> None:
            super().sleep_ms(duration_ms)
            if self.monotonic_ms() > 5000:
                stop.set()

    with connect("127.0.0.1", running.counter("port")) as peer:
        sent = send_blocks(
            blocks_of(path), peer, rate=Rate(500, "events"), stop=stop, clock=StoppingClock()
        )
    running.finish()
    assert 200 <= sent.frames <= 300
    assert sent.events == 10 * sent.frames == taker.events
    assert sent.is_taken
    assert running.counter("frames_torn") == 0


def test_a_stop_is_seen_while_the_receiver_is_slow(
    tmp_path: Path, running: Any, wire: Any, taker: Any
) -> None:
    """A full window holds the sender up; told to stop it leaves, and tells what was whole."""
    path = tmp_path / "frames.bin"
    path.write_bytes(wire.frame(wire.one, [bytes(100_000)]) * 600)
    stop = threading.Event()
    taker.open_gate.clear()
    threading.Timer(1.0, stop.set).start()
    with connect("127.0.0.1", running.counter("port")) as peer:
        sent = send_blocks(blocks_of(path), peer, stop=stop)
    assert not sent.is_taken
    assert 0 < sent.frames < 600
    taker.open_gate.set()
    running.finish()
    assert sent.frames <= taker.events <= sent.frames + 1


def test_a_receiver_that_takes_nothing_is_an_error(tmp_path: Path, wire: Any) -> None:
    """After the timeout, saying how far it came."""
    path = tmp_path / "frames.bin"
    path.write_bytes(wire.frame(wire.one, [bytes(1_000_000)]) * 30)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connect("127.0.0.1", listener.getsockname()[1]) as peer,
        pytest.raises(TransientError, match=r"takes nothing after \d+ frames of \d+ bytes"),
    ):
        send_blocks(blocks_of(path), peer, timeout_s=0.5)


def test_a_missing_peer_is_named() -> None:
    """It may heal."""
    with pytest.raises(TransientError, match=r"127.0.0.1:1: .*refused"):
        connect("127.0.0.1", 1)
