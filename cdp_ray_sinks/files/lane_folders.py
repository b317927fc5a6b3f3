"""Under which names the lanes of one sink keep what must outlive them.

A lane among several adds what tells it apart: `rows`, `rows@1`, `rows@some-node`. The name of
a sink has no "@".
"""

from __future__ import annotations

from pathlib import Path


def kept_name(sink_name: str, replica: str) -> str:
    """The name of one lane; `replica` is empty for the first or only one."""
    return f"{sink_name}@{replica}" if replica else sink_name


def is_of_lane(name: str, sink_name: str) -> bool:
    """Whether that is the name of one of the sink's lanes."""
    return name == sink_name or name.startswith(f"{sink_name}@")


def lane_folders(folder: Path) -> list[Path]:
    """The folders of all lanes of a sink, `folder` being that of the first; those there are.

    Also those of lanes that the sink no longer has: what they took has landed all the same.
    """
    if not folder.parent.is_dir():
        return []
    return sorted(
        path
        for path in folder.parent.iterdir()
        if is_of_lane(path.name, folder.name) and path.is_dir()
    )
