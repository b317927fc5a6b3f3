"""Prove a warehouse: its Parquet files, what waits in its journal, and that nothing is twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive import DAMAGED_MAX, DEPTH_MAX, VerifyReport, stored_bytes, verify
from cdp_ray_sinks.files.commit_index import commit_ledger
from cdp_ray_sinks.files.journal import JOURNAL_DIRECTORY
from cdp_ray_sinks.files.journal_reading import JournalReader
from cdp_ray_sinks.files.ledger import LedgerEntry
from cdp_ray_sinks.files.ledger_text import ledger_entries
from cdp_ray_sinks.files.publication import JOURNAL_KEY, LEDGER_KEY
from cdp_ray_sinks.files.segment_path import parse_place
from cdp_ray_sinks.writers.parquet import SUFFIX, Footer, read_footer

Progress = Callable[[int, int], None]

_BATCH_ROWS: Final = 65_536


def verify_warehouse(path: Path, progress: Progress | None = None) -> VerifyReport:
    """Read every row of the Parquet files under `path`, and the journal if it is there.

    Proven are that each file is whole and has the rows that its footer says, that it lies where
    its workspace is, that journal segments that are not published hold, and that no batch is
    in two of all these. A Parquet file of other software only has to be readable.
    """
    check = _Check()
    tables = list(tables_under(path))
    total_bytes = sum(map(stored_bytes, tables))
    done_bytes = 0
    for table in tables:
        check.table(table)
        done_bytes += stored_bytes(table)
        if progress is not None:
            progress(done_bytes, total_bytes)
    report = check.report()
    journal = path / JOURNAL_DIRECTORY
    if not journal.is_dir():
        return report
    waiting = verify(journal, wanted=check.is_waiting)
    # What was published while it was looked at is not there any more.
    still = [each for each in waiting.damaged if stored_bytes(Path(each.path))]
    if waiting.damaged and not still:
        waiting = replace(waiting, ok=True, damaged_count=0, damaged=[])
    return report + waiting + check.journal()


def tables_under(path: Path) -> Iterator[Path]:
    """The Parquet files of a folder in order, or the one that `path` is; no hidden ones."""
    if path.is_file():
        if path.name.endswith(SUFFIX):
            yield path
        return
    for directory, names, files in os.walk(path):
        depth = len(Path(directory).relative_to(path).parts)
        names[:] = sorted(n for n in names if not n.startswith(".")) if depth < DEPTH_MAX else []
        for name in sorted(files):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield Path(directory) / name


class _Check:
    """What was found so far in one warehouse."""

    def __init__(self) -> None:
        self._tables = self._rows = self._messages = self._held_bytes = 0
        self._damaged: list[CorruptSegmentError] = []
        self._damaged_count = 0
        self._places: dict[BatchId, Path] = {}
        self._journal_ids: dict[str, Path] = {}
        self._waiting: list[JournalReader] = []

    def table(self, path: Path) -> None:
        """One Parquet file."""
        self._tables += 1
        try:
            rows = _row_count(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._complain(path, f"not a whole Parquet file: {error}")
            return
        try:
            footer = read_footer(path)
        except ValueError:
            return  # of other software
        self._rows += rows
        self._messages += footer.messages
        self._held_bytes += stored_bytes(path)
        self._footer(path, footer, rows)

    def _footer(self, path: Path, footer: Footer, rows: int) -> None:
        if rows != footer.rows:
            self._complain(path, f"holds {rows} rows, its footer says {footer.rows}")
        named = parse_place(path).workspace_id
        if named not in (None, footer.workspace_id):
            self._complain(path, f"is of workspace {footer.workspace_id}")
        journal_id = footer.metadata.get(JOURNAL_KEY)
        if journal_id is not None:
            other = self._journal_ids.setdefault(journal_id, path)
            if other != path:
                self._complain(path, f"is of the same journal segment as {other}")
        try:
            self._note(path, ledger_entries(footer.metadata.get(LEDGER_KEY, "")))
        except ValueError as error:
            self._complain(path, f"the batch ids in its footer: {error}")

    def is_waiting(self, path: Path) -> bool:
        """Whether a journal segment is still to be published; notes its batches."""
        if not stored_bytes(path):
            return False
        reader = JournalReader(path, lambda offset, reason: None)
        try:
            reader.read_index()
        except (OSError, CorruptSegmentError):
            return True  # whoever checks its bytes says what is wrong
        if reader.journal_id not in self._journal_ids:
            self._waiting.append(reader)
            return True
        return False

    def journal(self) -> VerifyReport:
        """That no batch in the journal is also published; after `is_waiting` of all segments."""
        self._damaged, self._damaged_count = [], 0
        for reader in self._waiting:
            self._note(reader.path, commit_ledger(reader.commits))
        return VerifyReport(
            not self._damaged_count, 0, 0, 0, 0, 0, 0, self._damaged_count, self._damaged
        )

    def report(self) -> VerifyReport:
        """What was found of the Parquet files."""
        return VerifyReport(
            not self._damaged_count,
            self._tables,
            self._rows,
            self._messages,
            self._held_bytes,
            0,
            0,
            self._damaged_count,
            self._damaged,
        )

    def _note(self, path: Path, entries: list[LedgerEntry]) -> None:
        for entry in entries:
            for sequence in entry.durable:
                batch_id = BatchId(entry.producer, entry.epoch, sequence)
                other = self._places.setdefault(batch_id, path)
                if other != path:
                    self._complain(path, f"batch {batch_id} is in {other} too")

    def _complain(self, path: Path, reason: str) -> None:
        self._damaged_count += 1
        if len(self._damaged) < DAMAGED_MAX:
            self._damaged.append(CorruptSegmentError(str(path), 0, reason))


def _row_count(path: Path) -> int:
    """How many rows a file has, all of which are read. Raises what pyarrow raises."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return sum(batch.num_rows for batch in file.iter_batches(_BATCH_ROWS))
