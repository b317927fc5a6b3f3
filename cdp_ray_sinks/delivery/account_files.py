"""The folder of accounts: which files it has, what they say together, when they may go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final, TypeAlias

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.delivery.account_records import Part, Taken, read_part
from cdp_ray_sinks.files.file_system import opened, sync_directory
from cdp_ray_sinks.files.landed import Count, Place
from cdp_ray_sinks.files.partition import HOUR_MS

LOG_SUFFIX: Final = ".log"
TOTALS_SUFFIX: Final = ".totals"
KEPT_FROM_FILE: Final = "kept_from.json"
READ_TRIES: Final = 20

Counts: TypeAlias = dict[Place, Count]


@dataclass(slots=True)
class Book:
    """All parts of one book. `state` is what its writer goes on with: no totals in it."""

    name: str = ""
    last_part: int = -1
    state: Part = field(default_factory=Part)
    parts: list[Part] = field(default_factory=list)


@dataclass(slots=True)
class Accounts:
    """What all books say together.

    `settled` by sink and outcome; `open` are the batches that no answer is known of, whether
    they are on their way or their process is gone; `taken` by producer's name. Hours before
    `kept_from_hour` are not all there any more.
    """

    settled: dict[str, dict[str, Counts]] = field(default_factory=dict)
    open: dict[BatchId, Taken] = field(default_factory=dict)
    taken: dict[str, Counts] = field(default_factory=dict)
    epochs: set[tuple[bytes, int]] = field(default_factory=set)
    kept_from_hour: int | None = None
    damaged: list[str] = field(default_factory=list)

    def of(self, sink: str, *outcomes: str) -> Counts:
        """What became so of the batches of a sink."""
        found: Counts = {}
        for outcome in outcomes:
            for place, count in self.settled.get(sink, {}).get(outcome, {}).items():
                found.setdefault(place, Count()).add_all(count)
        return found


def book_stem(producer: bytes, epoch: int) -> str:
    """What the names of a book's files begin with."""
    return f"{producer.hex()[:16]}-{epoch:x}"


def account_path(directory: Path, stem: str, first_part: int, last_part: int, suffix: str) -> Path:
    """The file of a book that covers those parts."""
    return directory / f"{stem}.{first_part}-{last_part}{suffix}"


def read_file(path: Path) -> Part:
    """What a file says, as far as it holds. Raises OSError."""
    return read_part(path.read_bytes())


def read_book(directory: Path, stem: str) -> Book:
    """The book of that stem; an empty one if there is none, or it can't be read."""
    with suppress(OSError):
        return _book(directory.glob(f"{stem}.*"), [])
    return Book()


def read_accounts(directory: Path) -> Accounts:
    """All books of a folder, also while they are being written. Raises OSError."""
    accounts = Accounts()
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        text = (directory / KEPT_FROM_FILE).read_text()
        accounts.kept_from_hour = int(json.loads(text)["hour"])
    for stem in sorted({path.name.split(".")[0] for path in _files(directory)}):
        _add(accounts, _read_steadily(directory, stem, accounts.damaged))
    return accounts


def prune(directory: Path, age_days_max: int, now_ms: int) -> None:
    """Remove what was last written so long ago and is not being written.

    What was removed can't be audited any more: that is noted before. Raises OSError.
    """
    oldest_ms = now_ms - age_days_max * 24 * HOUR_MS
    old = [path for path in _files(directory) if _is_over(path, oldest_ms)]
    if not old:
        return
    making = directory / f".{KEPT_FROM_FILE}"
    making.write_text(json.dumps({"hour": oldest_ms // HOUR_MS + 1}))
    with opened(making) as fd:
        os.fsync(fd)
    making.replace(directory / KEPT_FROM_FILE)
    sync_directory(directory)
    for path in old:
        path.unlink(missing_ok=True)


def _is_over(path: Path, oldest_ms: int) -> bool:
    try:
        if path.stat().st_mtime * 1000 >= oldest_ms:
            return False
        with opened(path) as fd:
            flock(fd, LOCK_EX | LOCK_NB)
    except OSError:
        return False  # its writer holds it, or another one removes it too
    return True


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return [
        path
        for path in directory.iterdir()
        if path.suffix in (LOG_SUFFIX, TOTALS_SUFFIX) and not path.name.startswith(".")
    ]


def _read_steadily(directory: Path, stem: str, damaged: list[str]) -> Book:
    """A book, once no file of it came or went while it was read."""
    for last_try in (*[False] * READ_TRIES, True):
        found = sorted(path for path in _files(directory) if path.name.split(".")[0] == stem)
        said: list[str] = []
        with suppress(FileNotFoundError):
            book = _book(found, said)
            after = sorted(path for path in _files(directory) if path.name.split(".")[0] == stem)
            if found == after or last_try:
                damaged += said
                return book
        time.sleep(0.05)
    raise FileNotFoundError(2, "its files keep changing", str(directory / stem))


def _book(paths: Iterable[Path], damaged: list[str]) -> Book:
    """The parts of a book, without those that others cover. Raises OSError."""
    found: list[Part] = []
    last_named = -1
    for path in paths:
        part = read_file(path)
        with suppress(ValueError):
            last_named = max(last_named, int(path.name.split(".")[1].split("-")[1]))
        if part.head is None:
            if path.stat().st_size:
                damaged.append(f"{path}: not readable")
        else:
            found.append(part)
    book = Book(last_part=last_named)
    found.sort(key=_span)
    end = -1
    for part in found:  # by first part; of those that begin alike, the longest one first
        assert part.head is not None
        if part.head.last_part > end:
            book.parts.append(part)
            end = part.head.last_part
    if book.parts:
        last = book.parts[-1]
        assert last.head is not None
        book.name = last.head.name
        book.state = Part(
            open=dict(last.open),
            next_sequence=last.next_sequence,
            gaps=set(last.gaps),
            recent=dict.fromkeys(last.recent, 0),
        )
    return book


def _span(part: Part) -> tuple[int, int, bool]:
    assert part.head is not None
    return part.head.first_part, -part.head.last_part, part.head.is_log


def _add(accounts: Accounts, book: Book) -> None:
    taken = accounts.taken.setdefault(book.name, {})
    for part in book.parts:
        assert part.head is not None
        accounts.epochs.add((bytes.fromhex(part.head.producer), part.head.epoch))
        for (number, workspace_id, hour), count in part.totals.items():
            place = Place(workspace_id, hour)
            taken.setdefault(place, Count()).add_all(count)
            for sink, outcome in part.words[number]:
                by_outcome = accounts.settled.setdefault(sink, {})
                by_outcome.setdefault(outcome, {}).setdefault(place, Count()).add_all(count)
    if book.parts:
        head = book.parts[-1].head
        assert head is not None
        for sequence, each in book.state.open.items():
            accounts.open[BatchId(bytes.fromhex(head.producer), head.epoch, sequence)] = each
            place = Place(each.workspace_id, each.hour)
            taken.setdefault(place, Count()).add(1, each.messages, each.events)
