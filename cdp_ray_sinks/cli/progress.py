"""Progress of work over bytes: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cdp_ray_sinks.cli.output import stderr_console

Advance = Callable[[int, int], None]
"""Called with the bytes done so far and the bytes in all."""


@contextmanager
def byte_bar(title: str, is_quiet: bool = False) -> Iterator[Advance | None]:
    """A transient bar on stderr; None where none is shown, which `is_quiet` asks for too."""
    console = stderr_console()
    if is_quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=min(done, total), total=total)
