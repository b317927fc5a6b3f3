"""Read LZ4 frames out of mapped bytes, block by block, whoever wrote them.

Format: lz4_Frame_format.md, version 1.6. Sizes and offsets in the bytes are claims: no more is
allocated than one block may have (4 MiB), whatever a frame says of its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import lz4.block
import numpy as np
import xxhash

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.mapping import is_readable

FRAME_MAGIC: Final = (0x184D2204).to_bytes(4, "little")
_LEGACY_MAGIC: Final = (0x184C2102).to_bytes(4, "little")
_SKIPPABLE_MAGIC_TAIL: Final = b"\x2a\x4d\x18"
_BLOCK_BYTES: Final = {4: 64 * 1024, 5: 256 * 1024, 6: 1024 * 1024, 7: 4 * 1024 * 1024}
_HISTORY_BYTES: Final = 64 * 1024
_HEADER_BYTES_MAX: Final = 19
STORED: Final = 0x8000_0000
"""In a block's size: its bytes are not compressed."""


class Block(NamedTuple):
    """A block's data in the file; `is_stored` if it is not compressed."""

    start: int
    data_start: int
    data_end: int
    is_stored: bool


class Lz4Frame:
    """The frame at `start`; its header is read at once, its blocks when they are asked for.

    `end` is where the file, or the part of it that may be read, ends. Every method raises
    CorruptSegmentError naming the place where the bytes are no LZ4. A skippable frame has
    no blocks and no content.
    """

    def __init__(self, data: Bytes, start: int, end: int, path: Path) -> None:
        self._data = data
        self._limit = min(end, len(data))
        self._path = path
        self.start = start
        self.end: int | None = None
        """Where the next frame begins; known once all blocks were walked."""
        self.content_bytes: int | None = None
        """What the header says; unproven."""
        self.block_bytes = 0
        self._is_linked = self._has_block_checksum = self._has_content_checksum = False
        self._blocks_start = self._limit
        self._read_header()

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, not decompressed."""
        position = self._blocks_start
        while self.end is None or position < self.end:
            head = self._u32(position, "LZ4 frame has no end")
            size = head & ~STORED
            block = Block(position, position + 4, position + 4 + size, bool(head & STORED))
            if head == 0:
                tail = 4 if self._has_content_checksum else 0
                self._need(position + 4, tail, "LZ4 frame has no end")
                self.end = position + 4 + tail
                return
            if size > self.block_bytes:
                if self._data[position : position + 4].tobytes() == FRAME_MAGIC:
                    self._fail(position, "LZ4 frame has no end, another begins")
                self._fail(position, f"LZ4 block of {size} bytes is larger than its frame allows")
            tail = 4 if self._has_block_checksum else 0
            self._need(block.data_start, size + tail, "LZ4 block is cut short")
            yield block
            position = block.data_end + tail

    def content_of(self, block: Block, history: bytes = b"") -> Bytes:
        """A block's content; `history` is what comes before it, for blocks that are linked."""
        stored = self._data[block.data_start : block.data_end]
        if not is_readable(self._data[block.start : block.data_end + 4]):
            self._fail(block.start, "bytes that can't be read")
        if self._has_block_checksum:
            expected = self._u32(block.data_end, "LZ4 block is cut short")
            if xxhash.xxh32_intdigest(stored.data) != expected:
                self._fail(block.start, "checksum of an LZ4 block does not hold")
        if block.is_stored:
            return stored
        try:
            content = lz4.block.decompress(
                stored.data, uncompressed_size=self.block_bytes, dict=history
            )
        except lz4.block.LZ4BlockError:
            self._fail(block.start, "LZ4 block does not decompress")
        return np.frombuffer(content, np.uint8)

    def contents(self) -> Iterator[tuple[Block, Bytes]]:
        """Each block with its content, in order.

        At the end it is proven that they are as many bytes as the header says, and their
        checksum if there is one.
        """
        hasher = xxhash.xxh32()
        history, held_bytes = b"", 0
        for block in self.blocks():
            content = self.content_of(block, history)
            if self._is_linked:
                tail = content[-_HISTORY_BYTES:].tobytes()
                history = (history + tail)[-_HISTORY_BYTES:]
            if self._has_content_checksum:
                hasher.update(content.data)
            held_bytes += len(content)
            yield block, content
        if self.content_bytes not in (None, held_bytes):
            reason = f"LZ4 frame holds {held_bytes} bytes, its header says {self.content_bytes}"
            self._fail(self.start, reason)
        if self._has_content_checksum:
            assert self.end is not None
            if hasher.intdigest() != self._u32(self.end - 4, "LZ4 frame has no end"):
                self._fail(self.start, "checksum of an LZ4 frame's content does not hold")

    @property
    def is_linked(self) -> bool:
        """Whether a block can be decompressed only after those before it."""
        return self._is_linked

    def _read_header(self) -> None:
        start = self.start
        magic = self._u32(start, "LZ4 frame header is cut short").to_bytes(4, "little")
        if magic[1:] == _SKIPPABLE_MAGIC_TAIL and magic[0] & 0xF0 == 0x50:
            size = self._u32(start + 4, "LZ4 frame header is cut short")
            self._need(start + 8, size, "skippable LZ4 frame is cut short")
            self.end = self._blocks_start = start + 8 + size
            return
        if magic == _LEGACY_MAGIC:
            self._fail(start, "LZ4 frame of the legacy format, which is not read")
        if magic != FRAME_MAGIC:
            self._fail(start, "not an LZ4 frame")
        head = self._data[start : min(start + _HEADER_BYTES_MAX, self._limit)].tobytes()
        if len(head) < 7:
            self._fail(start, "LZ4 frame header is cut short")
        flags, descriptor = head[4], head[5]
        if flags >> 6 != 1 or flags & 2 or descriptor & 0x8F or descriptor >> 4 not in _BLOCK_BYTES:
            self._fail(start, "LZ4 frame header of an unknown kind")
        has_content_bytes, has_dictionary = bool(flags & 8), bool(flags & 1)
        header_bytes = 7 + 8 * has_content_bytes + 4 * has_dictionary
        if len(head) < header_bytes:
            self._fail(start, "LZ4 frame header is cut short")
        check = xxhash.xxh32_intdigest(head[4 : header_bytes - 1]) >> 8 & 0xFF
        if head[header_bytes - 1] != check:
            self._fail(start, "checksum of an LZ4 frame header does not hold")
        if has_dictionary:
            self._fail(start, "LZ4 frame needs a dictionary")
        if has_content_bytes:
            self.content_bytes = int.from_bytes(head[6:14], "little")
        self.block_bytes = _BLOCK_BYTES[descriptor >> 4]
        self._is_linked = not flags & 32
        self._has_block_checksum = bool(flags & 16)
        self._has_content_checksum = bool(flags & 4)
        self._blocks_start = start + header_bytes

    def _u32(self, position: int, problem: str) -> int:
        self._need(position, 4, problem)
        head = self._data[position : position + 4]
        if not is_readable(head):
            self._fail(position, "bytes that can't be read")
        return int.from_bytes(head.tobytes(), "little")

    def _need(self, position: int, wanted_bytes: int, problem: str) -> None:
        if position + wanted_bytes > self._limit:
            self._fail(min(position, self._limit), problem)

    def _fail(self, offset: int, reason: str) -> NoReturn:
        raise CorruptSegmentError(str(self._path), offset, reason)
