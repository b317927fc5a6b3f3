"""The file of what a server was given; see `landed_rows.py` for what is in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from cdp_ray_sinks.files.file_system import FileSystem, append_fully, replace_file
from cdp_ray_sinks.files.landed_rows import (
    BYTES_MAX,
    FILE_NAME,
    Added,
    LandedRows,
    parse_landed_rows,
)


class LandedFile:
    """Counts finished generations. Methods that write raise OSError; called again they go on."""

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self.path = directory / FILE_NAME
        self.known = LandedRows()
        self._fs = fs
        self._fd = -1
        self._bytes = self._first_bytes = 0

    def open(self, *, kept_from_hour: int | None, finished: Set[int]) -> None:
        """Read it, or make it: batches before that hour, and finished ones, are then not told."""
        if not self.path.exists():
            self.known = LandedRows(numbers=set(finished), kept_from_hour=kept_from_hour)
            self._write_anew()
            return
        data = self.path.read_bytes()
        self.known, valid_bytes = parse_landed_rows(data)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._bytes, self._first_bytes = valid_bytes, data.find(b"\n") + 1
        if valid_bytes < len(data):
            self._fs.truncate(self._fd, valid_bytes)

    def add(self, added: Sequence[Added]) -> None:
        """On return those generations are counted, on the disk too."""
        new = [one for one in added if one.number not in self.known.numbers]
        if not new:
            return
        if self._fd < 0:
            self._write_anew()
        data = b"".join(one.line() for one in new)
        try:
            append_fully(self._fs, self._fd, data)
            self._fs.sync(self._fd)
        except OSError:
            self.close()  # what a failed sync left in it nobody knows: all of it anew
            raise
        for one in new:
            self.known.add(one)
        self._bytes += len(data)
        if self._bytes > max(BYTES_MAX, 4 * self._first_bytes):
            self._write_anew()

    def note_before(self, rows: Mapping[str, int]) -> None:
        """Tables had that many rows before any that are counted."""
        self.known.before = dict(rows)
        self._write_anew()

    def ledger_is_new(self) -> None:
        """No finished generation will ever be asked for again: their numbers may be forgotten."""
        self.known.numbers.clear()
        self._write_anew()

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write_anew(self) -> None:
        self.close()
        data = self.known.snapshot()
        replace_file(self._fs, self.path, [memoryview(data)])
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._bytes = self._first_bytes = len(data)
