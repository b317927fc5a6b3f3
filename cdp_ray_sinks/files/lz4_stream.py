"""Records out of LZ4 frames that no index describes, whoever wrote them.

There may be one frame for a whole file or many, one behind the other; a frame may lack its
end because its writer was killed, and another may follow it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.enums import METADATA_BYTES, RECORD_PREFIX_BYTES
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.index_reading import Report
from cdp_ray_sinks.files.lz4_frame import FRAME_MAGIC, Lz4Frame
from cdp_ray_sinks.files.mapping import is_readable
from cdp_ray_sinks.files.record_scan import MESSAGE_COUNT_MAX, TORN_RECORD, RecordScan

if TYPE_CHECKING:
    from cdp_ray_sinks.batch.message_run import MessageRun

WINDOW_BYTES: Final = 4 * 1024 * 1024
_SEARCH_BYTES: Final = 1024 * 1024
_FAILED_BYTES_SPARE: Final = 64 * 1024 * 1024


class Piece(NamedTuple):
    """Content of a block, where the block is in the file, and which frame it belongs to."""

    content: Bytes
    offset: int
    frame_start: int


def pieces_of(
    data: Bytes, start: int, end: int, path: Path, report: Report
) -> Iterator[Piece | None]:
    """The content of all frames in `data[start:end]`, block by block.

    None stands for a damage, which is reported: what comes behind it does not go on where
    the last piece ended. After one the next frame is looked for by its magic number, with
    a bound on what is tried in vain.
    """
    position, failed_bytes_left = start, 4 * (end - start) + _FAILED_BYTES_SPARE
    while position < end:
        frame: Lz4Frame | None = None
        try:
            frame = Lz4Frame(data, position, end, path)
            for block, content in frame.contents():
                yield Piece(content, block.start, frame.start)
            position = frame.end or end
        except CorruptSegmentError as error:
            report(error)
            yield None
            failed_bytes_left -= frame.block_bytes if frame else 0
            if frame is not None and frame.end is not None:
                position = frame.end
                continue
            behind = max(error.offset, position + 1)
            if failed_bytes_left <= 0:
                report(CorruptSegmentError(str(path), behind, "too much damage to search on"))
                return
            position = _next_frame(data, behind, end)


def _next_frame(data: Bytes, start: int, end: int) -> int:
    """Where the next frame may begin, `end` if none does."""
    for position in range(start, end, _SEARCH_BYTES):
        window = data[position : min(end, position + _SEARCH_BYTES + len(FRAME_MAGIC) - 1)]
        found = window.tobytes().find(FRAME_MAGIC) if is_readable(window) else -1
        if found >= 0:
            return position + found
    return end


class RecordStream:
    """Batches out of pieces; `position` is how much content was seen in all.

    A record may lie across pieces. What can't be framed ends the frame it is in.
    """

    def __init__(self, path: Path, workspace_id: int, report: Report) -> None:
        from cdp_ray_sinks.batch.message_run import MessageRun

        self._path = path
        self._workspace_id = workspace_id
        self._report = report
        self._run: MessageRun = MessageRun(MESSAGE_COUNT_MAX)
        self._held: list[Piece] = []
        self._held_bytes = 0
        self._wanted_bytes = WINDOW_BYTES
        self._bad_frame: int | None = None
        self.position = 0

    def batches(
        self, pieces: Iterator[Piece | None], records_bytes_max: int
    ) -> Iterator[tuple[int, Batch]]:
        """Each batch with the place of its first record in the content; see `RecordScan`."""
        for piece in pieces:
            if piece is None:
                yield from self._scan(records_bytes_max, is_last=True, is_cut=True)
                continue
            self.position += len(piece.content)
            if piece.frame_start == self._bad_frame:
                continue
            self._held.append(piece)
            self._held_bytes += len(piece.content)
            if self._held_bytes >= self._wanted_bytes:
                yield from self._scan(records_bytes_max)
        yield from self._scan(records_bytes_max, is_last=True)

    def _scan(
        self, records_bytes_max: int, *, is_last: bool = False, is_cut: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """The whole records of what is held; the beginning of one more is kept unless last."""
        held, self._held = self._held, []
        window_start = self.position - self._held_bytes
        self._held_bytes, self._wanted_bytes = 0, WINDOW_BYTES
        if not held:
            return
        window = held[0].content if len(held) == 1 else np.concatenate([p.content for p in held])
        damage: list[CorruptSegmentError] = []
        scan = RecordScan(window, self._path, self._workspace_id, damage.append, self._run)
        offset = window_start
        for batch in scan.batches(0, len(window), records_bytes_max):
            yield offset, batch
            offset += len(batch.records)
        is_torn = bool(damage) and damage[0].reason == TORN_RECORD
        if damage and (is_last or not is_torn):
            if not (is_torn and is_cut):
                self._complain(held, scan.position, window_start, damage[0].reason)
            self._bad_frame = held[-1].frame_start
        elif damage:
            self._keep(held, window, scan.position)

    def _keep(self, held: list[Piece], window: Bytes, position: int) -> None:
        """Hold the beginning of a record until there is enough of it."""
        place, left = len(held), len(window) - position
        while left > 0:
            place -= 1
            left -= len(held[place].content)
        first = held[place]
        self._held = [first._replace(content=first.content[-left:] if left else first.content)]
        self._held += held[place + 1 :]
        self._held_bytes = len(window) - position
        size_at = position + METADATA_BYTES
        if len(window) >= size_at + 4:
            size = int.from_bytes(window[size_at : size_at + 4].tobytes(), "big")
            self._wanted_bytes = max(WINDOW_BYTES, RECORD_PREFIX_BYTES + size)

    def _complain(self, held: list[Piece], position: int, window_start: int, reason: str) -> None:
        where, offset = position, held[-1].offset
        for piece in held:
            if where < len(piece.content):
                offset = piece.offset
                break
            where -= len(piece.content)
        text = f"{reason} at {window_start + position} of the content, in the LZ4 block"
        self._report(CorruptSegmentError(str(self._path), offset, text))
