"""Records out of LZ4 frames that no index describes, whoever wrote them.

There may be one frame for a whole file or many, one behind the other; a frame may lack its
end because its writer was killed, and another may follow it all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, Bytes
from cdp_ray_sinks.batch.enums import METADATA_BYTES, RECORD_PREFIX_BYTES
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.index_reading import Report
from cdp_ray_sinks.files.lz4_frame import FRAME_MAGIC, Block, Lz4Frame
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
    block: Block
    frame_start: int
    position: int = 0
    """Where the content lies in that of all frames."""


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
        last: Piece | None = None
        try:
            frame = Lz4Frame(data, position, end, path)
            for block, content in frame.contents():
                if last is not None:
                    yield last
                last = Piece(content, block, frame.start)
            if last is not None:
                yield last
            position = frame.end or end
        except CorruptSegmentError as error:
            damage = error
            if last is not None:
                damage = _hidden_damage(data, last.block, error, path)
                if damage is error:
                    yield last
            report(damage)
            yield None
            failed_bytes_left -= frame.block_bytes if frame else 0
            if frame is not None and frame.end is not None:
                position = frame.end
                continue
            behind = max(damage.offset, position + 1)
            if failed_bytes_left <= 0:
                report(CorruptSegmentError(str(path), behind, "too much damage to search on"))
                return
            position = _next_frame(data, behind, end)


def _hidden_damage(
    data: Bytes, block: Block, error: CorruptSegmentError, path: Path
) -> CorruptSegmentError:
    """What is wrong if the block that was last found good is not: another frame begins in it.

    So it is where a block was cut short and a frame appended; it may decompress all the same.
    """
    position = _next_frame(data, block.data_start, block.data_end)
    while position < block.data_end:
        with suppress(CorruptSegmentError):
            Lz4Frame(data, position, len(data), path)
            reason = "LZ4 block is cut short, another frame begins in it"
            return CorruptSegmentError(str(path), block.start, reason)
        position = _next_frame(data, position + 1, block.data_end)
    return error


def _next_frame(data: Bytes, start: int, end: int) -> int:
    """Where a frame may begin next, `end` if none does; it may reach beyond `end`."""
    tail_bytes = len(FRAME_MAGIC) - 1
    for position in range(start, end, _SEARCH_BYTES):
        window = data[position : min(end, position + _SEARCH_BYTES) + tail_bytes]
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
            if piece.frame_start != self._bad_frame:
                self._held.append(piece._replace(position=self.position))
                self._held_bytes += len(piece.content)
            self.position += len(piece.content)
            if self._held_bytes >= self._wanted_bytes:
                yield from self._scan(records_bytes_max)
        yield from self._scan(records_bytes_max, is_last=True)

    def _scan(
        self, records_bytes_max: int, *, is_last: bool = False, is_cut: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """The whole records of what is held; the beginning of one more is kept unless last."""
        self._wanted_bytes = WINDOW_BYTES
        while self._held:
            held = self._held
            self._held, self._held_bytes = [], 0
            window = held[0].content
            if len(held) > 1:
                window = np.concatenate([piece.content for piece in held])
            damage: list[CorruptSegmentError] = []
            scan = RecordScan(window, self._path, self._workspace_id, damage.append, self._run)
            offset = held[0].position
            for batch in scan.batches(0, len(window), records_bytes_max):
                yield offset, batch
                offset += len(batch.records)
            if not damage:
                return
            place, inner = _place_of(scan.position, held)
            if damage[0].reason == TORN_RECORD:
                if not is_last:
                    self._keep(held[place:], inner)
                elif not is_cut:
                    self._complain(held[place], inner, TORN_RECORD)
                return
            self._complain(held[place], inner, damage[0].reason)
            self._bad_frame = held[place].frame_start
            self._held = [p for p in held[place:] if p.frame_start != self._bad_frame]
            self._held_bytes = sum(len(piece.content) for piece in self._held)

    def _keep(self, held: list[Piece], inner: int) -> None:
        """Hold the beginning of a record until there is enough of it."""
        first = held[0]
        held[0] = first._replace(content=first.content[inner:], position=first.position + inner)
        self._held = held
        self._held_bytes = sum(len(piece.content) for piece in held)
        head = b"".join(piece.content[:RECORD_PREFIX_BYTES].tobytes() for piece in held)
        if len(head) >= RECORD_PREFIX_BYTES:
            size = int.from_bytes(head[METADATA_BYTES:RECORD_PREFIX_BYTES], "big")
            self._wanted_bytes = max(WINDOW_BYTES, RECORD_PREFIX_BYTES + size)

    def _complain(self, piece: Piece, inner: int, reason: str) -> None:
        text = f"{reason} at {piece.position + inner} of the content, in the LZ4 block"
        self._report(CorruptSegmentError(str(self._path), piece.block.start, text))


def _place_of(position: int, held: list[Piece]) -> tuple[int, int]:
    """Which piece of a window holds a place of it, and where in the piece."""
    for place, piece in enumerate(held):
        if position < len(piece.content):
            return place, position
        position -= len(piece.content)
    return len(held) - 1, position + len(held[-1].content)
