"""A producer's book of accounts: each batch when it is taken, and what became of it.

A record is written, not synced, before the batch goes anywhere, so that the book knows of all
that a killed process had under way; a thread syncs once a second. One write has all that was
told since the last: one for each batch would cost more by the other threads that it lets run
than by itself. What becomes of a batch may wait for the next write, a second at most.

A log that has grown becomes totals by workspace, hour and outcome, and the next one begins with
what is still open.

Files are `{producer}-{epoch}.{first part}-{last part}.log` or `.totals`; one whose parts another
file covers as well is to be ignored. What a file holds: `account_records`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from errno import ENOSPC
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final

import xxhash

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.account_files import (
    LOG_SUFFIX,
    TOTALS_SUFFIX,
    account_path,
    book_stem,
    read_book,
    read_file,
)
from cdp_ray_sinks.delivery.account_records import (
    Head,
    Part,
    Taken,
    head_record,
    known_record,
    part_records,
    settled_record,
    taken_record,
    words_record,
)
from cdp_ray_sinks.delivery.push import Outcomes
from cdp_ray_sinks.files.file_system import error_text, make_directories, sync_directory

LOG_BYTES_MAX: Final = 4 * 1024 * 1024
TOTALS_BYTES: Final = 1024 * 1024
"""Totals go into the file of those before them until that has so many bytes."""
SYNC_S: Final = 1.0
RECENT_MAX: Final = 8192
SPOOL_PREFIX: Final = "spool/"


class AccountBook:
    """Thread-safe. Nothing is written before something is taken or noted.

    No method raises OSError: what can't be written is kept in memory and written, as totals,
    when that is possible again; `problem` says why it is not at the moment.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        producer: bytes,
        epoch: int,
        *,
        log_bytes_max: int = LOG_BYTES_MAX,
    ) -> None:
        """Goes on with the book of that producer and epoch, if there is one."""
        self.problem: str | None = None
        self._directory = directory
        self._name = name
        self._producer = producer
        self._epoch = epoch
        self._log_bytes_max = log_bytes_max
        self._lock = threading.Lock()
        self._taken: deque[tuple[int, Sequence[BatchHeader]]] = deque()
        self._settled: deque[Sequence[tuple[int, Outcomes]]] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._fd = -1
        self._path: Path | None = None
        self._end = 0
        self._synced = 0
        before = read_book(directory, book_stem(producer, epoch))
        self._first_part = self._last_part = before.last_part + 1
        self._part = before.state
        self._numbers = {words: number for number, words in enumerate(self._part.words)}

    # -- what is told ---------------------------------------------------------------------

    def take(self, first_sequence: int, headers: Sequence[BatchHeader]) -> None:
        """Batches will go on their way, once `write_told` has returned."""
        self._taken.append((first_sequence, headers))
        self._watch()

    def settle(self, settled: Sequence[tuple[int, Outcomes]]) -> None:
        """Every sink has settled the batches with those sequences, which were taken."""
        self._settled.append(settled)
        self._watch()

    def write_told(self) -> None:
        """On return a kill of the process forgets nothing that was told before.

        A thread calls it once a second. A batch whose end is not written is looked for.
        """
        with self._lock:
            if self._taken or self._settled:
                self._write(self._note_told())

    def note(self, header: BatchHeader, outcomes: Outcomes) -> None:
        """What became of a batch that is in another book; of the same one only once."""
        taken, batch_id = Taken.of(header), header.batch_id
        self._watch()
        with self._lock:
            if batch_id in self._part.recent:
                return
            number, data = self._number_of(outcomes)
            self._part.count(number, taken)
            self._part.recent[batch_id] = number
            if len(self._part.recent) > RECENT_MAX:
                del self._part.recent[next(iter(self._part.recent))]
            self._write(data + known_record(batch_id, number, taken))

    def close(self) -> None:
        """Sync; make totals of the log. What is told afterwards is written all the same."""
        self.write_told()
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._ending = False
        if self._path is not None:
            self._turn_part(is_last=True)

    # -- the log, under the lock ----------------------------------------------------------

    def _note_told(self) -> bytes:
        """Take what was told over into the state; returns the records that say the same."""
        settled_count = len(self._settled)  # no more: what these end was taken before them
        first, data = -1, b""
        taken: list[Taken] = []
        while self._taken:
            sequence, headers = self._taken.popleft()
            if taken and sequence != first + len(taken):  # a stream of another node has holes
                self._part.take(first, taken)
                data += taken_record(first, taken)
                taken = []
            first = first if taken else sequence
            taken += [Taken.of(header) for header in headers]
        if taken:
            self._part.take(first, taken)
            data += taken_record(first, taken)
        rows = []
        for _ in range(settled_count):
            for sequence, outcomes in self._settled.popleft():
                number, words = self._number_of(outcomes)
                self._part.settle(sequence, number)
                data += words
                rows.append((sequence, number))
        return data + settled_record(rows) if rows else data

    def _number_of(self, outcomes: Outcomes) -> tuple[int, bytes]:
        """The number of these words, and the record that says so if it is new."""
        number = self._numbers.get(outcomes)
        if number is not None:
            return number, b""
        number = self._numbers[outcomes] = len(self._part.words)
        self._part.words.append(outcomes)
        return number, words_record(number, outcomes)

    def _write(self, data: bytes) -> None:
        """Append; the state has what the bytes say already, so a new log would have it too."""
        try:
            if self.problem is None and self._fd < 0:
                self._begin_log()
            elif self.problem is None:
                _write_at(self._fd, data, self._end)
                self._end += len(data)
        except OSError as error:
            self.problem = f"accounts can't be written: {error_text(error)}"
        if self._end > self._log_bytes_max:
            self._wake.set()

    def _watch(self) -> None:
        """Have the thread that writes and syncs; one thread at a time tells a book."""
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._run, name="accounts", daemon=True)
            self._thread.start()

    def _begin_log(self) -> None:
        """Make a log that says all of the state, in the place of the one before it."""
        make_directories(self._directory)
        while True:
            path = self._file_path(LOG_SUFFIX)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                break
            except FileExistsError:
                self._last_part += 1
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            data = head_record(self._head(is_log=True)) + part_records(self._part)
            _write_at(fd, data, 0)
            if self._fd >= 0:
                os.fdatasync(fd)  # the one before it is removed
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        old_fd, old_path = self._fd, self._path
        self._fd, self._path, self._end, self._synced = fd, path, len(data), 0
        self.problem = None
        if old_fd >= 0:
            os.close(old_fd)
            assert old_path is not None
            with suppress(OSError):
                old_path.unlink()

    def _head(self, *, is_log: bool) -> Head:
        return Head(
            self._name,
            self._producer.hex(),
            self._epoch,
            self._first_part,
            self._last_part,
            is_log,
        )

    def _file_path(self, suffix: str) -> Path:
        stem = book_stem(self._producer, self._epoch)
        return account_path(self._directory, stem, self._first_part, self._last_part, suffix)

    # -- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        """Write and sync once a second, end what has grown, try again what did not go."""
        while not self._ending:
            self._wake.wait(SYNC_S)
            self._wake.clear()
            self.write_told()
            if self.problem is not None:
                with self._lock:
                    self._heal()
            if self._end > self._log_bytes_max:
                self._turn_part(is_last=False)
            elif self._synced < self._end and self.problem is None:
                self._sync()

    def _sync(self) -> None:
        """Only this thread, and `close` after it, ever closes the descriptor."""
        end = self._end
        try:
            os.fdatasync(self._fd)
            self._synced = end
        except OSError as error:
            self.problem = f"accounts can't be synced: {error_text(error)}"

    def _heal(self) -> None:
        """Write all of the state into a new log, which covers the old one's part."""
        last_part = self._last_part
        self._last_part += self._fd >= 0
        try:
            self._begin_log()
        except OSError as error:
            self._last_part = last_part
            self.problem = f"accounts can't be written: {error_text(error)}"

    def _turn_part(self, *, is_last: bool) -> None:
        """Make totals of the log, and let another one begin with what is open."""
        with self._lock:
            if self.problem is not None:
                self._heal()
            if self.problem is not None:
                return
            part, head = self._part, self._head(is_log=False)
            log_fd, log_path = self._fd, self._path
            assert log_path is not None
            totals_path = self._file_path(TOTALS_SUFFIX)
            closed = Part(words=list(part.words), totals=part.totals, open=dict(part.open))
            closed.next_sequence, closed.recent = part.next_sequence, dict(part.recent)
            closed.gaps = set(part.gaps)
            self._part = Part(words=part.words, open=part.open, recent=part.recent)
            self._part.next_sequence, self._part.gaps = part.next_sequence, part.gaps
            self._fd, self._path = -1, None
            self._first_part = self._last_part = self._last_part + 1
            if part.open or not is_last:
                try:
                    self._begin_log()
                except OSError as error:
                    self.problem = f"accounts can't be written: {error_text(error)}"
        try:
            self._write_totals(head, closed, totals_path)
        except OSError:
            with suppress(OSError):
                os.fdatasync(log_fd)  # the log stays, and says the same
        else:
            with suppress(OSError):
                log_path.unlink()
        finally:
            os.close(log_fd)

    def _write_totals(self, head: Head, closed: Part, path: Path) -> None:
        """Together with the totals before them, while those are few."""
        before, before_path = None, None
        stem = book_stem(self._producer, self._epoch)
        for found in self._directory.glob(f"{stem}.*-{head.first_part - 1}{TOTALS_SUFFIX}"):
            if found.stat().st_size < TOTALS_BYTES:
                before, before_path = read_file(found), found
        if before is not None and before.head is not None and before_path is not None:
            closed.merge(before)
            head = replace(head, first_part=before.head.first_part)
            span = head.first_part, head.last_part
            path = account_path(self._directory, stem, *span, TOTALS_SUFFIX)
        making = path.with_name(f".{path.name}")
        with making.open("wb") as file:
            file.write(head_record(head) + part_records(closed))
            file.flush()
            os.fsync(file.fileno())
        making.replace(path)
        sync_directory(self._directory)
        if before_path is not None and before_path != path:
            with suppress(OSError):
                before_path.unlink()


def spool_book(directory: Path, sink_name: str) -> AccountBook:
    """Of what became of spooled batches later, other than that they landed."""
    name = f"{SPOOL_PREFIX}{sink_name}"
    return AccountBook(directory, name, xxhash.xxh3_128_digest(name.encode()), 0)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    if os.pwrite(fd, data, offset) < len(data):
        raise OSError(ENOSPC, "not all of it was written")
