"""A lane as a Ray actor: maps each pushed batch from shared memory and hands it on."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray

from cdp_ray_sinks.actors.garbage import collect_rarely
from cdp_ray_sinks.actors.identity import identity
from cdp_ray_sinks.actors.metric_export import MetricExport, Ticker, pipeline_of
from cdp_ray_sinks.actors.metric_samples import Sample, lane_samples
from cdp_ray_sinks.actors.object_store import populate_mapping
from cdp_ray_sinks.actors.specs import Identity, LaneSpec
from cdp_ray_sinks.actors.state_log import StateLog
from cdp_ray_sinks.batch.batch import Batch, Pack, unpack
from cdp_ray_sinks.batch.batch_block import BatchBlock
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.delivery.backoff import Backoff
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.delivery.lane import Lane
from cdp_ray_sinks.delivery.line_buffer import Cursor, LineBuffer
from cdp_ray_sinks.delivery.push import LOST, Payload, is_inline
from cdp_ray_sinks.delivery.wire import decode_call, encode_answer
from cdp_ray_sinks.errors import ConfigError, SinkError, TransientError
from cdp_ray_sinks.metrics import MetricsSnapshot
from cdp_ray_sinks.placeholders import resolved
from cdp_ray_sinks.sinks.base import HasCounters, HasNotes, Sink, SinkContext

CONCURRENCY_GROUPS = {"data": 16, "control": 4, "lines": 1}


class LaneActor:
    """One lane. The sink is opened beside the constructor, so that a restart always succeeds."""

    def __init__(self, spec: LaneSpec) -> None:
        self._spec = spec
        self._clock = SystemClock()
        self._last_push_ms = self._clock.monotonic_ms()
        self._opened = threading.Event()
        self._open_error: Exception | None = None
        self._is_populated = not spec.populate_object_store
        has_lines = spec.config.prints_lines
        self._lines = LineBuffer(random.getrandbits(62) + 1) if has_lines else None
        self._lane: Lane | None = None
        self._sink: Sink | None = None
        self._metrics = MetricExport(pipeline_of(spec.name))
        self._log = StateLog(spec.name)
        self._ticker = Ticker(self._tick)
        self._ticker.start()
        self._opener = threading.Thread(target=self._open, name="lane-opener", daemon=True)
        self._opener.start()

    def _new_lane(self) -> Lane:
        config = resolved(self._spec.config, os.environ, f"sinks.{self._spec.sink_name}")
        context = SinkContext(
            self._spec.keeps_as,
            self._clock,
            Path(self._spec.state_dir),
            self._lines,
            held_bytes_max=self._spec.held_bytes_max,
            held_batches_max=self._spec.held_batches_max,
        )
        self._sink = sink = config.build(context)
        dead_letters = DeadLetterArchive(
            Path(self._spec.dead_letter_dir), self._spec.keeps_as, self._clock
        )
        return Lane(
            sink,
            self._clock,
            dead_letters,
            random.random,
            by_workspace=config.one_lane_per_workspace,
        )

    def _open(self) -> None:
        """Open the sink, again and again while the reason may heal."""
        backoff, attempt = Backoff(), 0
        while True:
            try:
                lane = self._new_lane()
                lane.start()
            except Exception as error:  # noqa: BLE001 - a sink of somebody's own may raise anything
                is_known = isinstance(error, SinkError | ConfigError | OSError)
                unforeseen = ConfigError(f"{type(error).__name__}: {error}")
                self._open_error = error if is_known else unforeseen
                attempt += 1
                self._clock.sleep_ms(backoff.delay_ms(attempt, random.random))
            else:
                self._open_error = None
                collect_rarely()
                self._lane = lane
                self._opened.set()
                self._on_open()
                return

    def _on_open(self) -> None:
        """Called once the sink is open."""

    @ray.method(concurrency_group="control")
    def ready(self, timeout_s: float, may_be_away: bool = False) -> list[str]:
        """Return once the sink is open: what somebody should know, a sentence each.

        Raises what keeps it from opening; if that may heal and the sink `may_be_away`, it
        returns with the reason instead.
        """
        waited_s = 0.0
        while not self._opened.wait(0.05):
            waited_s += 0.05
            error = self._open_error
            if isinstance(error, ConfigError) or (error is not None and waited_s >= timeout_s):
                if may_be_away and not isinstance(error, ConfigError):
                    return [f"not to be had, its batches are spooled: {error}"]
                raise ConfigError(f"sink {self._spec.sink_name!r}: {error}")
        return self._notes()

    def _notes(self) -> list[str]:
        return list(self._sink.notes) if isinstance(self._sink, HasNotes) else []

    @ray.method(concurrency_group="control")
    def hello(self, router_id: str, session: int) -> int:
        """Begin a router's session; the one in force. TransientError while the sink is shut."""
        return self._opened_lane().hello(router_id, session)

    @ray.method(concurrency_group="data")
    def push(self, call: bytes, references: list[Payload]) -> bytes:
        """Map the batches, write them, answer when durable; one outcome per batch."""
        (router_id, session, number), group = decode_call(call, references)
        self._last_push_ms = self._clock.monotonic_ms()
        lane = self._opened_lane()
        packs = _fetch(group.payloads)
        batches: list[Batch] = []
        lost: list[int] = []
        for place, (header, where) in enumerate(zip(group.headers, group.places, strict=True)):
            pack = packs[where]
            if pack is None:
                lost.append(place)
            else:
                batches.append(
                    unpack(pack, header) if isinstance(pack, Pack) else pack.batch(header)
                )
        if not self._is_populated and not all(map(is_inline, group.payloads)):
            self._is_populated = True
            threading.Thread(target=populate_mapping, name="populate", daemon=True).start()
        outcomes = lane.push(router_id, session, number, group.lows, batches)
        for place in lost:
            outcomes.insert(place, LOST)
        return encode_answer(outcomes)

    @ray.method(concurrency_group="lines")
    def take_lines(self, after: Cursor, wait_ms: int) -> tuple[Cursor, list[str]]:
        """Lines to be printed behind `after`, up to which all were; see `LineBuffer.take`."""
        if self._lines is None:
            raise ConfigError(f"sink {self._spec.sink_name!r} prints no lines")
        return self._lines.take(after, wait_ms)

    @ray.method(concurrency_group="control")
    def identity(self) -> Identity:
        """Who and where this is."""
        return identity(self._spec.name, self._spec.kind)

    @ray.method(concurrency_group="control")
    def report(self) -> dict[str, Any]:
        """Counters, what is queued, what the sink is retried for and what else one should know."""
        return self._report()

    @ray.method(concurrency_group="control")
    def close(self, deadline_ms: int) -> dict[str, Any]:
        """Settle what is queued, close the sink; the last report, and whether it all fitted."""
        return self._close(deadline_ms)

    def _close(self, deadline_ms: int) -> dict[str, Any]:
        is_closed = self._lane is None or self._lane.close(deadline_ms)
        self._ticker.stop()
        return {**self._report(), "is_closed": is_closed}

    def _tick(self) -> None:
        report = self._report()
        self._log.tell(report["last_error"])
        self._metrics.update(self._samples(report))

    def _samples(self, report: dict[str, Any]) -> Iterable[Sample]:
        return lane_samples(self._spec.sink_name, report)

    def _report(self) -> dict[str, Any]:
        error, lane, sink = self._open_error, self._lane, self._sink
        last_error = None if lane is None else lane.last_error()
        return {
            "sink": self._spec.sink_name,
            "metrics": MetricsSnapshot() if lane is None else lane.snapshot(),
            "queued_bytes": 0 if lane is None else lane.queued_bytes(),
            "idle_ms": self._clock.monotonic_ms() - self._last_push_ms,
            "counters": sink.counters() if isinstance(sink, HasCounters) else {},
            "last_error": str(error) if error is not None else last_error,
            "notes": self._notes(),
        }

    def _opened_lane(self) -> Lane:
        if self._lane is None:
            raise TransientError(f"sink {self._spec.sink_name!r} is not open: {self._open_error}")
        return self._lane


def _fetch(payloads: list[Any]) -> list[Pack | BatchBlock | None]:
    """The packs, or blocks of datasets, mapped; None for one whose owner died, which nobody can
    have any more."""
    refs = [payload for payload in payloads if not is_inline(payload)]
    if not refs:
        return payloads
    try:
        found = iter(ray.get(refs))
    except ray.exceptions.ObjectLostError:
        found = iter([_fetch_one(ref) for ref in refs])
    return [payload if is_inline(payload) else _mapped(next(found)) for payload in payloads]


def _fetch_one(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.ObjectLostError:
        return None


def _mapped(found: Any) -> Pack | BatchBlock | None:
    return found if found is None or isinstance(found, Pack) else BatchBlock(found)
