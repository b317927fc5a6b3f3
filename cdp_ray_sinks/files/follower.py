"""Who follows a chain whose segments are a journal, and makes other files of them.

A sealed journal segment's data is replaced by an empty file once it is published; its index stays
as long as it is marked, because the marked indexes together are the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdp_ray_sinks.files.open_marks import Mark

if TYPE_CHECKING:
    from cdp_ray_sinks.files.segment import Segment


class Follower(Protocol):
    """Follows one chain, on whose thread all of this is called."""

    @property
    def is_busy(self) -> bool:
        """Whether something waits for the next flush, so that the chain must stay open."""
        ...

    def open(
        self, epoch: int, check: Callable[[], None], forget_directory: Callable[[Path], None]
    ) -> None:
        """The chain is open: go on with what earlier writers left sealed. Raises OSError.

        `check` raises FencedError once a newer writer has come, from any thread;
        `forget_directory` is to be told of a directory before it is removed.
        """
        ...

    def is_taken(self, path: Path) -> bool:
        """Whether a new segment may not be made there, because what it ends in exists."""
        ...

    def committed(self, segment: Segment) -> None:
        """A commit of the segment is durable."""
        ...

    def sealed(self, path: Path) -> None:
        """That segment is sealed: nothing will be added or cut."""
        ...

    def seal_came(self, path: Path) -> None:
        """The same as soon as it is so, on the sealer's thread; `sealed` follows."""
        ...

    def covered(self, marks: Iterable[Mark]) -> None:
        """A newer segment's snapshot has what these segments' indexes know."""
        ...

    def tick(self) -> None:
        """Time-driven work; returns soon and raises nothing."""
        ...

    def close(self) -> None:
        """The chain is sealed and about to let go: end what was begun, as far as that goes."""
        ...

    def abandon(self) -> None:
        """Another writer owns the files now: touch nothing more."""
        ...


class NoFollower:
    """Follows nothing: the segments are what the chain is for."""

    @property
    def is_busy(self) -> bool:
        """Nothing waits."""
        return False

    def open(
        self, epoch: int, check: Callable[[], None], forget_directory: Callable[[Path], None]
    ) -> None:
        """Nothing to go on with."""

    def is_taken(self, path: Path) -> bool:
        """Nothing but the segments themselves takes a name."""
        return False

    def committed(self, segment: Segment) -> None:
        """Nobody waits for it."""

    def sealed(self, path: Path) -> None:
        """Nobody waits for it."""

    def seal_came(self, path: Path) -> None:
        """Nobody waits for it."""

    def covered(self, marks: Iterable[Mark]) -> None:
        """Their indexes stay with their segments."""

    def tick(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing was begun."""

    def abandon(self) -> None:
        """Nothing is touched anyway."""
