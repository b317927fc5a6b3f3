"""The driver's end of a sink that prints: asks its lane for lines and prints them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray

from cdp_ray_sinks.delivery.line_buffer import Cursor

WAIT_MS = 1_000
ASK_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 2.0


class LinePrinting:
    """A thread that prints the lines of one sink, in order, as long as the pipeline runs.

    A line that is printed is told so, and only that lets it go. When they can't be printed
    any more, `problem` says why and the rest is let go unprinted, so that the pipeline can
    still be drained.
    """

    def __init__(
        self,
        sink_name: str,
        lane: Any,
        print_text: Callable[[str], None],
    ) -> None:
        self._sink_name = sink_name
        self._lane = lane
        self._print_text = print_text
        self._stopped = threading.Event()
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"lines-{sink_name}", daemon=True)

    def start(self) -> None:
        """Begin to print."""
        self._thread.start()

    def stop(self) -> None:
        """Print no more; call it once the lane is gone or is not to be asked any more."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until nothing more is asked or printed, at most STOP_TIMEOUT_S."""
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        cursor = Cursor()
        while not self._stopped.is_set():
            try:
                cursor, lines = ray.get(
                    self._lane.take_lines.remote(cursor, WAIT_MS), timeout=ASK_TIMEOUT_S
                )
            except ray.exceptions.RayError:  # it restarts: its sink shows those lines again
                self._stopped.wait(0.2)
                continue
            if lines and self.problem is None:
                self._print("".join(lines))

    def _print(self, text: str) -> None:
        try:
            self._print_text(text)
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.problem = f"sink {self._sink_name!r}: its lines can't be printed: {reason}"
