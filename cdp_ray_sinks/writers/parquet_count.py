"""Count what a folder of Parquet files holds: by the footers, and by the journal beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import HEADER_BYTES, IndexHeader
from cdp_ray_sinks.files.journal import JOURNAL_DIRECTORY
from cdp_ray_sinks.files.landed import (
    Landed,
    Wanted,
    count_segment,
    found_in_ledger,
    segments_below,
)
from cdp_ray_sinks.files.ledger_text import ledger_entries
from cdp_ray_sinks.files.publication import JOURNAL_KEY, LEDGER_KEY
from cdp_ray_sinks.writers.parquet import SUFFIX, Footer, read_footer

DEPTH_MAX: Final = 3
"""Folders below the base: workspace, date, hour."""


def count_tables(base: Path, wanted: Wanted) -> Landed:
    """What the files below `base` hold, and the journal's segments that are in no file.

    A folder that is not there holds nothing. Raises OSError for one that can't be read.
    """
    landed = Landed(only_events=True)
    # The journal first: what is published meanwhile is then in both, and its id tells.
    journal = _count_journal(base / JOURNAL_DIRECTORY, wanted, landed.problems)
    for path in sorted(_tables(base, DEPTH_MAX)):
        try:
            footer = read_footer(path)
        except FileNotFoundError:
            continue  # the folder is being changed by somebody
        except (ValueError, OSError) as error:
            landed.problems.append(str(error))
            continue
        journal.pop(footer.metadata.get(JOURNAL_KEY, ""), None)
        _add(landed, path, footer, wanted)
    for found in journal.values():
        landed.merge(found)
    return landed


def _add(landed: Landed, path: Path, footer: Footer, wanted: Wanted) -> None:
    if not footer.origins and footer.messages:
        landed.problems.append(f"{path}: does not say whose batches it holds, so is not counted")
    for origin, count in footer.origins.items():
        landed.add(origin, count)
    if any((origin.producer, origin.epoch) in wanted for origin in footer.origins):
        try:
            entries = ledger_entries(footer.metadata.get(LEDGER_KEY, ""))
        except ValueError as error:
            landed.problems.append(f"{path}: {error}")
        else:
            landed.found |= found_in_ledger(entries, wanted)


def _count_journal(directory: Path, wanted: Wanted, problems: list[str]) -> dict[str, Landed]:
    """By the id of the segment, what waits to become a file."""
    found = {}
    for info in segments_below(directory, lambda gone: None):  # published, and soon forgotten
        try:
            if info.index_path is None or not info.path.stat().st_size:
                continue
            with info.index_path.open("rb") as file:
                header = IndexHeader.from_bytes(file.read(HEADER_BYTES), str(info.index_path))
        except FileNotFoundError:
            continue
        except CorruptSegmentError as error:
            problems.append(str(error))
            continue
        counted = count_segment(info, wanted)
        problems += counted.problems
        counted.problems = []
        found[header.journal_id] = counted
    return found


def _tables(directory: Path, depth: int) -> Iterator[Path]:
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.suffix == SUFFIX:
            yield entry
        elif depth > 0 and entry.is_dir():
            yield from _tables(entry, depth - 1)
