"""A compressed segment, read as the batches that were written into it.

With an index each commit is a frame of its own, of which only the blocks are decompressed
that hold the batches asked for. Places are byte offsets in the content, which is what
the `lz4` tool makes of the file; damage is reported where it is in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from cdp_ray_sinks.batch.batch import Batch, BatchHeader, Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.commit_index import Commit
from cdp_ray_sinks.files.index_reading import Range, Report, SegmentIndex, Wanted, header_of
from cdp_ray_sinks.files.lz4_frame import Block, Lz4Frame
from cdp_ray_sinks.files.lz4_stream import Piece, RecordStream, pieces_of
from cdp_ray_sinks.files.record_scan import RECORDS_BYTES_MAX, listed_batch
from cdp_ray_sinks.files.segment_path import parse_place

BATCH_BYTES_MAX: Final = 256 * 1024 * 1024
"""A larger claim is damage."""


class CommitContent:
    """Any part of what a commit's frame holds; raises CorruptSegmentError where it can't."""

    def __init__(self, data: Bytes, start: int, end: int, path: Path) -> None:
        self._frame = Lz4Frame(data, start, end, path)
        self._path = path
        self._walk = self._frame.blocks()
        self._blocks: list[Block] = []
        self._broken: CorruptSegmentError | None = None
        self._last: tuple[int, Bytes] | None = None
        if self._frame.is_linked or not self._frame.block_bytes:
            raise CorruptSegmentError(str(path), start, "not the kind of LZ4 frame a commit is")

    def read(self, start: int, end: int) -> Bytes:
        """The content from `start` to `end`; only the blocks that it lies in are touched."""
        parts = []
        position = start
        while position < end:
            number, inner = divmod(position, self._frame.block_bytes)
            part = self._content(number)[inner : inner + end - position]
            if not len(part):
                where = self._blocks[number].start
                raise CorruptSegmentError(str(self._path), where, "LZ4 block is not full")
            parts.append(part)
            position += len(part)
        if len(parts) == 1:
            return parts[0]
        joined: Bytes = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        joined.flags.writeable = False
        return joined

    def place_of(self, position: int) -> int:
        """Where in the file the block is that holds this part of the content."""
        number = position // self._frame.block_bytes
        return self._blocks[number].start if number < len(self._blocks) else self._frame.start

    def _content(self, number: int) -> Bytes:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        content = self._frame.content_of(self._block(number))
        self._last = number, content  # the next batch begins where this one ended
        return content

    def _block(self, number: int) -> Block:
        if self._broken is None:
            try:
                self._blocks.extend(islice(self._walk, max(0, number + 1 - len(self._blocks))))
            except CorruptSegmentError as error:
                self._broken = error
        if number < len(self._blocks):
            return self._blocks[number]
        reason = "LZ4 frame has less content than is listed"
        raise self._broken or CorruptSegmentError(str(self._path), self._frame.start, reason)


class Lz4Segment:
    """One compressed segment: its bytes, and what its index says of them.

    Damage goes to `report` and reading goes on behind it: where there is an index, with the
    next batch whose blocks are good.
    """

    is_compressed: Final = True

    def __init__(self, path: Path, data: Bytes, index: SegmentIndex | None, report: Report) -> None:
        self.path = path
        self._data = data
        self._report = report
        self._measured: dict[Range, int] = {}
        self._ranges = [Range(0, len(data), None)]
        self.read_offset = 0
        """How far into the file, as it is stored, `located` has come."""
        self.workspace_id = parse_place(path).workspace_id or 0
        if index is None:
            return
        if index.header is not None:
            self.workspace_id = index.header.workspace_id
        if index.ranges and not (index.is_compressed and index.holds_records):
            raise CorruptSegmentError(str(path), 0, "segment does not hold compressed records")
        if index.ranges or index.header is not None:  # else that is no index
            self._ranges = index.ranges

    @property
    def end_offset(self) -> int:
        """Where the content ends. Where no index tells all is decompressed to know, once."""
        return sum(map(self._content_bytes, self._ranges))

    def located(
        self,
        position: int = 0,
        wanted: Wanted | None = None,
        records_bytes_max: int = RECORDS_BYTES_MAX,
    ) -> Iterator[tuple[int, Batch]]:
        """See `MappedSegment.located`; places are those in the content."""
        base = 0
        for number, part in enumerate(self._ranges):
            yield from self.located_in(part, base, position, wanted, records_bytes_max)
            if part.end > len(self._data):
                missing = self._ranges[-1].end - len(self._data)
                self._complain(
                    len(self._data), f"{missing} committed bytes are missing, the file ends"
                )
                return
            if number + 1 < len(self._ranges):
                base += self._content_bytes(part)

    def located_in(
        self,
        part: Range,
        base: int = 0,
        position: int = 0,
        wanted: Wanted | None = None,
        records_bytes_max: int = RECORDS_BYTES_MAX,
    ) -> Iterator[tuple[int, Batch]]:
        """The same of one range, whose content begins at `base`."""
        if part.commit is not None:
            yield from self._listed(part, part.commit, base, position, wanted)
            return
        stream = RecordStream(self.path, self.workspace_id, self._report)
        for offset, batch in stream.batches(self._pieces(part), records_bytes_max):
            if base + offset + len(batch.records) > position:
                yield base + offset, batch
        self._measured[part] = stream.position

    def _pieces(self, part: Range) -> Iterator[Piece | None]:
        end = min(part.end, len(self._data))
        for piece in pieces_of(self._data, part.start, end, self.path, self._report):
            if piece is not None:
                self.read_offset = piece.block.data_end
            yield piece

    def complain(self, position: int, reason: str) -> None:
        """Report what is wrong at a place of the content."""
        base = 0
        for part in self._ranges:
            content_bytes = self._content_bytes(part)
            if position < base + content_bytes:
                break
            base += content_bytes
        self._complain(part.start, f"{reason}, at {position} of the content")

    def _listed(
        self, part: Range, commit: Commit, base: int, position: int, wanted: Wanted | None
    ) -> Iterator[tuple[int, Batch]]:
        content: CommitContent | None = None
        inner, content_bytes = 0, self._content_bytes(part)
        for entry, batch_bytes in zip(
            commit.entries, commit.entries["record_bytes"].tolist(), strict=True
        ):
            start, inner = inner, inner + batch_bytes
            if base + inner <= position:
                continue
            if wanted is not None and not wanted(entry, commit.committed_at_ms):
                continue
            # A commit's frame has no places of batches: in proportion is near enough.
            stored_bytes = part.end - part.start
            self.read_offset = part.start + stored_bytes * inner // max(content_bytes, 1)
            header = header_of(entry, self.workspace_id)
            try:
                content = content or CommitContent(self._data, part.start, part.end, self.path)
                batch = self._batch(content, header, start)
            except CorruptSegmentError as error:
                if part.end > len(self._data):
                    return  # the file ends, which is reported
                if content is None:
                    self._report(error)
                    return
                self._complain(error.offset, f"batch {header.batch_id}: {error.reason}")
                continue
            yield base + start, batch

    def _batch(self, content: CommitContent, header: BatchHeader, start: int) -> Batch:
        if header.record_bytes > BATCH_BYTES_MAX:
            reason = f"{header.record_bytes} bytes are more than any has"
            raise CorruptSegmentError(str(self.path), content.place_of(start), reason)
        batch = listed_batch(header, content.read(start, start + header.record_bytes))
        if isinstance(batch, str):
            raise CorruptSegmentError(str(self.path), content.place_of(start), batch)
        return batch

    def _content_bytes(self, part: Range) -> int:
        if part.commit is not None:
            return sum(part.commit.entries["record_bytes"].tolist())
        if part not in self._measured:
            pieces = pieces_of(
                self._data, part.start, min(part.end, len(self._data)), self.path, lambda _: None
            )
            self._measured[part] = sum(len(piece.content) for piece in pieces if piece is not None)
        return self._measured[part]

    def _complain(self, offset: int, reason: str) -> None:
        self._report(CorruptSegmentError(str(self.path), offset, reason))
