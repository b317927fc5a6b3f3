"""The thread that seals and syncs segments away from the write path."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, Literal, NamedTuple, TypeAlias

from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import FencedError, TransientError
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.files.segment import Segment
from cdp_ray_sinks.files.sync import sync_segments

Task: TypeAlias = Literal["seal", "sync"]
QUEUE_MAX: Final = 1024


class Job(NamedTuple):
    """What to do with a segment. `check` raises FencedError when it is no longer ours.

    `done` is told on the sealer's thread: the segment and what went wrong, if anything.
    """

    segment: Segment
    task: Task
    sync: bool
    check: Callable[[], None]
    done: Callable[[Segment, Task, Exception | None], None]


class Sealer:
    """One background thread with a bounded queue; when that is full the caller does the job."""

    def __init__(self, fs: FileSystem, clock: Clock, queue_max: int = QUEUE_MAX) -> None:
        self._fs = fs
        self._clock = clock
        self._queue: queue.Queue[Job | None] = queue.Queue(queue_max)
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Take a job; does not wait for it unless the queue is full."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sealer", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            run_job(self._fs, self._clock, job)

    def join(self) -> None:
        """Wait until all jobs taken so far are done."""
        self._queue.join()

    def close(self) -> None:
        """Do what is queued and end the thread. Safe to call twice."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            jobs = [self._queue.get()]
            with suppress(queue.Empty):
                while True:
                    jobs.append(self._queue.get_nowait())
            try:
                todo = [job for job in jobs if job is not None]
                _sync_together(self._fs, [job for job in todo if job.task == "sync"])
                for job in todo:
                    if job.task != "sync":
                        run_job(self._fs, self._clock, job)
                if len(todo) < len(jobs):
                    return
            finally:
                for _ in jobs:
                    self._queue.task_done()


def run_job(fs: FileSystem, clock: Clock, job: Job) -> None:
    """Do one job in this thread and tell its `done`. Raises nothing."""
    if job.task == "sync":
        _sync_together(fs, [job])
        return
    segment, problem = job.segment, None
    with segment.lock:
        try:
            job.check()
            if segment.sync_failed:
                segment.seal_anew(fs, clock.now_ms())
            else:
                segment.seal(fs, clock.now_ms(), sync=job.sync)
        except (OSError, FencedError, TransientError) as error:
            problem = error
        segment.close()
    job.done(segment, job.task, problem)


def _sync_together(fs: FileSystem, jobs: Sequence[Job]) -> None:
    with ExitStack() as locks:
        todo = {}
        for job in jobs:
            segment = job.segment
            if segment in todo:
                continue
            locks.enter_context(segment.lock)
            segment.is_sync_queued = False
            if segment.has_files_open and not segment.is_synced and not segment.sync_failed:
                todo[segment] = job
        failed = sync_segments(fs, list(todo))
    for segment, job in todo.items():
        job.done(segment, "sync", failed.get(segment))
