"""The bytes of a commit on their way to its file: as they are, or serialised as they go.

A format that serialises gives its bytes in chunks. Each is made in a second thread while
the one before is hashed and written, so that a commit takes as long as the slower of the
two and holds two chunks of memory, however large it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Final, TypeAlias

import xxhash

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.files.buffer_pool import BufferPool
from cdp_ray_sinks.files.file_system import FileSystem, write_fully

Chunks: TypeAlias = Generator[memoryview, None, None]
Encoded: TypeAlias = Sequence[memoryview] | Chunks
"""See `SegmentWriter.encode`."""

NO_BYTES: Final = memoryview(b"")
"""The last chunk of those whose memory is given back: until it is used the one before may be."""
AHEAD_BYTES_MIN: Final = 2 * 1024 * 1024
"""Records of a commit from which on a second thread pays; it costs some 100 us."""
SYNC_STEP_BYTES: Final = 1024 * 1024
"""The disk is told to begin so often; on the reference machine a commit of 20 MB of records,
compressed, then waits 5 ms for its sync instead of 9."""


def chunks_of(pool: BufferPool, fill: Callable[[Bytes], int]) -> Chunks:
    """Chunks made by `fill`, which writes the next ones into the buffer it is given.

    It returns how many bytes, 0 when there is nothing more. Two of the pool's buffers are
    used in turn and given back at the end, also when the chunks are closed before it.
    """
    buffers = [pool.get(), pool.get()]
    try:
        turn = 0
        while held_bytes := fill(buffers[turn]):
            yield buffers[turn].data[:held_bytes]
            turn = 1 - turn
        yield NO_BYTES
    finally:
        for buffer in buffers:
            pool.put(buffer)


def made_ahead(chunks: Chunks) -> Chunks:
    """The same chunks, each made in a second thread while the one before is used.

    A chunk holds until the next is asked for. What making one raises is raised here.
    Closing waits for the chunk that is being made and then closes `chunks`.
    """
    made: SimpleQueue[memoryview | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(2)  # a chunk in use and one made: the queue holds no more
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
