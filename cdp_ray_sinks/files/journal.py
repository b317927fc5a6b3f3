"""A workspace's journal: a chain's segments on their way to become published files.

`{base}/.journal/{workspace}/` is the chain's directory; a sealed segment becomes the file of
the same place and name under `{base}/{workspace}/`. Once that is there an empty file takes the
place of its data, and when its index is no longer marked both go. So whatever a start finds
there with bytes in it is to be published, or was just when the last writer ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cdp_ray_sinks.files import in_progress
from cdp_ray_sinks.files.commit_index import INDEX_SUFFIX
from cdp_ray_sinks.files.direct import DirectFiles
from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.files.index_reading import PLAIN_SUFFIX, index_path_of, load_index
from cdp_ray_sinks.files.open_marks import Mark, OpenMarks
from cdp_ray_sinks.files.publication import GroupLimits, Publication, PublicationPlace
from cdp_ray_sinks.files.publisher import Publisher
from cdp_ray_sinks.files.recovery import Damage
from cdp_ray_sinks.files.segment import Segment, Totals
from cdp_ray_sinks.files.table_format import TableFormat

JOURNAL_DIRECTORY: Final = ".journal"
DAMAGE_MAX: Final = 1000


class Journal:
    """Follows the chain of one workspace; see `Follower`."""

    def __init__(
        self,
        base: Path,
        workspace_id: int,
        publisher: Publisher,
        table_format: TableFormat,
        fs: FileSystem,
        limits: GroupLimits,
        direct: DirectFiles | None = None,
    ) -> None:
        """`direct` makes files of batches that are not journalled."""
        self.damage: list[Damage] = []
        self.problem: str | None = None
        """Why something could not be published when the chain was closed."""
        self._workspace_id = workspace_id
        self._directory = base / JOURNAL_DIRECTORY / str(workspace_id)
        self._published_directory = base / str(workspace_id)
        self._publisher = publisher
        self._format = table_format
        self._fs = fs
        self._limits = limits
        self._direct = direct
        self._place: PublicationPlace | None = None
        self._forget_directory: Callable[[Path], None] = lambda directory: None
        self._publications: dict[Path, Publication] = {}
        self._published: set[Path] = set()
        self._may_clear = False

    @property
    def place(self) -> PublicationPlace:
        """Where the workspace's files go; once it is open."""
        assert self._place is not None
        return self._place

    @property
    def is_busy(self) -> bool:
        """Whether batches wait to be published without a journal."""
        return self._direct is not None and self._direct.holds(self._workspace_id)

    @property
    def is_published(self) -> bool:
        """Whether no segment is open or waits to be published."""
        return all(each.is_done for each in self._publications.values())

    def open(
        self, epoch: int, check: Callable[[], None], forget_directory: Callable[[Path], None]
    ) -> None:
        """Remove what was left unfinished, go on with what was left sealed. Raises OSError."""
        self._forget_directory = forget_directory
        self._place = PublicationPlace(
            self._workspace_id,
            self._directory,
            self._published_directory,
            self._directory / in_progress.DIRECTORY,
            epoch,
            check,
        )
        in_progress.remove_leftovers(self._place.in_progress)
        self._adopt()
        self._clear()

    def _adopt(self) -> None:
        """Go on with whatever segments are there."""
        for path in sorted(_segments(self._directory)):
            if not index_path_of(path).exists():
                if _held_bytes(path):
                    self._note(path, 0, "has no index, so it is not published")
            elif not _held_bytes(path) or _is_sealed(path):
                self.sealed(path)

    def is_taken(self, path: Path) -> bool:
        """Whether the file that a segment would become is there already."""
        return self.place.target_of(path, self._format.suffix).exists()

    def committed(self, segment: Segment) -> None:
        """There may be enough for a group of rows."""
        publication = self._publications.get(segment.path)
        if publication is None:
            publication = self._follow(segment.path, is_inherited=False)
        self._publisher.note(publication, segment.confirmed)

    def sealed(self, path: Path) -> None:
        """Its file can be published."""
        if self._place is None or path in self._published:
            return
        publication = self._publications.get(path)
        if publication is None:
            if not _held_bytes(path):
                if index_path_of(path).exists():
                    self._published.add(path)
                    self._may_clear = True
                return
            publication = self._follow(path, is_inherited=True)
            self._publisher.note(publication, Totals(_held_bytes(path)))
        self._publisher.seal(publication)

    def seal_came(self, path: Path) -> None:
        """The file that is being made of it can be ended without waiting for the next tick."""
        publication = self._publications.get(path)
        if publication is not None:
            self._publisher.seal(publication)

    def covered(self, marks: Iterable[Mark]) -> None:
        """Their indexes may go when their files are published."""
        self._may_clear = True

    def tick(self) -> None:
        """Take note of what was published, remove what is not needed any more."""
        for path, publication in list(self._publications.items()):
            if publication.is_done:
                del self._publications[path]
                self._published.add(path)
                self._may_clear = True
        self._clear()

    def close(self) -> None:
        """Wait until all that is sealed is published, or can't be for now."""
        publications = list(self._publications.values())
        self._publisher.join(publications)
        problems = map(self._publisher.problem_of, publications)
        self.problem = next(filter(None, problems), None)
        self._publisher.drop(publications)
        self.tick()
        self._forget_direct()

    def abandon(self) -> None:
        """Publish nothing more."""
        self._publisher.drop(list(self._publications.values()))
        self._publications.clear()
        self._forget_direct()

    def _forget_direct(self) -> None:
        if self._direct is not None:
            self._direct.forget(self._workspace_id)

    def _follow(self, path: Path, *, is_inherited: bool) -> Publication:
        publication = self._publications[path] = Publication(
            path,
            self.place,
            self._format,
            self._fs,
            self._limits,
            self._note,
            is_inherited=is_inherited,
        )
        return publication

    def _note(self, path: Path, offset: int, reason: str) -> None:
        if len(self.damage) < DAMAGE_MAX:
            self.damage.append(Damage(str(path), offset, reason))

    def _clear(self) -> None:
        """Remove the indexes of what is published and no longer marked.

        Only the marks tell that: a name may be given again when a start has removed its files.
        """
        if not self._may_clear:
            return
        self._may_clear = False
        marked = {self._directory / mark.path for mark in OpenMarks(self._directory).read()}
        for path in self._published - marked:
            with suppress(OSError):  # what can't be removed now is by the next start
                path.unlink(missing_ok=True)
                index_path_of(path).unlink(missing_ok=True)
                self._remove_directory(path.parent)
            self._published.discard(path)

    def _remove_directory(self, directory: Path) -> None:
        while directory != self._directory:
            with os.scandir(directory) as entries:
                if any(True for _ in entries):
                    return
            self._forget_directory(directory)
            directory.rmdir()
            directory = directory.parent


def leftover_workspaces(base: Path) -> list[int]:
    """The workspaces whose journal holds something to publish or to remove. Raises OSError."""
    try:
        names = os.listdir(base / JOURNAL_DIRECTORY)  # noqa: PTH208 - names are all we need
    except FileNotFoundError:
        return []
    return sorted(
        int(name) for name in names if name.isdecimal() and has_leftovers(base, int(name))
    )


def has_leftovers(base: Path, workspace_id: int) -> bool:
    """Whether that workspace's journal holds something to publish or to remove."""
    directory = base / JOURNAL_DIRECTORY / str(workspace_id)
    with suppress(FileNotFoundError):
        if any((directory / in_progress.DIRECTORY).iterdir()):
            return True
    return any(map(_held_bytes, _segments(directory)))


def _segments(directory: Path) -> Iterator[Path]:
    """All segments of a journal of which data or index is there; none of hidden directories."""
    found: set[str] = set()
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name.removesuffix(INDEX_SUFFIX)
            if name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _segments(Path(entry.path))
            elif name.endswith(PLAIN_SUFFIX):
                found.add(name)
    yield from (directory / name for name in found)


def _held_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_sealed(path: Path) -> bool:
    index = load_index(path)
    return index is not None and index.seal is not None
