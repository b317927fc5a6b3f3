"""The stdout sink: a line for each event, for people to watch.

The sink makes lines; whoever runs it prints them. Inside an actor that is the driver,
because what an actor prints itself goes to a worker's log.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, Literal, TextIO

from pydantic import Field

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.safe_text import printer_to
from cdp_ray_sinks.errors import TerminalError, TransientError
from cdp_ray_sinks.sinks.base import LineOut, SinkConfig, SinkContext
from cdp_ray_sinks.writers.terminal_lines import TerminalLines

WAIT_MS: Final = 10_000


class StdoutConfig(SinkConfig):
    """What is shown: `max_messages` of each batch (0 = all), a header line for each batch.

    `color` follows the terminal: without one, lines are plain whatever it says.
    """

    prints_lines: ClassVar[bool] = True

    type: Literal["stdout"] = "stdout"
    color: bool = True
    show_batch_headers: bool = False
    max_messages: int = Field(default=0, ge=0)

    def build(self, context: SinkContext) -> StdoutSink:
        """The sink; without a `line_out` it prints to this process's own stdout."""
        return StdoutSink(self, context.line_out or DirectLineOut(sys.stdout))


class StdoutSink:
    """Hands over lines; durable means printed. After a restart lines may come again."""

    def __init__(self, config: StdoutConfig, line_out: LineOut) -> None:
        self._lines = TerminalLines(
            colour=config.color,
            show_batch_headers=config.show_batch_headers,
            max_messages=config.max_messages,
        )
        self._line_out = line_out
        self._accepted: deque[Batch] = deque()
        self._pages: Iterator[list[str]] | None = None
        self._page: list[str] = []

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Accept a batch. Raises TerminalError if it contradicts itself."""
        if not batch.offsets_fit():
            raise TerminalError(f"batch {batch.header.batch_id}: its offsets do not fit its bytes")
        self._accepted.append(batch)

    def flush(self) -> None:
        """On return all lines are printed.

        Raises TransientError if nobody takes them for WAIT_MS; calling it again goes on
        where it stopped.
        """
        if self._pages is None:
            self._pages = self._all_pages()
        try:
            while True:
                if not self._page:
                    self._page = next(self._pages, [])
                if not self._page:
                    break
                if not self._line_out.put(self._page, WAIT_MS):
                    raise TransientError("nobody takes the lines that are to be printed")
                self._page = []
        except TransientError:
            raise
        except BaseException:
            self._pages = None  # it is over once it has raised: show those batches again
            raise
        self._pages = None
        if not self._line_out.settle(WAIT_MS):
            raise TransientError("the last lines were taken but not yet printed")

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Nothing depends on time."""

    def close(self) -> None:
        """Print what is left."""
        self.flush()

    def _all_pages(self) -> Iterator[list[str]]:
        while self._accepted:
            yield from self._lines.pages(self._accepted[0])
            self._accepted.popleft()


class DirectLineOut:
    """Prints to a stream of this process; colours only if that is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._print = printer_to(stream)

    def put(self, lines: Sequence[str], timeout_ms: int) -> bool:
        """Print them; raises what the stream raises."""
        self._print("".join(lines))
        return True

    def settle(self, timeout_ms: int) -> bool:
        """They are printed."""
        return True
