"""How another process finds a pipeline that runs on this machine, and is let in.

`run` notes its cluster's address under the pipeline's name while it runs; `status` looks
there first, because Ray itself only knows the newest cluster of a machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

_AUTH_MODE = "RAY_AUTH_MODE"


def use_auth_token(environ: MutableMapping[str, str]) -> None:
    """Have Ray use the token there is, unless the environment says whether to.

    Ray gives a cluster that it starts a token by default, but does not use it when it
    joins one by address. To be called before Ray is imported.
    """
    if environ.get(_AUTH_MODE):
        return
    path = environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    if environ.get("RAY_AUTH_TOKEN") or Path(path).is_file():
        environ[_AUTH_MODE] = "token"


@contextmanager
def noted(folder: Path, name: str, address: str) -> Iterator[None]:
    """Note the address for as long as this lasts; a folder that can't be written is no harm."""
    path = _note_path(folder, name)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"address": address, "pid": os.getpid()}))
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def noted_address(folder: Path, name: str) -> str | None:
    """The address of the pipeline of that name, if one runs here."""
    try:
        note = json.loads(_note_path(folder, name).read_text())
        os.kill(note["pid"], 0)
        return str(note["address"])
    except PermissionError:
        return str(note["address"])  # it runs, as someone else
    except (OSError, ValueError, KeyError, TypeError):
        return None


def notes_folder(environ: MutableMapping[str, str]) -> Path:
    """Where this user's notes are."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "cdp_ray_sinks" / ".running"


def _note_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
