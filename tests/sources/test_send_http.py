"""Posting frames to a real HTTP source."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.framing import FrameBlock
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.sources.send import Rate
from cdp_ray_sinks.sources.send_http import post_blocks


@pytest.fixture
def running(api_keys: Path, run_source: Any) -> Any:
    """A source that listens."""
    config = load_source_config("http", {"listen": "127.0.0.1:0", "api_keys": str(api_keys)})
    return run_source(config.build(SourceContext("web", SystemClock())))


def block_of(frames: list[bytes], events: int) -> FrameBlock:
    ends = np.cumsum([len(frame) for frame in frames])
    content = np.frombuffer(b"".join(frames), np.uint8)
    return FrameBlock(content, ends, np.full(len(frames), events), len(content))


def test_every_message_is_posted_once(running: Any, wire: Any, taker: Any) -> None:
    """All are answered, whatever order they went in."""
    frames = [wire.frame(wire.one, [b'{"n":%d}' % n, b"{}"]) for n in range(100)]
    told: list[int] = []
    blocks = [block_of(frames[:60], 2), block_of(frames[60:], 2)]
    sent = post_blocks(blocks, f"http://{running.source.address}", progress=told.append)
    assert sent == (100, 200, sum(len(frame) - 4 for frame in frames), True)
    assert len(told) == 2
    wanted = sorted(frame[4:].replace(wire.one, bytes(16)) for frame in frames)
    assert sorted(taker.messages(1)) == wanted


def test_a_rate_is_kept(running: Any, wire: Any, taker: Any) -> None:
    """Not faster than it says."""
    frames = [wire.frame(wire.one) for _ in range(20)]
    started_s = time.monotonic()
    post_blocks([block_of(frames, 1)], f"http://{running.source.address}", rate=Rate(40, "events"))
    assert time.monotonic() - started_s >= 0.4
    assert taker.events == 20


def test_what_is_refused_for_good_ends_it(running: Any, wire: Any) -> None:
    """The error says where and how it was answered, and no key."""
    frames = [wire.frame(bytes(range(16)))]
    with pytest.raises(TransientError, match="answered 401") as found:
        post_blocks([block_of(frames, 1)], f"http://{running.source.address}")
    assert bytes(range(16)).hex() not in str(found.value)


def test_what_is_not_answered_is_tried_for_a_while(wire: Any) -> None:
    """Nobody listens: an error that names where, after the time that was given."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(TransientError, match=address):
        post_blocks([block_of([wire.frame(wire.one)], 1)], f"http://{address}", timeout_s=1)
    with pytest.raises(ConfigError, match="expected http"):
        post_blocks([], "http://")


def test_a_stop_ends_it(running: Any, wire: Any) -> None:
    """What is under way is not counted."""
    stop = threading.Event()
    stop.set()
    blocks = [block_of([wire.frame(wire.one)], 1)]
    sent = post_blocks(blocks, f"http://{running.source.address}", stop=stop)
    assert (sent.frames, sent.is_taken) == (0, False)
