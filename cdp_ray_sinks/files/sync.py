"""When written bytes reach the disk, and how many files are synced at once.

`fsync = "commit"`: every commit is synced before it is acknowledged. `"interval"`: it is
acknowledged when written (it survives the process, not the machine) and synced in the
background. `"off"`: never synced by us, not even at a seal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cdp_ray_sinks.files.file_system import FileSystem
from cdp_ray_sinks.files.segment import Segment

SyncPolicy: TypeAlias = Literal["commit", "interval", "off"]

AT_ONCE: Final = 16
"""From so many dirty files of one file system on, one syncfs replaces a sync each."""


def sync_segments(
    fs: FileSystem, segments: Sequence[Segment], at_once: int = AT_ONCE
) -> dict[Segment, OSError]:
    """Sync all that was written to these segments; returns those whose sync failed.

    A segment in the answer must never be synced again. One failing file system or file
    does not keep the others from being synced.
    """
    failed: dict[Segment, OSError] = {}
    for group in _by_device(segments, failed):
        if len(group) >= at_once:
            failed |= _sync_file_system(fs, group)
            continue
        for segment in group:
            try:
                segment.sync(fs)
            except OSError as error:
                failed[segment] = error
    return failed


def sync_made(
    fs: FileSystem, made: Mapping[Segment, Sequence[str]], at_once: int = AT_ONCE
) -> dict[Segment, OSError]:
    """Sync new segments' indexes and the directories that name them; returns the failed.

    All were made before, so that the file system has to settle its own journal only once.
    """
    failed: dict[Segment, OSError] = {}
    for group in _by_device(list(made), failed):
        if len(group) >= at_once:
            try:
                fs.sync_all(group[0].descriptors[1])
            except OSError as error:
                failed |= dict.fromkeys(group, error)
            continue
        done: dict[str, OSError | None] = {}
        for segment in group:
            try:
                segment.sync_index(fs)
                for directory in made[segment]:
                    _sync_directory_once(fs, directory, done)
            except OSError as error:
                failed[segment] = error
    return failed


def _sync_directory_once(fs: FileSystem, directory: str, done: dict[str, OSError | None]) -> None:
    if directory not in done:
        try:
            fs.sync_directory(Path(directory))
            done[directory] = None
        except OSError as error:
            done[directory] = error
    problem = done[directory]
    if problem is not None:
        raise problem


def _by_device(segments: Sequence[Segment], failed: dict[Segment, OSError]) -> list[list[Segment]]:
    """The segments by file system; those that can't be opened again go to `failed`."""
    groups: dict[int, list[Segment]] = {}
    for segment in segments:
        try:
            device = os.fstat(segment.descriptors[0]).st_dev
        except OSError as error:  # it was parked and is gone
            failed[segment] = error
            continue
        groups.setdefault(device, []).append(segment)
    return list(groups.values())


def _sync_file_system(fs: FileSystem, group: Sequence[Segment]) -> dict[Segment, OSError]:
    written = [segment.written for segment in group]
    try:
        fs.sync_all(group[0].descriptors[0])
    except OSError as error:
        for segment in group:
            segment.sync_failed = True
        return dict.fromkeys(group, error)
    for segment, totals in zip(group, written, strict=True):
        segment.synced = totals
    return {}
