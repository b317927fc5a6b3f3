"""What publication asks of a format of tables, such as Parquet: the files know no columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from cdp_ray_sinks.batch.batch import Batch


class TableFile(Protocol):
    """One file being written; one thread at a time calls it."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    def add(self, batches: Sequence[Batch]) -> object:
        """Write the rows of these batches as a group of their own. Raises OSError."""
        ...

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the end of the file, with that about it; then it is complete."""
        ...

    def abandon(self) -> None:
        """Let go of the file, which is of no use. Raises nothing."""
        ...


class TableFormat(Protocol):
    """Makes files and recognises them. Used by one thread at a time but for `metadata_of`."""

    suffix: ClassVar[str]

    def new_file(self, out: BinaryIO, stream: str, workspace_id: int) -> TableFile:
        """A file that is written to `out`, which the caller closes."""
        ...

    def metadata_of(self, path: Path) -> Mapping[str, str] | None:
        """What `finish` was given; None if that is no file of ours. Raises OSError."""
        ...
