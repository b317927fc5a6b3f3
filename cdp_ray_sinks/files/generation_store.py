"""What a sink without files of its own must remember: generations under way, and a ledger.

    state directory/
    ├── lock                held while a process uses it
    ├── identity            16 bytes that are unique, made once
    ├── ledger              which batches are durable in the destination
    ├── landed              how many rows are there, and of which batches; see landed_rows.py
    ├── generation-<n>      one that may have been sent in part; removed when it is finished
    ├── spare-<n>.new       a finished one, to be written over: that costs less than a new file
    └── refused-<n>.json    messages refused after a restart, whose batches have yet to come back

A generation is synced before anything of it is sent, and removed after the ledger that has
its batches is synced. So whatever moment the process is killed at, the next one finds either
nothing sent, or the very bytes and tokens that may have been sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError, TransientError
from cdp_ray_sinks.files.commit_index import (
    Commit,
    IndexHeader,
    commit_ledger,
    encode_commit,
    encode_snapshot,
    parse_index,
)
from cdp_ray_sinks.files.file_system import (
    NEW_SUFFIX,
    FileSystem,
    LocalFileSystem,
    append_fully,
    make_directories,
    replace_file,
    transient,
)
from cdp_ray_sinks.files.generation_file import (
    Block,
    BlockState,
    Generation,
    RefusedMessages,
    encode_generation,
    encode_landed,
    encode_refused,
    encode_split,
    parse_generation,
    refuse,
    refused_of,
    split,
)
from cdp_ray_sinks.files.landed_file import LandedFile
from cdp_ray_sinks.files.landed_rows import Added
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.partition import HOUR_MS

LEDGER_BYTES_MAX: Final = 4 * 1024 * 1024
"""At this size the ledger is written anew, as a snapshot."""
SPARES_MAX: Final = 4
IDENTITY_BYTES: Final = 16
LEDGER_NAME: Final = "ledger"
GENERATION_NAME: Final = re.compile(r"generation-(\d+)")
_REFUSED = re.compile(r"refused-(\d+)\.json")


class GenerationStore:
    """One sink's state directory. Every method raises TransientError when the disk fails.

    The thread that has the ledger calls `open`, `finish` and `close`; another may call `add`
    meanwhile, and any thread the `note_…` methods, for one block at a time.
    """

    def __init__(self, directory: Path, clock: Clock, fs: FileSystem | None = None) -> None:
        self.directory = directory
        self.ledger = Ledger()
        self.identity = b""
        self.refused: RefusedMessages = {}
        """Refused in an earlier life; to be told when the batch comes again."""
        self._clock = clock
        self._fs = fs or LocalFileSystem()
        self.landed = LandedFile(directory, self._fs)
        self._lock_fd = self._ledger_fd = -1
        self._ledger_bytes = 0
        self._next = 1
        self._finished: set[int] = set()
        self._open: dict[int, int] = {}
        self._spares: deque[Path] = deque()
        self._append_lock = threading.Lock()
        self._refused_files: dict[int, dict[BatchId, int]] = {}

    # -- opening ----------------------------------------------------------------------

    def open(self) -> list[Generation]:
        """Take the directory; returns the generations to be finished first, oldest first.

        Raises TransientError while another process holds it, ConfigError if what it holds is
        damaged: then nobody can tell what has been sent.
        """
        with transient(f"can't use {self.directory}"):
            make_directories(self.directory)
            self._lock()
            try:
                self._read_identity()
                commits = self._read_ledger()
                self._read_refused()
                return self._read_generations(commits)
            except CorruptSegmentError as error:
                self.close()
                raise ConfigError(
                    f"{error}; without it nobody can tell what was sent: move "
                    f"{self.directory} away to begin anew, and batches may land twice"
                ) from None
            except BaseException:
                self.close()
                raise

    def _lock(self) -> None:
        path = self.directory / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
            os.close(fd)
            raise TransientError(f"{self.directory} is held by process {holder}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def _read_identity(self) -> None:
        path = self.directory / "identity"
        if not path.exists():
            replace_file(self._fs, path, [memoryview(os.urandom(IDENTITY_BYTES))])
        self.identity = path.read_bytes()
        if len(self.identity) != IDENTITY_BYTES:
            raise CorruptSegmentError(str(path), 0, "not an identity")

    def _read_ledger(self) -> list[Commit]:
        path = self.directory / LEDGER_NAME
        self.ledger = Ledger()
        if not path.exists():
            self.landed.open(kept_from_hour=None, finished=self._finished)
            self._write_snapshot()
            return []
        data = path.read_bytes()
        contents = parse_index(data, str(path))
        self.ledger.merge(contents.ledger)
        self.ledger.merge(commit_ledger(contents.commits))
        self._finished = {commit.range_checksum for commit in contents.commits}
        self._next = max([contents.header.segment_number, *(n + 1 for n in self._finished)])
        self.ledger.expire(self._clock.now_ms())
        self._ledger_fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._ledger_bytes = contents.valid_bytes
        if contents.valid_bytes < len(data):
            self._fs.truncate(self._ledger_fd, contents.valid_bytes)
        next_hour = self._clock.now_ms() // HOUR_MS + 1
        self.landed.open(kept_from_hour=next_hour, finished=self._finished)
        return list(contents.commits)

    def _read_refused(self) -> None:
        self.refused, self._refused_files = {}, {}
        for number, path in self._numbered(_REFUSED):
            found, self._refused_files[number] = refused_of(path)
            self.refused.update(found)

    def _read_generations(self, commits: Sequence[Commit]) -> list[Generation]:
        """Those not finished. Of finished ones it is made up for that they were not counted."""
        for path in self.directory.glob(f"*{NEW_SUFFIX}"):
            path.unlink()  # never sent: it has its name only once it is synced
        paths = dict(self._numbered(GENERATION_NAME))
        self._next = max([self._next, *(number + 1 for number in paths)])
        self._count_finished(commits, paths)
        found = []
        for number, path in paths.items():
            if number in self._finished:
                path.unlink()
                continue
            data = memoryview(path.read_bytes())
            generation, valid_bytes = parse_generation(data, str(path))
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            if valid_bytes < len(data):
                self._fs.truncate(fd, valid_bytes)
            self._open[generation.number] = fd
            found.append(generation)
        return found

    def _count_finished(self, commits: Sequence[Commit], paths: Mapping[int, Path]) -> None:
        added = []
        for commit in commits:
            path = paths.get(commit.range_checksum)
            whole = None
            if path is not None:
                whole, _ = parse_generation(memoryview(path.read_bytes()), str(path))
            added.append(Added.of(whole, commit))
        self.landed.add(added)

    def _numbered(self, name: re.Pattern[str]) -> list[tuple[int, Path]]:
        matches = ((name.fullmatch(path.name), path) for path in self.directory.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    # -- a generation's life ----------------------------------------------------------

    def next_number(self) -> int:
        """A number that no generation had."""
        self._next += 1
        return self._next - 1

    def add(self, generation: Generation) -> None:
        """On return the generation is on the disk and may be sent."""
        with transient(f"can't write {self._path(generation.number)}"):
            self._write(generation)

    def note_landed(self, generation: Generation, block: Block) -> None:
        """The block's rows are there. Not synced: sent again, the token tells."""
        self._append(generation, encode_landed(block), is_synced=False)
        block.state = BlockState.LANDED

    def note_split(self, generation: Generation, block: Block, parts: Sequence[Block]) -> None:
        """Other blocks take its place; on return they are on the disk and may be sent."""
        self._append(generation, encode_split(block, parts), is_synced=True)
        split(generation, block, parts)

    def note_refused(self, generation: Generation, block: Block, reason: str) -> None:
        """The block's rows will never be taken; their entries are among `refusals` on return."""
        self._append(generation, encode_refused(block, reason), is_synced=True)
        refuse(generation, block, reason)

    def finish(self, generations: Iterable[Generation], *, refusals_are_kept: bool = True) -> None:
        """All blocks of these are settled: their batches are durable, they are removed.

        With `refusals_are_kept` False the batches with refused messages do not count as had:
        when they come again, `refused` tells what of them was not taken.
        """
        done = list(generations)
        if not done:
            return
        with transient(f"can't write {self.directory / 'ledger'}"):
            commits = []
            for generation in done:
                if not refusals_are_kept and generation.refusals:
                    self._keep_refused(generation)
                commits.append(self._commit_of(generation, refusals_are_kept))
            self._append_to_ledger(b"".join(map(encode_commit, commits)))
        for entry in commit_ledger(commits):
            for sequence, checksum in entry.durable.items():
                self.ledger.add(
                    entry.producer, entry.epoch, sequence, checksum, self._clock.now_ms()
                )
        with transient(f"can't write {self.landed.path}"):
            self.landed.add([Added.of(*pair) for pair in zip(done, commits, strict=True)])
        with transient(f"can't clean up {self.directory}"):
            for generation in done:
                self._remove(generation)
            self._forget_refused()
            if self._ledger_bytes > LEDGER_BYTES_MAX:
                self._write_snapshot()
                self.landed.ledger_is_new()

    def note_before(self, rows: Mapping[str, int]) -> None:
        """Tables hold that many rows now: all but those that have been counted were there before.

        Raises TransientError.
        """
        counted = self.landed.known.rows
        landed = {table: counted[table].landed if table in counted else 0 for table in rows}
        with transient(f"can't write {self.landed.path}"):
            self.landed.note_before({table: rows[table] - landed[table] for table in rows})

    def _append_to_ledger(self, data: bytes) -> None:
        if self._ledger_fd < 0:
            self._write_snapshot()
        try:
            append_fully(self._fs, self._ledger_fd, data)
            self._fs.sync(self._ledger_fd)
        except OSError:
            # What a failed sync left in the file nobody knows: the next one goes to a new file.
            os.close(self._ledger_fd)
            self._ledger_fd = -1
            raise
        self._ledger_bytes += len(data)

    def _commit_of(self, generation: Generation, refusals_are_kept: bool) -> Commit:
        entries = generation.entries
        if not refusals_are_kept and generation.refusals:
            keep = np.ones(len(entries), bool)
            keep[[refusal.batch for refusal in generation.refusals]] = False
            entries = entries[keep]
        # A commit's range means nothing here; its checksum's place has the generation's number.
        return Commit(0, 0, generation.number, self._clock.now_ms(), entries)

    def _remove(self, generation: Generation) -> None:
        fd = self._open.pop(generation.number, -1)
        if fd >= 0:
            os.close(fd)
        self._finished.add(generation.number)
        path = self._path(generation.number)
        if fd >= 0 and len(self._spares) < SPARES_MAX:
            spare = path.with_name(f"spare-{generation.number}{NEW_SUFFIX}")
            path.rename(spare)
            self._spares.append(spare)
        else:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything. Safe to call twice."""
        for fd in [*self._open.values(), self._ledger_fd, self._lock_fd]:
            if fd >= 0:
                os.close(fd)
        self._open.clear()
        self.landed.close()
        self._ledger_fd = self._lock_fd = -1
        while self._spares:
            self._spares.pop().unlink(missing_ok=True)

    # -- refused in an earlier life ---------------------------------------------------

    def _keep_refused(self, generation: Generation) -> None:
        found: RefusedMessages = {}
        checksums: dict[BatchId, int] = {}
        for batch, message, entry, reason in generation.refusals:
            row = generation.entries[batch]
            batch_id = BatchId(row["producer"].tobytes(), int(row["epoch"]), int(row["sequence"]))
            found.setdefault(batch_id, []).append((message, entry, reason))
            checksums[batch_id] = int(row["checksum"])
        path = self.directory / f"refused-{generation.number}.json"
        plain = [
            [i.producer.hex(), i.epoch, i.sequence, checksums[i], refused]
            for i, refused in found.items()
        ]
        replace_file(self._fs, path, [memoryview(json.dumps(plain).encode())])
        self._refused_files[generation.number] = checksums
        self.refused.update(found)

    def _forget_refused(self) -> None:
        """Those whose batches have come again and are durable."""
        for number, checksums in list(self._refused_files.items()):
            had = [i for i, checksum in checksums.items() if self.ledger.has(*i, checksum)]
            for batch_id in had:
                self.refused.pop(batch_id, None)
            if len(had) == len(checksums):
                (self.directory / f"refused-{number}.json").unlink(missing_ok=True)
                del self._refused_files[number]

    # -- bytes ------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self.directory / f"generation-{number}"

    def _append(
        self, generation: Generation, pieces: Sequence[memoryview], *, is_synced: bool
    ) -> None:
        path = self._path(generation.number)
        with transient(f"can't write {path}"), self._append_lock:
            fd = self._open[generation.number]
            if fd < 0:
                self._write(generation)
                fd = self._open[generation.number]
            try:
                for piece in pieces:
                    append_fully(self._fs, fd, piece)
                if is_synced:
                    self._fs.sync(fd)
            except OSError:
                os.close(fd)
                self._open[generation.number] = -1  # as with the ledger: anew, as a whole
                raise

    def _write(self, generation: Generation) -> None:
        path = self._path(generation.number)
        with contextlib.suppress(IndexError):  # two threads may ask for the last one
            self._spares.pop().rename(path.with_name(path.name + NEW_SUFFIX))
        replace_file(self._fs, path, encode_generation(generation, self._clock.now_ms()))
        self._open[generation.number] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _write_snapshot(self) -> None:
        """The ledger as it is now, in a new file."""
        self._fs.sync_directory(self.directory)  # what it forgets as finished is gone for good
        head = IndexHeader(self._next, 0, 0, self._clock.now_ms()).to_bytes()
        body = encode_snapshot(self.ledger.snapshot())
        path = self.directory / LEDGER_NAME
        replace_file(self._fs, path, [memoryview(head), memoryview(body)])
        if self._ledger_fd >= 0:
            os.close(self._ledger_fd)
        self._ledger_fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._ledger_bytes = len(head) + len(body)
        self._finished = set()
