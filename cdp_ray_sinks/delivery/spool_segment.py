"""One segment of a spool while it is emptied: what was handed out, and how far it is settled."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive import segment_info, segments
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.files.index_reading import header_of, index_path_of, load_index, slices
from cdp_ray_sinks.files.segment_opening import open_segment

POSITION_SUFFIX: Final = ".pos"
_POSITION = struct.Struct("<QQ")


@dataclass(eq=False, slots=True)
class SpoolSegment:
    """One file: `position` is where the first batch begins that was not handed out yet.

    `out` has those handed out and unsettled: where each begins, and its events.
    `is_exhausted` if all that was there when it was last looked at is handed out.
    """

    path: Path
    workspace_id: int
    number: int
    created_ms: int
    position: int = 0
    is_sealed: bool = False
    is_exhausted: bool = False
    out: dict[int, int] = field(default_factory=dict)
    _noted_bytes: int = 0
    _batches: Iterator[tuple[int, Batch]] | None = None

    @classmethod
    def of(cls, path: Path, workspace_id: int, number: int, is_sealed: bool) -> SpoolSegment:
        """A segment found on the disk; nothing of it was handed out."""
        created_ms = int(path.stat().st_ctime * 1000)
        index = load_index(path)
        if index is not None and index.header is not None:
            created_ms = index.header.created_at_ms
        return cls(path, workspace_id, number, created_ms, is_sealed=is_sealed)

    def next(self, note: Callable[[str], None]) -> SpooledBatch | None:
        """The next batch; None when all that is there is handed out. Damage is noted."""
        if self.is_exhausted:
            return None
        if self._batches is None:
            self._batches = self._read(note)
        for offset, batch in self._batches:
            self.position = offset + batch.header.record_bytes
            self.out[offset] = batch.header.event_count
            return SpooledBatch(batch, self, offset)
        self._batches, self.is_exhausted = None, True
        return None

    def take_back(self, offset: int) -> None:
        """The batch that was handed out last is the next one again."""
        del self.out[offset]
        self.position = offset
        self.is_exhausted, self._batches = False, None

    def give_back(self) -> None:
        """Begin again at the first batch that is not settled."""
        if self.out:
            self.position = min(self.out)
            self.out.clear()
            self.is_exhausted, self._batches = False, None

    def look_again(self, *, is_sealed: bool) -> None:
        """There may be more in it than before."""
        self.is_exhausted, self._batches, self.is_sealed = False, None, is_sealed

    def look_whether_sealed(self) -> bool:
        """Whether its writer is done with it.

        When it has just become so it is to be read once more: its last commit may be new.
        """
        if not self.is_sealed:
            with suppress(OSError):
                if segment_info(self.path).is_sealed:
                    self.look_again(is_sealed=True)
        return self.is_sealed

    def waiting(self) -> list[BatchHeader]:
        """Each batch not handed out yet, by the index alone."""
        return [header for start, header in self._listed() if start >= self.position]

    def unsettled(self) -> list[BatchHeader]:
        """Those, and what is handed out."""
        return [
            header
            for start, header in self._listed()
            if start >= self.position or start in self.out
        ]

    def _listed(self) -> Iterator[tuple[int, BatchHeader]]:
        index = load_index(self.path)
        if index is not None:
            for part in slices(index, self.file_bytes(), lambda damage: None, self.path):
                if part.entry is not None:
                    yield part.start, header_of(part.entry, self.workspace_id)

    def file_bytes(self) -> int:
        """How long the data file is; 0 if it is not there."""
        with suppress(OSError):
            return self.path.stat().st_size
        return 0

    def delete(self) -> int:
        """Remove its files; how many bytes of data that gave back."""
        freed_bytes = self.file_bytes()
        for path in (self.path, index_path_of(self.path), self._position_path):
            path.unlink(missing_ok=True)
        return freed_bytes

    def write_position(self) -> None:
        """Note up to where all is settled; not synced, as handing out twice does no harm."""
        settled_bytes = min(self.out, default=self.position)
        if settled_bytes == self._noted_bytes:
            return
        record = _POSITION.pack(settled_bytes, xxh3(settled_bytes.to_bytes(8, "little")))
        fd = os.open(self._position_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, record, 0)
        finally:
            os.close(fd)
        self._noted_bytes = settled_bytes

    def read_position(self) -> None:
        """Begin where an earlier life had settled all before; at 0 if that is not known."""
        with suppress(OSError, struct.error):
            settled_bytes, checksum = _POSITION.unpack(self._position_path.read_bytes())
            if checksum == xxh3(settled_bytes.to_bytes(8, "little")):
                self.position = self._noted_bytes = settled_bytes

    @property
    def _position_path(self) -> Path:
        return self.path.with_name(self.path.name + POSITION_SUFFIX)

    def _read(self, note: Callable[[str], None]) -> Iterator[tuple[int, Batch]]:
        try:
            opened = open_segment(self.path, lambda damage: note(str(damage)))
            for offset, batch in opened.located(self.position):
                if offset >= self.position:
                    yield offset, batch
        except (CorruptSegmentError, OSError) as error:
            note(str(error))


@dataclass(frozen=True, slots=True)
class SpooledBatch:
    """A batch handed out, and where it came from."""

    batch: Batch
    segment: SpoolSegment
    offset: int


def left_in_spool(directory: Path) -> list[BatchHeader]:
    """What waits in a spool, as its files say: the last it settled may be among it.

    Raises OSError.
    """
    found: list[BatchHeader] = []
    for info in segments(directory) if directory.is_dir() else ():
        with suppress(FileNotFoundError):  # it was just settled
            if info.workspace_id is not None:
                number = info.segment_number or 0
                segment = SpoolSegment.of(info.path, info.workspace_id, number, info.is_sealed)
                segment.read_position()
                found += segment.waiting()
    return found
