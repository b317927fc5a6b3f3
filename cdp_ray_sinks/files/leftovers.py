"""Publish what the last writers of a warehouse journalled, whether or not more comes to it.

Each such workspace is opened as if a batch had come to it, and let go of when all is
published, so that the lane to which its batches go can have it. A workspace that is held is
left to its holder; it is tried again a few times, because a holder may be just dying.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cdp_ray_sinks.errors import FencedError, TerminalError, TransientError
from cdp_ray_sinks.files.chain_set import ChainSet
from cdp_ray_sinks.files.journal import has_leftovers, leftover_workspaces

AT_ONCE: Final = 16
AGAIN_MS: Final = 10_000
ATTEMPTS_MAX: Final = 4


class Leftovers:
    """Called by the thread of the chains. `is_published` tells of an open workspace."""

    def __init__(self, base: Path, chains: ChainSet, is_published: Callable[[int], bool]) -> None:
        self._base = base
        self._chains = chains
        self._is_published = is_published
        self._waiting: deque[int] = deque()
        self._again: deque[int] = deque()
        self._attempts: Counter[int] = Counter()
        self._again_at_ms = 0
        self._adopted: set[int] = set()

    def find(self) -> None:
        """Look which workspaces there are. Raises OSError."""
        self._waiting.extend(leftover_workspaces(self._base))

    def keep(self, workspace_id: int) -> None:
        """A batch came to that workspace: it stays open."""
        self._adopted.discard(workspace_id)

    def tick(self, now_ms: int) -> None:
        """Let go of those that are published, go on with others, a few at a time."""
        for workspace_id in list(self._adopted):
            if self._is_published(workspace_id):
                self._let_go(workspace_id)
        if self._again and now_ms >= self._again_at_ms:
            self._again_at_ms = now_ms + AGAIN_MS
            self._waiting.extend(self._again)
            self._again.clear()
        while self._waiting and len(self._adopted) < AT_ONCE:
            self._adopt(self._waiting.popleft())

    def _adopt(self, workspace_id: int) -> None:
        if workspace_id in self._chains.chains or not has_leftovers(self._base, workspace_id):
            return
        try:
            self._chains.chain(workspace_id)
        except TransientError:
            self._try_again(workspace_id)
        except (FencedError, TerminalError):
            pass  # it has another writer, or is no workspace
        else:
            self._adopted.add(workspace_id)

    def _let_go(self, workspace_id: int) -> None:
        with suppress(TransientError, FencedError):
            self._chains.release(workspace_id)
            self._adopted.discard(workspace_id)
            self._try_again(workspace_id)

    def _try_again(self, workspace_id: int) -> None:
        """It could not be had, or there may be more: its disk may have been full for a while."""
        self._attempts[workspace_id] += 1
        if self._attempts[workspace_id] < ATTEMPTS_MAX:
            self._again.append(workspace_id)
