"""Rotating files inside one process: submit records, never wait, lose nothing.

    sink = AtomicRotationSink(RotationConfig("/data/logs"), BinaryWriter())
    sink.submit("workspace_123", records, message_count)
    sink.stop()

A rotation changes which segment the next batches go to; the old one drains, syncs and is
sealed in the background, and no submit ever waits for any of it.
"""

from __future__ import annotations

import copy
import os
import re
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol, Self

from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import ConfigError, DrainTimeoutError, QueueFullError, SinkError
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.chain import ChainOptions
from cdp_ray_sinks.files.chain_set import ChainSet
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.files.partition import WORKSPACE_ID_MAX, Rotation
from cdp_ray_sinks.files.rotation_policy import RotationPolicy
from cdp_ray_sinks.files.rotation_writer import Mark, RotationWriter, Submitted
from cdp_ray_sinks.files.segment import SegmentWriter

WORKSPACES_KNOWN_MAX: Final = 65_536
_WORKSPACE = re.compile(r"(?:workspace_)?([1-9][0-9]{0,9})")


class RotatingWriter(SegmentWriter, Protocol):
    """A segment writer that can be copied and told how to name its segments."""

    prefix: str


class RotationInterval(Enum):
    """How often a workspace's files rotate, in UTC."""

    HOURLY = "hourly"
    DAILY = "daily"


@dataclass(frozen=True, slots=True)
class RotationConfig:
    """Where the files go, and when what was submitted is made durable.

    `queue_size` batches may be submitted and not yet durable. They are committed when
    `buffer_size` bytes or half of the queue are waiting, or after `flush_interval_ms`.
    Raises ConfigError.
    """

    base_path: str | Path
    rotation_interval: RotationInterval = RotationInterval.HOURLY
    file_prefix: str = "data"
    buffer_size: int = 32 * 1024 * 1024
    queue_size: int = 1000
    flush_interval_ms: int = 100

    def __post_init__(self) -> None:
        for key in ("buffer_size", "queue_size", "flush_interval_ms"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be 1 or more")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.file_prefix):
            raise ConfigError(
                f"file_prefix = {self.file_prefix!r}: letters, digits, '_', '.' and '-' only"
            )


@dataclass(frozen=True, slots=True)
class RotationMetrics:
    """What an `AtomicRotationSink` has done; items are messages.

    Every submitted batch is queued, written or failed. Failed are those that could never
    be written, such as bytes that are no records: `last_error` says why the last one was.
    `batches_rejected` were not taken; `queue_full` counts those for which there was no room.
    """

    batches_queued: int
    batches_submitted: int
    batches_written: int
    batches_failed: int
    batches_rejected: int
    items_submitted: int
    items_written: int
    bytes_written: int
    rotations: int
    workspace_count: int
    queue_full: int
    last_error: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one key per metric."""
        return asdict(self)


class AtomicRotationSink:
    """Files of many workspaces behind one queue. `submit` may be called from any thread.

    Each workspace gets a copy of `writer`, with the config's prefix. Buffers of `pool`, or
    views of them, go back to it when they are durable; all others must not change until
    then. Raises ConfigError for a path that can't be written.
    """

    def __init__(
        self,
        config: RotationConfig,
        writer: RotatingWriter,
        *,
        pool: BufferPool | None = None,
        clock: Clock | None = None,
        fs: FileSystem | None = None,
        producer: bytes | None = None,
    ) -> None:
        self.config = config
        clock = clock or SystemClock()
        interval: Rotation = config.rotation_interval.value
        policy = RotationPolicy(interval)

        def new_writer() -> RotatingWriter:
            own = copy.copy(writer)
            own.prefix = config.file_prefix
            return own

        chains = ChainSet(
            Path(config.base_path).expanduser().absolute(),
            new_writer,
            ChainOptions(policy),
            clock=clock,
            fs=fs,
        )
        chains.open()
        self._queue: deque[Submitted | Mark] = deque()
        # A slot is taken before a batch is queued and comes back when it is durable: that
        # bounds the queue exactly, and no submitter ever takes a lock.
        self._slots: deque[None] = deque([None] * config.queue_size)
        self._workspaces: dict[str | int, int] = {}
        self._rejected = self._queue_full = 0
        self._slow_path = threading.Lock()
        self._stop_lock = threading.Lock()
        self._is_stopped = False
        self._writer = RotationWriter(
            chains,
            self._queue,
            self._slots,
            policy,
            commit_bytes=config.buffer_size,
            commit_batches=max(1, config.queue_size // 2),
            commit_interval_ms=config.flush_interval_ms,
            clock=clock,
            pool=pool,
            producer=producer or os.urandom(16),
        )
        self._thread = threading.Thread(target=self._writer.run, name="rotation", daemon=True)
        self._thread.start()

    def submit(self, workspace: str | int, buffer: Any, count: int) -> None:
        """Take a buffer that holds the records of `count` messages; never waits.

        The files it goes to are those of the time in its records. `workspace` is a number
        from 1 on, or a string such as "42" or "workspace_42". Raises QueueFullError, then
        nothing was taken; ValueError for another workspace; SinkError after `stop`.
        """
        workspace_id = self._workspaces.get(workspace)
        if workspace_id is None:
            workspace_id = self._learn(workspace)
        try:
            self._slots.pop()
        except IndexError:
            self._reject()
        self._queue.append((workspace_id, buffer, count))

    def check_rotation(self, now_ms: int) -> None:
        """Seal, in the background, what is over by `now_ms`; happens by itself each second."""
        self._writer.rotate_at_ms = now_ms

    def flush(self, timeout_s: float = 60.0) -> None:
        """On return all that was submitted before is durable, or was refused for good.

        Raises DrainTimeoutError after `timeout_s`, SinkError if the sink has failed.
        """
        mark = Mark()
        self._queue.append(mark)
        deadline_s = time.monotonic() + timeout_s
        while not mark.reached.wait(min(0.05, timeout_s)):
            if not self._thread.is_alive():
                break
            if time.monotonic() >= deadline_s:
                self._raise_unsettled(timeout_s)
        self._raise_fatal()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Take no more, make all that was submitted durable, seal it, and end the thread.

        Safe to call twice. Raises DrainTimeoutError if batches could not be made durable
        in time (the thread has ended all the same), SinkError if the sink has failed.
        """
        with self._stop_lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            settled = self._take_all_slots(time.monotonic() + timeout_s)
            self._writer.stopping.set()
            self._thread.join()
        self._raise_fatal()
        if not settled:
            self._raise_unsettled(timeout_s)

    def metrics(self) -> RotationMetrics:
        """The counters as they are now."""
        writer = self._writer
        taken, items = writer.batches_taken, writer.items_taken
        settled = writer.batches_written + writer.batches_failed
        waiting = [item for item in self._queue.copy() if isinstance(item, tuple)]
        return RotationMetrics(
            batches_queued=taken + len(waiting) - settled,
            batches_submitted=taken + len(waiting),
            batches_written=writer.batches_written,
            batches_failed=writer.batches_failed,
            batches_rejected=self._rejected,
            items_submitted=items + sum(count for _, _, count in waiting),
            items_written=writer.items_written,
            bytes_written=writer.bytes_written,
            rotations=writer.rotations,
            workspace_count=len(writer.active),
            queue_full=self._queue_full,
            last_error=writer.last_error,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _learn(self, workspace: str | int) -> int:
        """The number of a workspace that was not seen before; raises ValueError."""
        found = _WORKSPACE.fullmatch(str(workspace))
        if found is None or isinstance(workspace, bool) or int(found[1]) > WORKSPACE_ID_MAX:
            raise ValueError(f"workspace {workspace!r} is not one of 1..{WORKSPACE_ID_MAX}")
        if len(self._workspaces) >= WORKSPACES_KNOWN_MAX:
            self._workspaces.clear()
        self._workspaces[workspace] = int(found[1])
        return int(found[1])

    def _reject(self) -> NoReturn:
        with self._slow_path:
            self._rejected += 1
            self._raise_fatal()
            if self._is_stopped:
                raise SinkError("the sink was stopped")
            self._queue_full += 1
        raise QueueFullError(f"{self.config.queue_size} batches are waiting to be written")

    def _take_all_slots(self, deadline_s: float) -> bool:
        """Hold every slot: then nothing is queued and nothing can be; False if it is late."""
        held, mark = 0, None
        while held < self.config.queue_size:
            try:
                self._slots.pop()
                held += 1
            except IndexError:
                if time.monotonic() >= deadline_s or not self._thread.is_alive():
                    return False
                if mark is None or mark.reached.is_set():
                    mark = Mark()  # makes the writer commit now
                    self._queue.append(mark)
                time.sleep(0.001)
        return True

    def _raise_fatal(self) -> None:
        if self._writer.fatal is not None:
            raise self._writer.fatal

    def _raise_unsettled(self, timeout_s: float) -> NoReturn:
        found = self.metrics()
        reason = f": {found.last_error}" if found.last_error else ""
        raise DrainTimeoutError(
            f"{found.batches_queued} batches not durable after {timeout_s} s{reason}",
            found.batches_queued,
        )
