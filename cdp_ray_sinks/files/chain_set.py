"""The chains of one lane: all workspaces it writes, with one sync and one bound for all."""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import Clock, SystemClock
from cdp_ray_sinks.errors import (
    ConfigError,
    FencedError,
    PartialFlushError,
    SinkError,
    TransientError,
)
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.files.file_system import (
    FileSystem,
    LocalFileSystem,
    error_text,
    make_directories,
)
from cdp_ray_sinks.files.follower import Follower
from cdp_ray_sinks.files.sealer import Sealer
from cdp_ray_sinks.files.segment import Segment, SegmentWriter
from cdp_ray_sinks.files.sync import sync_made, sync_segments

OPEN_CHAINS_MAX: Final = 16_384
OPEN_FILES_MAX: Final = 16_384
_DESCRIPTORS_SPARE: Final = 1024
_BOUND_MIN: Final = 64
_NEVER_HEALS: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class ChainSet:
    """Chains by workspace, opened when first needed. One thread at a time calls it.

    `open_files_max` bounds the segments' descriptors over all chains: the least recently
    written segments are closed, and opened again by their next write. None: as many as the
    process may have, up to OPEN_FILES_MAX. `open_chains_max` bounds the chains, which have a
    descriptor each: the least recently used one without unwritten batches is sealed and let
    go. `open` lowers both to what the process may have.
    """

    def __init__(
        self,
        base: Path,
        new_writer: Callable[[], SegmentWriter],
        options: ChainOptions,
        *,
        open_files_max: int | None = None,
        open_chains_max: int = OPEN_CHAINS_MAX,
        clock: Clock | None = None,
        fs: FileSystem | None = None,
        new_follower: Callable[[int], Follower] | None = None,
    ) -> None:
        self.base = base
        self._new_follower = new_follower
        self._new_writer = new_writer
        self._options = options
        self._open_files_max = open_files_max or OPEN_FILES_MAX
        self._open_chains_max = open_chains_max
        self._clock = clock or SystemClock()
        self._fs = fs or LocalFileSystem()
        self._sealer = Sealer(self._fs, self._clock)
        self._chains: OrderedDict[int, Chain] = OrderedDict()
        self._dirty: dict[int, Chain] = {}
        self._recent: OrderedDict[Segment, Chain] = OrderedDict()
        self._fenced: dict[int, str] = {}

    def open(self) -> None:
        """Make the base directory and allow as many open files as the bounds say.

        Raises ConfigError if it can't be a directory that this process writes, and
        TransientError for what may heal, such as a full disk.
        """
        try:
            make_directories(self.base)
        except OSError as error:
            text = f"path = {str(self.base)!r}: can't be made a directory: {error_text(error)}"
            if error.errno in _NEVER_HEALS:
                raise ConfigError(text) from error
            raise TransientError(text) from error
        if not os.access(self.base, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"path = {str(self.base)!r}: no permission to write there")
        self._bound_files()

    def _bound_files(self) -> None:
        """Ask the system for as many descriptors as the bounds need, and make do with fewer."""
        wanted = self._open_files_max + self._open_chains_max + _DESCRIPTORS_SPARE
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY != soft < wanted:
            with suppress(ValueError, OSError):  # then the system's own limit decides
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft == resource.RLIM_INFINITY:
            return
        room = max(soft - _DESCRIPTORS_SPARE, soft // 2)
        if room < self._open_files_max + self._open_chains_max:
            # A chain that is let go costs a seal and a segment, a parked file two opens.
            self._open_chains_max = min(self._open_chains_max, max(room // 2, _BOUND_MIN))
            left = room - self._open_chains_max
            self._open_files_max = min(self._open_files_max, max(left, _BOUND_MIN))

    @property
    def chains(self) -> Mapping[int, Chain]:
        """The open chains by workspace id."""
        return MappingProxyType(self._chains)

    def chain(self, workspace_id: int) -> Chain:
        """The workspace's chain, opened if it is not. Raises as `Chain.open` does.

        Raises FencedError for a workspace that was lost to another writer: taking it back
        would fence that one in turn.
        """
        if workspace_id in self._fenced:
            raise FencedError(self._fenced[workspace_id])
        found = self._chains.get(workspace_id)
        if found is not None:
            self._chains.move_to_end(workspace_id)
            return found
        self._make_room()
        chain = Chain(
            self.base,
            workspace_id,
            self._new_writer(),
            self._options,
            clock=self._clock,
            fs=self._fs,
            sealer=self._sealer,
            follower=self._new_follower(workspace_id) if self._new_follower else None,
        )
        chain.open()
        self._chains[workspace_id] = chain
        return chain

    def append(self, batch: Batch) -> None:
        """Keep a batch until the next flush. Raises as `Chain.open` and `Chain.append` do."""
        chain = self.chain(batch.header.workspace_id)
        chain.append(batch)
        self._dirty[chain.workspace_id] = chain

    def flush(self) -> None:
        """On return all appended batches are durable.

        Raises PartialFlushError naming the workspaces that are not: their batches are kept
        and the next flush writes them again. Raises FencedError if a workspace has a newer
        writer; the others are durable all the same.
        """
        problems: dict[int, SinkError] = {}
        waiting = deque(self._dirty.values())
        while waiting:
            self._flush_some(waiting, problems)
        self._raise(problems)

    def tick(self, now_ms: int) -> None:
        """Time-driven work of all chains; see `Chain.tick`."""
        for chain in self._chains.values():
            chain.tick(now_ms)
        self._drop_closed()

    def release(self, workspace_id: int) -> None:
        """Commit, seal and let go of a workspace, so that another lane can take it.

        Raises TransientError, and keeps the workspace, if its batches can't be made durable.
        """
        chain = self._chains.get(workspace_id)
        if chain is None:
            return
        chain.commit()
        self._forget(workspace_id)
        chain.close()

    def lose(self, workspace_id: int, error: FencedError) -> None:
        """Another writer has the workspace: it is never opened again here."""
        self._fenced[workspace_id] = str(error)
        self._forget(workspace_id)

    def close(self) -> None:
        """Flush, seal and let go of all. Safe to call twice. Raises what `flush` raises."""
        try:
            self.flush()
        finally:
            for chain in self._chains.values():
                chain.segments.seal_all()
            for workspace_id, chain in list(self._chains.items()):
                with suppress(TransientError, FencedError):  # flush has raised it
                    chain.close()
                self._forget(workspace_id)
            self._recent.clear()
            self._sealer.close()

    def _flush_some(self, waiting: deque[Chain], problems: dict[int, SinkError]) -> None:
        """Flush as many of the waiting chains, one at least, as may have files open at once."""
        self._park()
        wave: list[Chain] = []
        made: dict[Segment, Sequence[str]] = {}
        while waiting and (not wave or 2 * len(self._recent) < self._open_files_max):
            chain = waiting.popleft()
            try:
                made.update(chain.prepare())
            except (TransientError, FencedError) as error:
                problems[chain.workspace_id] = error
                continue
            wave.append(chain)
            for segment in chain.planned_segments:
                self._recent[segment] = chain
                self._recent.move_to_end(segment)
        not_made = sync_made(self._fs, made) if self._options.fsync != "off" else {}
        written = [segment for chain in wave for segment in chain.write_pending(not_made)]
        failed = sync_segments(self._fs, written) if self._options.fsync == "commit" else {}
        for chain in wave:
            try:
                chain.confirm(failed)
            except (TransientError, FencedError) as error:
                problems[chain.workspace_id] = error
            if not chain.is_dirty:
                self._dirty.pop(chain.workspace_id, None)
        self._park()

    def _raise(self, problems: Mapping[int, SinkError]) -> None:
        fenced = next((e for e in problems.values() if isinstance(e, FencedError)), None)
        if fenced is not None:
            for workspace_id, error in problems.items():
                if isinstance(error, FencedError):
                    self.lose(workspace_id, error)
            raise fenced
        if problems:
            raise PartialFlushError(tuple((w, str(e)) for w, e in problems.items()))

    def _park(self) -> None:
        """Close the least recently written files, down to half of what may be open."""
        if 2 * len(self._recent) >= self._open_files_max:
            self._drop_closed()
        if 2 * len(self._recent) < self._open_files_max:
            return
        while 4 * len(self._recent) > self._open_files_max:
            segment, chain = self._recent.popitem(last=False)
            chain.segments.park(segment)

    def _drop_closed(self) -> None:
        for segment in [s for s in self._recent if not s.has_files_open]:
            del self._recent[segment]

    def _make_room(self) -> None:
        """Let go of a chain if there are too many; if all have batches, they are written first.

        What can't be written stays: it is raised where `flush` is called.
        """
        if len(self._chains) < self._open_chains_max:
            return
        if len(self._dirty) == len(self._chains):
            with suppress(PartialFlushError):
                self.flush()
        for workspace_id, chain in self._chains.items():
            if not chain.is_dirty:
                self._forget(workspace_id)
                chain.close()
                return

    def _forget(self, workspace_id: int) -> None:
        self._chains.pop(workspace_id, None)
        self._dirty.pop(workspace_id, None)
