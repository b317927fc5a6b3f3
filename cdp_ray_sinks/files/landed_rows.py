"""What a server was given: rows per table, batches per workspace and hour. Kept by the ledger.

`landed` is a file of lines, each `{xxh3-64 of the rest, hex} {JSON}`. The first says what was
known when the file was made, each other what one finished generation added, by its number:
a number counts once. It ends where the first line does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from cdp_ray_sinks.files.commit_index import Commit, xxh3
from cdp_ray_sinks.files.generation_file import BlockState, Generation
from cdp_ray_sinks.files.landed import Count, Place
from cdp_ray_sinks.files.partition import HOUR_MS

FILE_NAME: Final = "landed"
BYTES_MAX: Final = 4 * 1024 * 1024
"""At this size, or four times that of its first line, the file is written anew."""
PLACES_MAX: Final = 200_000
"""Workspaces and hours that are told apart; past it the oldest hours are forgotten."""


@dataclass(slots=True)
class RowCount:
    """Rows of one table: acknowledged, and `unsure`, given up without a sure answer."""

    landed: int = 0
    unsure: int = 0


@dataclass(slots=True)
class Added:
    """What one generation added."""

    number: int
    rows: dict[str, RowCount] = field(default_factory=dict)
    places: dict[Place, Count] = field(default_factory=dict)

    @classmethod
    def of(cls, generation: Generation | None, commit: Commit) -> Added:
        """`commit` has the batches and the number; without the generation no rows are known."""
        added = cls(commit.range_checksum, {} if generation is None else rows_of(generation))
        entries = commit.entries
        if len(entries):
            # What an index leaves free has the workspace here: see BlockMaker.generation.
            keys = np.column_stack(
                [entries["reserved"].astype(np.int64), entries["received_at_ms"] // HOUR_MS]
            )
            places, which = np.unique(keys, axis=0, return_inverse=True)
            which = which.reshape(-1)
            messages, events = (
                np.bincount(which, weights=entries[name].astype(np.float64))
                for name in ("message_count", "event_count")
            )
            batches = np.bincount(which)
            for row, (workspace_id, hour) in enumerate(places.tolist()):
                count = Count(int(batches[row]), int(messages[row]), int(events[row]))
                added.places[Place(workspace_id, hour)] = count
        return added

    def line(self) -> bytes:
        """As it is kept."""
        return _line(
            {
                "generation": self.number,
                "rows": _plain_rows(self.rows),
                "places": _plain_places(self.places),
            }
        )


@dataclass(slots=True)
class LandedRows:
    """All of it. `before` are rows that a table had when counting began, None until that is known.

    `numbers` are the generations counted since the ledger was last written anew; batches
    received before `kept_from_hour` are not told.
    """

    before: dict[str, int] | None = None
    rows: dict[str, RowCount] = field(default_factory=dict)
    places: dict[Place, Count] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    kept_from_hour: int | None = None

    def add(self, added: Added) -> None:
        """Count a generation, unless it is counted."""
        if added.number in self.numbers:
            return
        self.numbers.add(added.number)
        for table, count in added.rows.items():
            known = self.rows.setdefault(table, RowCount())
            known.landed += count.landed
            known.unsure += count.unsure
        for place, many in added.places.items():
            self.places.setdefault(place, Count()).add_all(many)

    def snapshot(self) -> bytes:
        """All of it as the first line; forgets the oldest hours past the bound."""
        self._shorten()
        return _line(
            {
                "before": self.before,
                "rows": _plain_rows(self.rows),
                "places": _plain_places(self.places),
                "numbers": sorted(self.numbers),
                "kept_from_hour": self.kept_from_hour,
            }
        )

    def _shorten(self) -> None:
        while len(self.places) > PLACES_MAX:
            hours = sorted({place.hour for place in self.places})
            first = hours[len(hours) // 4 + 1] if len(hours) > 1 else hours[0] + 1
            self.kept_from_hour = max(first, self.kept_from_hour or first)
            self.places = {p: c for p, c in self.places.items() if p.hour >= first}


def parse_landed_rows(data: bytes) -> tuple[LandedRows, int]:
    """What a file holds, and how many of its bytes do."""
    found, position = LandedRows(), 0
    while True:
        end = data.find(b"\n", position)
        plain = _plain_of(data[position:end]) if end >= 0 else None
        if plain is None:
            return found, position
        position = end + 1
        rows = {table: RowCount(*count) for table, count in plain["rows"].items()}
        places = {Place(w, h): Count(*count) for w, h, *count in plain["places"]}
        if "generation" in plain:
            found.add(Added(plain["generation"], rows, places))
        else:
            found = LandedRows(
                plain["before"], rows, places, set(plain["numbers"]), plain["kept_from_hour"]
            )


def rows_of(generation: Generation) -> dict[str, RowCount]:
    """What of a generation is there, and what may be though it was given up."""
    found: dict[str, RowCount] = {}
    for block in generation.blocks:
        count = found.setdefault(block.table, RowCount())
        if block.state is BlockState.LANDED:
            count.landed += block.row_count
        elif block.state is BlockState.REFUSED and block.is_unsure:
            count.unsure += block.row_count
    return found


def open_rows(generations: Iterable[Generation]) -> dict[str, int]:
    """Rows per table of generations under way: any of them may be there."""
    found: dict[str, int] = {}
    for generation in generations:
        for block in generation.blocks:
            if block.state is not BlockState.SPLIT:
                found[block.table] = found.get(block.table, 0) + block.row_count
    return found


def _line(plain: dict[str, Any]) -> bytes:
    text = json.dumps(plain, separators=(",", ":")).encode()
    return b"%016x %s\n" % (xxh3(text), text)


def _plain_of(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%016x" % xxh3(text):
        return None
    plain: dict[str, Any] = json.loads(text)
    return plain


def _plain_rows(rows: dict[str, RowCount]) -> dict[str, list[int]]:
    return {table: [count.landed, count.unsure] for table, count in rows.items()}


def _plain_places(places: dict[Place, Count]) -> list[list[int]]:
    return [[*place, c.batches, c.messages, c.events] for place, c in places.items()]
