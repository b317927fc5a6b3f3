"""Which segments a start has to look at, so that it need not walk the tree.

`{base}/{workspace}/.lane/<segment number>~<path>.open` is an empty file, made before the
segment; '~' stands for '/' in the segment's path under the workspace. The mark of a sealed
segment is removed once a newer segment exists whose ledger snapshot covers it, so the
marked indexes together always hold the whole ledger; the newest segment's mark stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from cdp_ray_sinks.files.commit_index import INDEX_SUFFIX
from cdp_ray_sinks.files.fence import LANE_DIRECTORY
from cdp_ray_sinks.files.file_system import make_directories

_SLASH: Final = "~"
_SUFFIX: Final = ".open"
"""So that nobody who looks for `*.bin` takes a mark for a segment."""


class Mark(NamedTuple):
    """One marked segment; `path` is relative to the workspace's directory."""

    segment_number: int
    path: str


class OpenMarks:
    """The marks of one workspace."""

    def __init__(self, workspace_directory: Path) -> None:
        self._workspace = workspace_directory
        self._prefix = f"{workspace_directory}/{LANE_DIRECTORY}/"

    @property
    def directory(self) -> Path:
        """Where the marks are."""
        return Path(self._prefix)

    def read(self) -> list[Mark]:
        """All marks, lowest segment number first; files that are no marks are ignored."""
        try:
            names = os.listdir(self._prefix)  # noqa: PTH208 - names are all we need
        except FileNotFoundError:
            return []
        marks = []
        for name in names:
            number, slash, path = name.removesuffix(_SUFFIX).partition(_SLASH)
            parts = path.split(_SLASH)
            if (
                name.endswith(_SUFFIX)
                and slash
                and number.isdecimal()
                and not {"", ".", ".."} & set(parts)
            ):
                marks.append(Mark(int(number), "/".join(parts)))
        return sorted(marks)

    def add(self, mark: Mark) -> None:
        """Make a mark; its directory is not synced. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self._file(mark), flags, 0o644)
        except FileNotFoundError:
            make_directories(self.directory, sync=False)
            fd = os.open(self._file(mark), flags, 0o644)
        os.close(fd)

    def remove(self, marks: Iterable[Mark]) -> None:
        """Remove marks; not synced, because one too many does no harm."""
        for mark in marks:
            with suppress(FileNotFoundError):
                os.unlink(self._file(mark))  # noqa: PTH108 - the name is no Path

    def unmarked_segments(self) -> list[Mark]:
        """Every segment of the tree that has an index, for when there are no marks at all.

        They come oldest partition first and get numbers from 0 on; the true ones are in
        their indexes.
        """
        found = sorted(
            path.relative_to(self._workspace).as_posix().removesuffix(INDEX_SUFFIX)
            for path in self._workspace.rglob(f"*{INDEX_SUFFIX}")
        )
        return [Mark(place, path) for place, path in enumerate(found)]

    def _file(self, mark: Mark) -> str:
        path = mark.path.replace("/", _SLASH)
        return f"{self._prefix}{mark.segment_number}{_SLASH}{path}{_SUFFIX}"
