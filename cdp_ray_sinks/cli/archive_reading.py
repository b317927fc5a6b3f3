"""What `cat` and `scan` share: the batches of archives and single files, and damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.errors import CdpError, ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.archive import segments
from cdp_ray_sinks.writers.binary import BinaryReader

OnDamage = Callable[[str], None]


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The data files of folders, in the order of their names, and of single files.

    Raises ConfigError for a path that is not there.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        found += [segment.path for segment in segments(path)] if path.is_dir() else [path]
    return found


def batches_of(files: Sequence[Path], on_damage: OnDamage) -> Iterator[tuple[Path, Batch]]:
    """Every batch that can be read; what can't be is told to `on_damage` and left out."""

    def tell(damage: CorruptSegmentError) -> None:
        on_damage(str(damage))

    for path in files:
        try:
            with BinaryReader.open(path, tell) as reader:
                for batch in reader.batches():
                    yield path, batch
        except (CdpError, OSError) as error:
            on_damage(str(error))
