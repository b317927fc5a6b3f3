"""Frames for a TCP source, out of files of frames and out of archives.

Frame: `[u32 big-endian length][message]`. The keys in an archive are zeroed, so its
messages are sent under a key that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.enums import (
    API_KEY_BYTES,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    RECORD_PREFIX_BYTES,
    SchemaType,
)
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_EVENT_COUNT,
    FACT_EVENT_TYPES,
    FACT_STATUS,
    FACT_TIME_MAX,
    FACT_TIME_MIN,
    MESSAGE_OK,
)
from cdp_ray_sinks.batch.kernels.frames import (
    INDEX_FULL,
    INDEX_OVERSIZE,
    frame_messages,
    index_records,
)
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.archive_reading import ALL, Located, read_located
from cdp_ray_sinks.files.index_reading import LZ4_SUFFIX, Report, index_path_of
from cdp_ray_sinks.files.mapping import is_readable, map_file
from cdp_ray_sinks.files.selection import Selection

Places = NDArray[np.int64]

BLOCK_BYTES_MAX: Final = 4 * 1024 * 1024
"""A block is larger only if its one frame is."""
_MESSAGES_AT_ONCE: Final = 8192
_LOOKED_AT_MAX: Final = 64
_INT_MAX: Final = 2**63 - 1


class FrameBlock(NamedTuple):
    """Whole frames one after the other: where each ends, and how many events it holds.

    `read_bytes` of what they come from have been read. Good until the next is taken.
    """

    content: Bytes
    ends: Places
    events: Places
    read_bytes: int


OnSkip = Callable[[str], None]
"""Called with where a message is and why it can't be sent."""


def holds_frames(path: Path) -> bool | None:
    """Whether a file holds frames (True) or the records of an archive (False).

    Told by which of the two makes messages of its first bytes; None if neither does. Raises
    ConfigError if it can't be read.
    """
    if path.name.endswith(LZ4_SUFFIX) or index_path_of(path).exists():
        return False
    content = content_of(path)
    run = MessageRun(_LOOKED_AT_MAX)
    run.index(content, 0, len(content), FRAME_BYTES_MAX)
    run.check(workspace_id=1)
    as_frames = run.ok_count
    starts = np.empty(_LOOKED_AT_MAX + 1, np.int64)
    count, end, _ = index_records(run.buffer, 0, len(content), starts[:_LOOKED_AT_MAX])
    starts[count] = end
    run.count = int(count)
    run.starts[:count] = starts[:count] + RECORD_PREFIX_BYTES
    run.lengths[:count] = np.diff(starts[: count + 1]) - RECORD_PREFIX_BYTES
    run.check(workspace_id=1)
    if not as_frames and not run.ok_count:
        return None
    return as_frames >= run.ok_count


def content_of(path: Path) -> Bytes:
    """A file's bytes, mapped. Raises ConfigError if it can't be read."""
    try:
        return map_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except CorruptSegmentError as error:
        raise ConfigError(f"{path}: {error.reason}") from None


class Framer:
    """Makes blocks of frames; its buffers are used again and again.

    With a `key` (16 bytes) it takes the place of those in the messages. What has no place
    for one, or is larger than a frame may be, is told to `on_skip` and left out.
    """

    def __init__(self, key: bytes | None, on_skip: OnSkip) -> None:
        if key is not None and len(key) != API_KEY_BYTES:
            raise ValueError(f"an api key has {API_KEY_BYTES} bytes, not {len(key)}")
        self._key = None if key is None else readonly(np.frombuffer(key, np.uint8))
        self._on_skip = on_skip
        self._run = MessageRun(_MESSAGES_AT_ONCE)
        self._out: Bytes = np.empty(BLOCK_BYTES_MAX, np.uint8)
        self._ends: Places = np.empty(_MESSAGES_AT_ONCE, np.int64)

    def of_file(self, path: Path) -> Iterator[FrameBlock]:
        """The frames of a file of frames; without a key as they are, whatever they hold.

        Raises CorruptSegmentError naming the offset of what is not a frame.
        """
        run, content = self._run, content_of(path)
        position = 0
        while position < len(content):
            start, limit = position, _block_end(content, position)
            if not is_readable(content[start:limit]):
                raise CorruptSegmentError(str(path), start, "bytes that can't be read")
            position, status = run.index(content, start, limit, FRAME_BYTES_MAX)
            if run.count == 0:
                raise CorruptSegmentError(str(path), start, _reason_of(status))
            run.check(workspace_id=1)
            if self._key is not None:
                every = np.ones(run.count, bool)
                places = run.starts[: run.count] - LENGTH_BYTES
                yield from self._keyed(every, position, f"{path}: frame", places)
                continue
            ends = run.starts[: run.count] + run.lengths[: run.count] - start
            events = np.maximum(run.facts[: run.count, FACT_EVENT_COUNT], 0)
            yield FrameBlock(content[start:position], ends, events, position)

    def of_archive(
        self, path: Path, report: Report, selection: Selection = ALL
    ) -> Iterator[FrameBlock]:
        """The messages of an archive or one of its files, as frames under the key.

        A message goes whole if one of its events is selected. Damage goes to `report`.
        Raises ConfigError without a key.
        """
        if self._key is None:
            raise ConfigError(f"{path}: an archive keeps no api keys, one must be given")
        for found in read_located([path], report, selection):
            yield from self._of_batch(found, selection)

    def _of_batch(self, found: Located, selection: Selection) -> Iterator[FrameBlock]:
        run, offsets = self._run, found.batch.offsets.astype(np.int64)
        run.buffer = readonly(found.batch.records)
        first, count = 0, len(offsets) - 1
        while first < count:
            end = int(np.searchsorted(offsets, offsets[first] + BLOCK_BYTES_MAX, "right")) - 1
            end = min(max(end, first + 1), first + _MESSAGES_AT_ONCE, count)
            run.count = end - first
            run.starts[: run.count] = offsets[first:end] + RECORD_PREFIX_BYTES
            run.lengths[: run.count] = np.diff(offsets[first : end + 1]) - RECORD_PREFIX_BYTES
            run.check(workspace_id=1)
            facts = run.facts[: run.count]
            wanted = wanted_messages(facts, found.batch.header.schema_type, selection)
            places = offsets[first:end] + found.offset
            yield from self._keyed(wanted, found.read_bytes, f"{found.path}: record", places)
            first = end

    def _keyed(
        self, wanted: NDArray[np.bool_], read_bytes: int, what: str, places: Places
    ) -> Iterator[FrameBlock]:
        """The wanted messages of the run under the key, as far as they can be sent.

        `what` each of them is and its place name it where it can't be.
        """
        run = self._run
        facts, lengths = run.facts[: run.count], run.lengths[: run.count]
        has_room = facts[:, FACT_STATUS] == MESSAGE_OK
        fits = lengths <= FRAME_BYTES_MAX
        for row in np.flatnonzero(wanted & ~(has_room & fits)).tolist():
            reason = "no valid message, so no place for a key"
            if has_room[row]:
                reason = f"its {lengths[row]} bytes are more than the {FRAME_BYTES_MAX} of a frame"
            self._on_skip(f"{what} at {places[row]}: {reason}")
        selected = np.flatnonzero(wanted & has_room & fits)
        if not len(selected):
            return
        out_bytes = int(lengths[selected].sum()) + LENGTH_BYTES * len(selected)
        if out_bytes > len(self._out):
            self._out = np.empty(out_bytes, np.uint8)
        count = frame_messages(
            run.buffer, run.starts, run.lengths, facts, selected, self._key, self._out, self._ends
        )
        assert count == len(selected)
        ends = self._ends[:count]
        events = np.maximum(facts[selected, FACT_EVENT_COUNT], 0)
        yield FrameBlock(self._out[: ends[-1]], ends, events, read_bytes)


def check_frames(path: Path) -> None:
    """Raises CorruptSegmentError naming the offset of what is not a frame in the file."""
    content, run = content_of(path), MessageRun()
    position, status = 0, INDEX_FULL
    while status == INDEX_FULL:
        position, status = run.index(content, position, len(content), FRAME_BYTES_MAX)
    if position < len(content):
        raise CorruptSegmentError(str(path), position, _reason_of(status))


def wanted_messages(
    facts: NDArray[np.int64], schema_type: int, selection: Selection
) -> NDArray[np.bool_]:
    """Which messages may hold an event of the types and the event times that are selected."""
    wanted = np.ones(len(facts), bool)
    if selection.event_types is not None and schema_type == SchemaType.EVENT:
        wanted &= facts[:, FACT_EVENT_TYPES] & selection.event_types != 0
    if selection.time == "event":
        is_timed = facts[:, FACT_TIME_MIN] >= 0
        if selection.start_ms is not None:
            wanted &= ~is_timed | (facts[:, FACT_TIME_MAX] >= min(selection.start_ms, _INT_MAX))
        if selection.end_ms is not None:
            wanted &= ~is_timed | (facts[:, FACT_TIME_MIN] <= min(selection.end_ms, _INT_MAX))
    return wanted


def _block_end(content: Bytes, position: int) -> int:
    """Where to look up to: at least one whole frame if there is one."""
    prefix = content[position : position + LENGTH_BYTES]
    length = int.from_bytes(prefix.tobytes(), "big") if is_readable(prefix) else 0
    frame_bytes = LENGTH_BYTES + min(length, FRAME_BYTES_MAX)
    return min(len(content), position + max(BLOCK_BYTES_MAX, frame_bytes))


def _reason_of(status: int) -> str:
    if status == INDEX_OVERSIZE:
        return f"a length above {FRAME_BYTES_MAX} bytes: not a file of frames"
    return "a frame cut off by the end of the file"
