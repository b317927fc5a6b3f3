"""The file that says which api key belongs to which workspace.

One `hexkey:workspace[:name]` per line: 32 hex digits, a workspace from 1 to 4294967295,
a name for people. Blank lines and lines that begin with `#` are skipped. A key is never
part of an error, a repr or a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.enums import API_KEY_BYTES
from cdp_ray_sinks.batch.kernels.key_table import key_array, key_table_of, workspace_of_key
from cdp_ray_sinks.errors import ConfigError

API_KEY_FILE_BYTES_MAX: Final = 64 * 1024 * 1024
WORKSPACE_MAX: Final = 2**32 - 1

_KEY: Final = re.compile(r"[0-9A-Fa-f]{32}")
_WORKSPACE: Final = re.compile(r"[0-9]{1,10}")
_PROBLEMS_SHOWN_MAX: Final = 10

Signature: TypeAlias = tuple[int, ...]
"""What changes when a file is written, replaced or gets another mode."""


class ApiKeys:
    """The keys of one file, as the table that the envelope kernel looks them up in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signature: Signature = ()
        """Of the file that the keys are from."""
        self.reload()

    @classmethod
    def load(cls, path: str | Path) -> ApiKeys:
        """Read the file; ConfigError names it and every bad line with what is wrong."""
        return cls(Path(path))

    def reload(self) -> None:
        """Read the file again; on ConfigError the keys from before stay in force."""
        text, signature = _read(self.path)
        workspaces, names = _parse(self.path, text)
        self._key_table = key_table_of(b"".join(workspaces), list(workspaces.values()))
        self._names = names
        self._count = len(workspaces)
        self.signature = signature

    @property
    def key_table(self) -> NDArray[np.uint64]:
        """The present look-up table; `reload` replaces it, never changes it."""
        return self._key_table

    def workspace_of(self, key: bytes) -> int:
        """The workspace of a key of 16 bytes, 0 if there is none."""
        return int(workspace_of_key(key_array(key), self._key_table))

    @property
    def workspace_names(self) -> Mapping[int, str]:
        """Names given in the file, by workspace."""
        return self._names

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"ApiKeys({str(self.path)!r}, {self._count} keys)"


def signature_of(found: os.stat_result) -> Signature:
    """The signature of a file."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> tuple[str, Signature]:
    try:
        with path.open("rb") as file:
            signature = signature_of(os.fstat(file.fileno()))
            content = file.read(API_KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"api key file {path}: {error.strerror or error}") from None
    if len(content) > API_KEY_FILE_BYTES_MAX:
        raise ConfigError(f"api key file {path}: larger than {API_KEY_FILE_BYTES_MAX} bytes")
    return content.decode("utf-8-sig", errors="replace"), signature


def _parse(path: Path, text: str) -> tuple[dict[bytes, int], dict[int, str]]:
    """Key → workspace and workspace → name; ConfigError if any line is bad, or none good."""
    workspaces: dict[bytes, int] = {}
    names: dict[int, str] = {}
    lines: dict[bytes, int] = {}
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = [part.strip() for part in stripped.split(":", 2)]
        problem = _problem_of(parts)
        if problem is None:
            key, workspace = bytes.fromhex(parts[0]), int(parts[1])
            if key in workspaces:
                problem = f"the same key as in line {lines[key]}"
            else:
                workspaces[key], lines[key] = workspace, number
                if len(parts) == 3 and parts[2]:
                    names[workspace] = parts[2]
        if problem is not None:
            problems.append(f"line {number}: {problem}")
    if not workspaces and not problems:
        problems.append("no api key in it")
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN_MAX
        tail = f"; and {more} more" if more > 0 else ""
        shown = "; ".join(problems[:_PROBLEMS_SHOWN_MAX])
        raise ConfigError(f"api key file {path}: {shown}{tail}")
    return workspaces, names


def _problem_of(parts: list[str]) -> str | None:
    """What is wrong with a line, without showing any of it that could be a key."""
    if len(parts) < 2:
        return "expected hexkey:workspace[:name]"
    if _KEY.fullmatch(parts[0]) is None:
        return f"the key must be 32 hex digits, this one has {len(parts[0])} characters"
    if bytes.fromhex(parts[0]) == bytes(API_KEY_BYTES):
        return "the all-zero key stands for a removed key in archives"
    if _WORKSPACE.fullmatch(parts[1]) is None or int(parts[1]) > WORKSPACE_MAX:
        return f"the workspace must be a number from 1 to {WORKSPACE_MAX}"
    if int(parts[1]) == 0:
        return "workspace 0 means none"
    return None
