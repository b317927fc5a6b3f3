"""How much memory a pipeline's processes have for themselves, from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def private_bytes(root: int | None = None) -> int:
    """Private pages, clean and dirty, of a process (this one) and all below it, in bytes.

    Pages of the object store count only where one process alone has mapped them. A process
    that ends meanwhile, or may not be looked at, counts nothing.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            children.setdefault(_parent_of(entry), []).append(int(entry.name))
    found, waiting = 0, [os.getpid() if root is None else root]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        found += private_bytes_of(process)
    return found


def _parent_of(process: Path) -> int:
    try:
        # The name, in parentheses, may hold anything.
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def private_bytes_of(process: int) -> int:
    """Private pages of one process, in bytes; 0 if it has ended or may not be looked at."""
    return _pages_of(process, "Private_")


def anonymous_bytes_of(process: int) -> int:
    """Of those what lies in no file: a mapped segment counts as private, but takes no memory
    that the machine could not have back; otherwise as `private_bytes_of`."""
    return _pages_of(process, "Anonymous:")


def _pages_of(process: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))
