"""One journal segment on its way to become one file, a group of rows at a time.

The file's name follows from the segment's, so that two writers of the same segment meet at
the same name, where only the first is published. A segment's id stands in the file, which
tells after a crash that it is published already.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import commit_ledger, encode_snapshot
from cdp_ray_sinks.files.file_system import FileSystem, make_directories
from cdp_ray_sinks.files.in_progress import SUFFIX, InProgressFile, places
from cdp_ray_sinks.files.index_reading import PLAIN_SUFFIX
from cdp_ray_sinks.files.journal_reading import JournalReader
from cdp_ray_sinks.files.segment import Totals
from cdp_ray_sinks.files.segment_path import SegmentName, parse_name
from cdp_ray_sinks.files.table_format import TableFile, TableFormat

JOURNAL_KEY: Final = "journal_id"
LEDGER_KEY: Final = "ledger"
DAMAGED_SUFFIX: Final = ".damaged"

Report = Callable[[Path, int, str], None]
"""Called with a file, a byte offset in it, and what is wrong there."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """How much makes a group of rows: whatever is reached first."""

    rows_max: int = 100_000
    bytes_max: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a segment; `path` is None if it held no rows."""

    path: Path | None
    rows: int = 0
    written_bytes: int = 0
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class PublicationPlace:
    """Where a workspace's files come from and go to, and who may publish them."""

    workspace_id: int
    journal: Path
    """The workspace's directory in the journal; the published tree below `published` is alike."""
    published: Path
    in_progress: Path
    writer_epoch: int
    check: Callable[[], None]

    def target_of(self, path: Path, suffix: str = "") -> Path:
        """Where the segment at `path` is to be published, if the name is free."""
        name = path.name.removesuffix(PLAIN_SUFFIX) + suffix
        return self.published / path.relative_to(self.journal).with_name(name)


class Publication:
    """`note`, `seal` and the properties by the chain's thread under the publisher's lock; `step`
    by the publisher's thread."""

    def __init__(
        self,
        path: Path,
        place: PublicationPlace,
        table_format: TableFormat,
        fs: FileSystem,
        limits: GroupLimits,
        report: Report,
        *,
        is_inherited: bool,
    ) -> None:
        self.path = path
        self.place = place
        self.is_sealed = False
        self.is_done = False
        self.is_dropped = False
        self.is_busy = False
        self.failure_count = 0
        self.retry_at_ms = 0
        self._format = table_format
        self._fs = fs
        self._limits = limits
        self._report = report
        self._may_be_published = is_inherited
        self.known = Totals()
        self._taken = Totals()
        self._reader: JournalReader | None = None
        self._file: TableFile | None = None
        self._out: InProgressFile | None = None

    # -- what there is to do --------------------------------------------------------------

    def note(self, confirmed: Totals) -> None:
        """So much of the segment is committed."""
        self.known = confirmed

    def seal(self) -> None:
        """The segment is sealed."""
        self.is_sealed = True

    @property
    def pending_bytes(self) -> int:
        """Bytes committed and not yet in a group of rows."""
        return max(0, self.known.end_offset - self._taken.end_offset)

    @property
    def is_due(self) -> bool:
        """Whether there is a whole group to make, or the rest and the end."""
        if self.is_done or self.is_dropped:
            return False
        rows = self.known.event_count - self._taken.event_count
        is_group = rows >= self._limits.rows_max or self.pending_bytes >= self._limits.bytes_max
        return self.is_sealed or is_group

    # -- the publisher's thread -----------------------------------------------------------

    def step(self, known: Totals, *, is_sealed: bool) -> Published | None:
        """Make one group of rows, or publish if all are made; then returns what became of it.

        `known` and `is_sealed` are what was known when the step began. Raises OSError,
        CorruptSegmentError and FencedError; then call `start_again`.
        """
        if self._reader is None:
            self._reader = JournalReader(self.path, lambda *at: self._report(self.path, *at))
        reader = self._reader
        reader.read_index(None if is_sealed else known.index_bytes)
        if self._may_be_published:
            there = self._find_published(reader.journal_id)
            if there is not None:
                return self._forget_data(Published(there, was_there=True))
            self._may_be_published = False
        batches = reader.take(self._limits.rows_max, self._limits.bytes_max)
        if batches:
            self._add(batches)
        self._taken = reader.taken
        if not is_sealed or not reader.is_at_end:
            return None
        if not reader.is_sealed:
            raise CorruptSegmentError(str(self.path), 0, "sealed, but its index has no seal")
        return self._publish(reader)

    def _add(self, batches: Sequence[Batch]) -> None:
        if self._file is None:
            name = f"{self._in_progress_name}~{self.failure_count}{SUFFIX}"
            self._out = InProgressFile(self._fs, self.place.in_progress / name)
            self._file = self._format.new_file(
                self._out.out, self._name.stream, self.place.workspace_id
            )
        self._file.add(batches)

    def start_again(self) -> None:
        """Throw away what was made: the next `step` begins at the segment's begin."""
        if self._file is not None:
            self._file.abandon()
        if self._out is not None:
            self._out.remove()
        self._file = self._out = self._reader = None
        self._taken = Totals()

    def _publish(self, reader: JournalReader) -> Published:
        if reader.has_damage:
            # Unless another writer has published it and cut the bytes while they were read.
            there = self._find_published(reader.journal_id)
            if there is not None:
                self.start_again()
                return self._forget_data(Published(there, was_there=True))
        file, out = self._file, self._out
        if file is None or out is None or not file.rows:
            published = Published(None)
        else:
            ledger = base64.b64encode(encode_snapshot(commit_ledger(reader.commits))).decode()
            file.finish({JOURNAL_KEY: reader.journal_id, LEDGER_KEY: ledger})
            path, written_bytes = out.publish(
                self._targets(),
                lambda path: self._has_id(path, reader.journal_id),
                self.place.check,
            )
            published = Published(path, file.rows, written_bytes)
            self._file = self._out = None
        self._forget_data(published, is_damaged=reader.has_damage)
        self.start_again()
        return published

    def _forget_data(self, published: Published, *, is_damaged: bool = False) -> Published:
        """The segment's bytes are no longer needed; its index stays, for the ledger.

        Those of a damaged segment are kept beside it, for whoever can repair them.
        """
        if is_damaged:
            assert self._reader is not None
            kept = f"{self.path.name}.{self._reader.journal_id}{DAMAGED_SUFFIX}"
            with suppress(FileNotFoundError):
                self.path.replace(self.path.with_name(kept))
        # Not cut: who has it mapped would be killed by reading what is not there any more.
        make_directories(self.place.in_progress)
        empty = self.place.in_progress / f"{self._in_progress_name}.empty{SUFFIX}"
        empty.touch()
        empty.replace(self.path)
        self._reader = None
        return published

    def _find_published(self, journal_id: str) -> Path | None:
        for path in self._targets():
            if not path.exists():
                return None
            if self._has_id(path, journal_id):
                return path
        return None

    def _has_id(self, path: Path, journal_id: str) -> bool:
        metadata = self._format.metadata_of(path)
        return metadata is not None and metadata.get(JOURNAL_KEY) == journal_id

    @property
    def _name(self) -> SegmentName:
        name = parse_name(self.path.name)
        assert name is not None
        return name

    @property
    def _in_progress_name(self) -> str:
        path = self.path.relative_to(self.place.journal).as_posix().replace("/", "~")
        return f"{self.place.writer_epoch}~{path}"

    def _targets(self) -> Iterator[Path]:
        return places(self.place.target_of(self.path).parent, self._name, self._format.suffix)
