"""The bytes of a commit on their way to its file: as they are, or serialised as they go.

A format that serialises gives its bytes in chunks. Each is made in a second thread while
the ones before are hashed and written, so that a commit takes as long as the slower of the
two and holds a few chunks of memory, however large it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import cycle
from queue import SimpleQueue
from typing import Final, TypeAlias

import xxhash

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.file_system import FileSystem, write_fully

Chunks: TypeAlias = Generator[memoryview, None, None]
Encoded: TypeAlias = Sequence[memoryview] | Chunks
"""See `SegmentWriter.encode`."""

CHUNKS_HELD: Final = 4
"""So many chunks of a commit are in memory: one is written, the others wait or are being made.

A chunk is no longer used once that many further ones have been asked for. Two are enough if
both sides are steady, but writes stall now and then: with more the maker goes on meanwhile.
"""
AHEAD_BYTES_MIN: Final = 2 * 1024 * 1024
"""Records of a commit from which on a second thread pays; it costs some 100 us."""
SYNC_STEP_BYTES: Final = 1024 * 1024
"""The disk is told to begin so often; on the reference machine a commit of 20 MB of records,
compressed, then waits 5 ms for its sync instead of 9."""


def chunks_of(pool: BufferPool, fill: Callable[[Bytes], int]) -> Chunks:
    """Chunks made by `fill`, which writes the next ones into the buffer it is given.

    It returns how many bytes, 0 when there is nothing more. CHUNKS_HELD of the pool's buffers
    are used in turn and given back at the end, also when the chunks are closed before it.
    """
    buffers = [pool.get() for _ in range(CHUNKS_HELD)]
    try:
        for buffer in cycle(buffers):
            held_bytes = fill(buffer)
            if not held_bytes:
                break
            yield buffer.data[:held_bytes]
        yield from no_more()
    finally:
        for buffer in buffers:
            pool.put(buffer)


def no_more() -> Chunks:
    """What to yield before a chunk's memory is given to others: then none is used any more."""
    for _ in range(CHUNKS_HELD - 1):
        yield memoryview(b"")


def made_ahead(chunks: Chunks) -> Chunks:
    """The same chunks, made in a second thread while the ones before are used.

    A chunk holds until the next is asked for. What making one raises is raised here.
    Closing waits for the chunk that is being made and then closes `chunks`.
    """
    made: SimpleQueue[memoryview | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(CHUNKS_HELD)  # the one in use among them
    stopping = threading.Event()

    def make() -> None:
        try:
            while True:
                room.acquire()
                if stopping.is_set():
                    return
                chunk = next(chunks, None)
                made.put(chunk)
                if chunk is None:
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where the chunks are used
            made.put(error)

    thread = threading.Thread(target=make, name="encoder", daemon=True)
    try:
        thread.start()
        while (chunk := made.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
            room.release()
    finally:
        stopping.set()
        room.release()
        thread.join()
        chunks.close()


def write_encoded(
    fs: FileSystem,
    fd: int,
    encoded: Encoded,
    offset: int,
    *,
    checksum: bool,
    ahead: bool,
    will_sync: bool,
) -> tuple[int, int]:
    """Write a commit's bytes from `offset` on; returns their end and their xxh3-64.

    The checksum is 0 unless asked for. With `ahead` chunks are made in a second thread.
    Raises OSError, and whatever making a chunk raises; then any part may be in the file.
    """
    hasher = xxhash.xxh3_64()
    if isinstance(encoded, Sequence):
        for view in encoded if checksum else ():
            hasher.update(view)
        end = write_fully(fs, fd, encoded, offset, will_sync=will_sync)
        return end, hasher.intdigest() if checksum else 0
    unsynced = offset
    with closing(made_ahead(encoded) if ahead else encoded) as chunks:
        for chunk in chunks:
            if checksum:
                hasher.update(chunk)
            offset = write_fully(fs, fd, [chunk], offset)
            if will_sync and offset - unsynced >= SYNC_STEP_BYTES:
                fs.start_sync(fd, unsynced, offset - unsynced)
                unsynced = offset
    return offset, hasher.intdigest() if checksum else 0
