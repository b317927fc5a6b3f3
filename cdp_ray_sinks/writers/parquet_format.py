"""Parquet as the format of published files; see `files.table_format`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.batch.columns import DecodeBuffers
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.binary import BinaryWriter
from cdp_ray_sinks.writers.parquet import (
    SUFFIX,
    ParquetFile,
    ParquetSettings,
    PreparedRows,
    groups_of,
    read_footer,
)


class ParquetFormat:
    """Makes Parquet files; one decoder's memory, twice, serves all of them.

    While a thread of its own writes rows, the next are decoded in the caller's.
    """

    suffix: ClassVar[str] = SUFFIX

    def __init__(self, settings: ParquetSettings) -> None:
        self._settings = settings
        self._turns = deque([_Turn(DecodeBuffers()), _Turn(DecodeBuffers())])
        self._row_writer = ThreadPoolExecutor(1, "row-writer")

    def new_file(self, out: BinaryIO, stream: str, workspace_id: int) -> OverlappedFile:
        """A file that is written to `out`."""
        file = ParquetFile(out, stream, workspace_id, self._settings)
        return OverlappedFile(
            file, self._settings.row_group_rows, self._turns, self._row_writer.submit
        )

    def metadata_of(self, path: Path) -> Mapping[str, str] | None:
        """What `ParquetFile.finish` was given; None if that is no file of ours."""
        try:
            return read_footer(path).metadata
        except ValueError:
            return None
        except OSError as error:
            if error.errno is None:  # how a footer is refused that only looks like one
                return None
            raise


@dataclass(slots=True)
class _Turn:
    """Memory for prepared rows, and the writing of those that are in it."""

    buffers: DecodeBuffers
    writing: Future[int] | None = None


class OverlappedFile:
    """A `ParquetFile` of which rows are written while the next are decoded.

    One thread at a time calls it. What went wrong in writing is raised by the next call that
    may raise it, by `finish` at the latest.
    """

    def __init__(
        self,
        file: ParquetFile,
        rows_max: int,
        turns: deque[_Turn],
        submit: Callable[[Callable[[PreparedRows], int], PreparedRows], Future[int]],
    ) -> None:
        self.rows = 0
        self._file = file
        self._rows_max = rows_max
        self._turns = turns
        self._submit = submit
        self._writings: deque[Future[int]] = deque()

    def add(self, batches: Sequence[Batch]) -> None:
        """As `ParquetFile.add`; on return the batches are decoded, not all of them written."""
        for first, end in groups_of(batches, self._rows_max):
            turn = self._turns[0]
            self._turns.rotate()
            if turn.writing is not None:
                wait([turn.writing])  # it may be another file's: whose it is, hears of it
            while self._writings and self._writings[0].done():
                self._writings.popleft().result()
            prepared = self._file.prepare(batches[first:end], turn.buffers)
            turn.writing = self._submit(self._file.write, prepared)
            self._writings.append(turn.writing)
            self.rows += prepared.rows

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write what is not yet written, and the footer; see `ParquetFile.finish`."""
        while self._writings:
            self._writings.popleft().result()
        self._file.finish(metadata)

    def abandon(self) -> None:
        """Let go of the file when the writing under way has ended. Raises nothing."""
        wait(self._writings)
        self._writings.clear()
        self._file.abandon()


class JournalWriter(BinaryWriter):
    """Writes batches as they are, into a stream for each schema that has a table."""

    def stream_of(self, header: BatchHeader) -> str:
        """The name of the table; KeyError for a schema without one."""
        return STREAMS[header.schema_type]
