"""Playing a file of frames to a TCP source."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError, TransientError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.sources.send import send_frames


def test_a_file_of_frames_arrives_whole(
    tmp_path: Path, api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Every frame is taken, and the progress ends at the file's bytes."""
    path = tmp_path / "frames.bin"
    path.write_bytes(b"".join(wire.frame(wire.one, [b'{"n":%d}' % n]) for n in range(3000)))
    config = load_source_config("tcp", {"listen": "127.0.0.1:0", "api_keys": str(api_keys)})
    running = run_source(config.build(SourceContext("tcp_main")))
    seen: list[tuple[int, int]] = []
    sent = send_frames(
        path,
        "127.0.0.1",
        running.counter("port"),
        progress=lambda done, total: seen.append((done, total)),
    )
    running.finish()
    size = path.stat().st_size
    assert sent == (3000, size, True)
    assert seen[-1] == (size, size)
    assert taker.events == 3000


def test_it_keeps_to_the_rate(
    tmp_path: Path, api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """It sleeps as long as the bytes sent so far are worth."""
    path = tmp_path / "frames.bin"
    path.write_bytes(wire.frame(wire.one) * 2000)
    config = load_source_config("tcp", {"listen": "127.0.0.1:0", "api_keys": str(api_keys)})
    running = run_source(config.build(SourceContext("tcp_main")))

    class SleepingClock:
        at_ms = 0

        def now_ms(self) -> int:
            return 0

        def monotonic_ms(self) -> int:
            return self.at_ms

        def sleep_ms(self, duration_ms: int) -> None:
            self.at_ms += duration_ms

    clock = SleepingClock()
    port = running.counter("port")
    send_frames(path, "127.0.0.1", port, bytes_per_s_max=100_000, clock=clock)
    running.finish()
    assert clock.at_ms == path.stat().st_size * 1000 // 100_000


@pytest.mark.parametrize(
    ("tail", "reason"),
    [(b"\0\0", "cut off"), (struct.pack(">I", 9) + b"x", "cut off"), (b"\xff" * 9, "above")],
)
def test_what_is_not_frames_is_not_sent(
    tmp_path: Path, wire: Any, tail: bytes, reason: str
) -> None:
    """The error names the file and the offset, before anything is connected to."""
    path = tmp_path / "frames.bin"
    good = wire.frame(wire.one)
    path.write_bytes(good + tail)
    with pytest.raises(CorruptSegmentError, match=rf"frames.bin: .*{reason}.* {len(good)}$"):
        send_frames(path, "127.0.0.1", 1)


def test_a_missing_file_and_a_missing_peer_are_told_apart(tmp_path: Path) -> None:
    """One is the user's mistake, the other may heal."""
    with pytest.raises(ConfigError, match="nowhere"):
        send_frames(tmp_path / "nowhere", "127.0.0.1", 1)
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(TransientError, match=r"127.0.0.1:1: .*refused"):
        send_frames(path, "127.0.0.1", 1)
