"""`cdp-sinks run`: a pipeline from start to drained, on screen and by signals."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

from cdp_ray_sinks.batch.safe_text import printer_to
from cdp_ray_sinks.cli.job import Job
from cdp_ray_sinks.cli.output import (
    bytes_text,
    count_text,
    escaped,
    print_json,
    results_apart,
    say,
    say_error,
    stderr_console,
)
from cdp_ray_sinks.cli.running import noted, notes_folder, use_auth_token
from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.errors import CdpError, ConfigError
from cdp_ray_sinks.sinks.custom import look_in

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cdp_ray_sinks.pipeline import Pipeline
    from cdp_ray_sinks.pipeline import Progress as PipelineProgress

EXIT_INTERRUPTED: Final = 130
TABLE_COLUMNS: Final = 120
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LEAVE_S: Final = 30
ECHO_S: Final = 0.3
Watcher = Callable[["PipelineProgress"], None]


class Stop(threading.Event):
    """Set when it is time to drain; `is_signalled` if a signal said so."""

    is_signalled = False


def run_pipeline(
    path: Path,
    address: str | None,
    duration_s: float | None,
    as_json: bool,
    directory: Path | None = None,
    drain_deadline_s: float | None = None,
) -> int:
    """Run until the sources end, `duration_s` has passed or a signal came; then drain.

    Relative paths of the file are relative to `directory` if it is given, which is made if need
    be. 0 when every batch is settled, 1 when a source failed or batches are unsettled.
    """
    job = Job.of(os.environ, Path.cwd())
    if directory is not None:
        path = path.absolute()
        look_in(Path.cwd())  # modules of sinks lie where the command was started
        _enter(directory)
    config = _changed(load(path), address, drain_deadline_s)
    for warning in [*config.warnings(), *(job.warnings(config) if job else [])]:
        say(f"warning: {warning}")

    use_auth_token(os.environ)
    from cdp_ray_sinks.pipeline import Pipeline

    stop = Stop()
    with results_apart() as results, _signals_set(stop) as arm:
        print_text = printer_to(sys.stderr if as_json else results)
        pipeline = Pipeline(config, report=say, print_text=print_text)
        try:
            say(f"starting pipeline {config.pipeline.name!r}")
            pipeline.on_connected = arm
            pipeline.start()
            failure = _run_and_drain(pipeline, stop, duration_s, job)
            summary = pipeline.summary()
        finally:
            pipeline.stop()
        if as_json:
            print_json(summary, results)
        else:
            print_summary(summary, results)
            for name, sink in config.active_sinks().items():
                if place := sink.place():
                    print(escaped(f"{name}: {place}"), file=results)
    if failure is not None:
        say_error(str(failure))
    return 0 if failure is None else 1


def _changed(
    config: PipelineConfig, address: str | None, drain_deadline_s: float | None
) -> PipelineConfig:
    """With what the command line says in place of the file."""
    ray, delivery = config.ray, config.delivery
    if address is not None:
        ray = ray.model_copy(update={"address": address})
    if drain_deadline_s is not None:
        delivery = delivery.model_copy(update={"drain_deadline_s": drain_deadline_s})
    return config.model_copy(update={"ray": ray, "delivery": delivery})


def _enter(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        raise ConfigError(f"--directory {str(directory)!r}: {error.strerror}") from None


def _run_and_drain(
    pipeline: Pipeline, stop: Stop, duration_s: float | None, job: Job | None
) -> CdpError | None:
    """What went wrong, None when all is settled."""
    failure: CdpError | None = None
    note = noted(notes_folder(os.environ), pipeline.config.pipeline.name, pipeline.address)
    with _timer(stop, duration_s), note:
        say(f"running on {pipeline.address}; Ctrl-C drains and leaves")
        try:
            with _watching(pipeline.config) as watcher:
                pipeline.wait(watcher, stop)
        except ConfigError:
            raise
        except CdpError as error:
            failure = error
        if stop.is_set():
            say("draining; Ctrl-C now leaves at once")
        deadline_s = pipeline.config.delivery.drain_deadline_s
        if job is not None and stop.is_signalled:
            deadline_s = job.drain_deadline_s(deadline_s)
        with _bounded(deadline_s + LEAVE_S):
            try:
                pipeline.drain(deadline_s)
            except CdpError as error:
                failure = failure or error
    return failure


@contextmanager
def _bounded(limit_s: float) -> Iterator[None]:
    """Leaves the process after `limit_s`: with its cluster gone a drain may never end."""

    def leave() -> None:
        say_error(f"the drain did not end within {limit_s:g} s; what was durable stays so")
        os._exit(1)

    timer = threading.Timer(limit_s, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _signals_set(stop: Stop) -> Iterator[Callable[[], None]]:
    """The first SIGINT or SIGTERM sets `stop`, a later one ends the process at once.

    What comes within ECHO_S of another is the same one again: `timeout` and supervisors
    signal a process and then its group. A thread takes them as they arrive, because handlers
    run only when the main thread comes to it, which may be long after. What this gives is to
    be called after the cluster is joined, because Ray installs handlers of its own.
    """

    def take(arrivals: socket.socket) -> None:
        signalled_at_s = -ECHO_S
        while arrivals.recv(1):
            is_echo = time.monotonic() - signalled_at_s < ECHO_S
            signalled_at_s = time.monotonic()
            if stop.is_set() and not is_echo:
                if sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a progress line hid the cursor
                os._exit(EXIT_INTERRUPTED)
            stop.is_signalled = True
            stop.set()

    def nothing(number: int, frame: FrameType | None) -> None:
        """That a handler is there lets the signal arrive."""

    def arm() -> None:
        for number in SIGNALS:
            signal.signal(number, nothing)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    heard, told = socket.socketpair()
    told.setblocking(False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    arm()
    threading.Thread(target=take, args=(heard,), name="signals", daemon=True).start()
    try:
        yield arm
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()


@contextmanager
def _timer(stop: threading.Event, duration_s: float | None) -> Iterator[None]:
    """Sets `stop` once `duration_s` has passed."""
    if duration_s is None:
        yield
        return
    timer = threading.Timer(duration_s, stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _watching(config: PipelineConfig) -> Iterator[Watcher | None]:
    """What shows progress: a line per source on a terminal, nothing elsewhere.

    Nothing either where a sink prints lines: they are the progress.
    """
    console = stderr_console()
    prints_lines = any(sink.prints_lines for sink in config.active_sinks().values())
    if prints_lines or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}
    rates: dict[str, Rate] = {}

    def show(progress: PipelineProgress) -> None:
        for source in progress.sources:
            if source.name not in tasks:
                tasks[source.name] = bars.add_task(
                    source.name, total=source.events_expected, counts=""
                )
                rates[source.name] = Rate()
            rate = rates[source.name]
            rate.update(progress.elapsed_s, source.events, source.record_bytes)
            bars.update(tasks[source.name], completed=source.events, counts=rate.text)

    with bars:
        yield show


class Rate:
    """Events and bytes per second over the last moments, for one source."""

    def __init__(self) -> None:
        self._before: tuple[float, int, int] | None = None
        self._events_per_s = self._bytes_per_s = 0.0
        self._events = 0

    def update(self, elapsed_s: float, events: int, record_bytes: int) -> None:
        """Take in totals as they are `elapsed_s` after the start."""
        self._events = events
        if self._before is not None and elapsed_s > self._before[0]:
            span_s = elapsed_s - self._before[0]
            # Half of what was and half of what is: readable, and soon right.
            self._events_per_s += ((events - self._before[1]) / span_s - self._events_per_s) / 2
            self._bytes_per_s += ((record_bytes - self._before[2]) / span_s - self._bytes_per_s) / 2
        self._before = (elapsed_s, events, record_bytes)

    @property
    def text(self) -> str:
        """As the progress line shows it."""
        return (
            f"{count_text(self._events)} events  {count_text(self._events_per_s)} events/s  "
            f"{bytes_text(self._bytes_per_s)}/s"
        )


def print_summary(summary: Mapping[str, Any], out: TextIO) -> None:
    """The sources' totals and a table of the sinks."""
    from rich.console import Console
    from rich.table import Table

    elapsed_s = summary["elapsed_s"]
    width = None if out.isatty() else TABLE_COLUMNS
    console = Console(file=out, highlight=False, markup=False, width=width)
    for name, counters in summary["sources"].items():
        counts = [
            bytes_text(count) if key == "bytes" else f"{count_text(count)} {key.replace('_', ' ')}"
            for key, count in counters.items()
            if count and key != "port"
        ]
        console.print(f"source {name}: {', '.join(counts) or 'nothing'}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sink")
    heads = ["events", "messages", "batches", "bytes", "MB/s", "errors", "dropped", "dead letters"]
    hit_rates = {name: sink["buffer_hit_rate"] for name, sink in summary["sinks"].items()}
    has_buffers = any(hit_rate is not None for hit_rate in hit_rates.values())
    for head in [*heads, "buffer hits"] if has_buffers else heads:
        table.add_column(head, justify="right")
    for name, sink in summary["sinks"].items():
        rate = sink["bytes"] / 1e6 / elapsed_s if elapsed_s else 0.0
        taken = [count_text(sink[key]) for key in ("events", "messages", "batches")]
        lost = [count_text(sink[key]) for key in ("errors", "dropped", "dead_letters")]
        cells = [*taken, bytes_text(sink["bytes"]), f"{rate:.1f}", *lost]
        if has_buffers:
            cells.append("" if hit_rates[name] is None else f"{hit_rates[name]:.2%}")
        table.add_row(f"{name} ({sink['type']})", *cells)
    console.print(table)
    console.print(f"{elapsed_s:.1f} s")
