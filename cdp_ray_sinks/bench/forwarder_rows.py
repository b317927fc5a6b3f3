"""Collector to collector: the forwarder beside `sendall`, a tcp source beside a bare receiver.

Receivers are processes of their own. The same bytes go both ways, in turn.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.bench.limits import file_system_of
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.receivers import key_file, receiver
from cdp_ray_sinks.bench.rows import Lap, Row, rate_row
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sinks.base import Sink, SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.sources.synthetic import SyntheticConfig, synthetic_frames
from cdp_ray_sinks.writers.forward_frames import FrameWrapper

KEY: Final = bytes(range(1, 17))
GIB: Final = 1024 * 1024 * 1024
_BLOCK_BYTES: Final = 4 * 1024 * 1024
_LOOK_S: Final = 0.005
_SHAPES: Final = (("tell", 500, 50_000), ("single", 1, 10_000))


def forwarder_rows(settings: Settings) -> Iterator[Row]:
    """`lane_…`, `ack`, and `tcp_…` at 500 events and at 1 per message."""
    for shape, per_message, batch_events in _SHAPES:
        batches = synthetic_batches(_events(settings, per_message), shape, batch_events)
        settings.say(f"forwarder: one lane, {per_message} events per message")
        yield _lane_row(batches, f"lane_{per_message}", settings)
        if per_message > 1:
            settings.say("forwarder: ack mode and without")
            yield _ack_row(batches, settings)
    for shape, per_message, _ in _SHAPES:
        settings.say(f"tcp: source, router and null sink, {per_message} events per message")
        yield from _tcp_rows(shape, per_message, settings)


def _events(settings: Settings, per_message: int) -> int:
    return settings.events if per_message > 1 else max(10_000, settings.events // 4)


# -- the sink -----------------------------------------------------------------------------


def _opened(target: str, **options: Any) -> Sink:
    config = load_config("forwarder", {"target": target, "api_key": KEY.hex(), **options})
    sink = config.build(SinkContext("bench"))
    sink.open()
    return sink


def _sent_s(sink: Sink, batches: Sequence[Batch]) -> float:
    began = time.perf_counter()
    for batch in batches:
        sink.write(batch)
        sink.due_in_ms(0)
    sink.flush()
    return time.perf_counter() - began


def _sendall_s(target: str, blocks: Sequence[Bytes]) -> float:
    """Until the receiver has read the last byte and closed."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for block in blocks:
            peer.sendall(block.data)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
        return time.perf_counter() - began


def _lane_row(batches: Sequence[Batch], variant: str, settings: Settings) -> Row:
    wrapper, blocks, frames = FrameWrapper(KEY), [], 0
    for batch in batches:
        wrapped = wrapper.wrap(batch, is_sliceable=False)
        blocks.append(np.frombuffer(b"".join(wrapped.pieces), np.uint8))
        frames += wrapped.frame_count
    assert frames == sum(batch.header.message_count for batch in batches)
    with receiver() as sent_to, receiver() as plain:
        sink = _opened(sent_to)
        laps = _laps(
            lambda: _sent_s(sink, batches), lambda: _sendall_s(plain, blocks), settings.repeat
        )
        sink.close()
    events = sum(batch.header.event_count for batch in batches)
    total = sum(map(len, blocks))
    return rate_row(
        "forwarder", variant, laps, events=events, record_bytes=total, read_back=events,
        limit="sendall",
    )  # fmt: skip


def _ack_row(batches: Sequence[Batch], settings: Settings) -> Row:
    options = {
        "listen": "127.0.0.1:0",
        "api_keys": key_file(settings.directory, KEY),
        "forwarding": True,
        "ack": True,
    }
    with receiver(options) as target:
        plain, acked = _opened(target), _opened(target, ack=True)
        laps = _laps(
            lambda: _sent_s(acked, batches), lambda: _sent_s(plain, batches), settings.repeat
        )
        plain.close()
        acked.close()
    events = sum(batch.header.event_count for batch in batches)
    total = sum(batch.header.record_bytes for batch in batches)
    return rate_row(
        "forwarder", "ack", laps, events=events, record_bytes=total, read_back=events,
        limit="no ack mode",
    )  # fmt: skip


def _laps(path: Callable[[], float], limit: Callable[[], float], repeat: int) -> list[Lap]:
    path()
    limit()
    return [Lap(path(), limit()) for _ in range(repeat)]


# -- the source ---------------------------------------------------------------------------


def _tcp_rows(shape: str, per_message: int, settings: Settings) -> Iterator[Row]:
    """To a null sink, and durable in an archive; both beside a receiver that only reads."""
    events = _events(settings, per_message)
    made = SyntheticConfig(events=events, shape=shape)  # type: ignore[arg-type]
    now_ms = SystemClock().now_ms()
    frames = [np.frombuffer(bytes(f), np.uint8) for f in synthetic_frames(made, KEY, now_ms)]
    directory = settings.directory / f"tcp-{per_message}"
    blocks = [part for frame in frames for part in _cut(frame)]
    for sink in ("null", "disk_binary"):
        target = f"127.0.0.1:{_free_port()}"
        with (
            receiver() as plain,
            Pipeline(_config(directory, sink, target), settings.say) as pipeline,
        ):

            def path(target: str = target, pipeline: Pipeline = pipeline) -> float:
                before = _written(pipeline)
                began = time.perf_counter()
                _sendall_s(target, blocks)
                while _written(pipeline) < before + events:
                    time.sleep(_LOOK_S)
                return time.perf_counter() - began

            laps = _laps(path, partial(_sendall_s, plain, blocks), settings.repeat)
            read_back = _written(pipeline) // (settings.repeat + 1)
        if sink == "disk_binary":
            read_back = verify(directory / "archive").events // (settings.repeat + 1)
        yield rate_row(
            "tcp", f"{sink}_{per_message}", laps, events=events,
            record_bytes=sum(map(len, blocks)), read_back=read_back, limit="bare receiver",
            file_system=_file_system(directory) if sink == "disk_binary" else None,
        )  # fmt: skip


def _file_system(directory: Path) -> str:
    return file_system_of(directory, Path("/proc/mounts").read_text())


def _cut(frames: Bytes) -> list[Bytes]:
    return [frames[at : at + _BLOCK_BYTES] for at in range(0, len(frames), _BLOCK_BYTES)]


def _config(directory: Path, sink: str, listen: str) -> PipelineConfig:
    options = {"path": directory / "archive"} if sink == "disk_binary" else {}
    return PipelineConfig(
        pipeline={"name": f"bench-tcp-{sink}", "state_dir": directory / f"state-{sink}"},
        ray={"object_store_bytes": 2 * GIB},
        sources={"clients": {"type": "tcp", "listen": listen,
                             "api_keys": key_file(directory, KEY)}},
        sinks={"all": {"type": sink, "max_in_flight_bytes": GIB // 2, **options}},
        delivery={"window_bytes": GIB // 2},
    )  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _written(pipeline: Pipeline) -> int:
    """Events that are durable at the sink."""
    return sum(found.events_written for found in pipeline.lane_metrics().values())
