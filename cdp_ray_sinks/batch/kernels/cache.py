"""Where compiled kernels are kept, chosen before the first of them is decorated.

Numba looks for a cache place when a function is decorated, and by itself keys it by the
path of the source file. Here the place is keyed by what decides the machine code: the
contents of all kernel sources (numba does not notice a change in a function that another
file calls), the versions, the CPU. So the cache is shared by every install, clone and Ray
working_dir with the same sources, and works where the install is read-only.

`CDP_KERNEL_CACHE` names a parent directory; else the user's cache directory is used, else
a directory in the temporary directory that belongs to this user alone. Cached code is
pickled, so a place that others can write is never used by default.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import caching
from numpy.typing import NDArray

from cdp_ray_sinks.errors import ConfigError

CACHE_VARIABLE: Final = "CDP_KERNEL_CACHE"
PACKAGE_DIRECTORY: Final = Path(__file__).resolve().parents[2]
DIRECTORIES_MAX: Final = 8
"""Caches kept beside each other, one per version and CPU, each of some 5 MB."""
FREE_BYTES_MIN: Final = 64 * 1024 * 1024
LOCK_WAIT_S: Final = 180
_MARKER: Final = "warm"
_NUMBA_LOCATORS: Final = (
    "UserProvidedCacheLocator",
    "InTreeCacheLocator",
    "UserWideCacheLocator",
    "IPythonCacheLocator",
    "ZipCacheLocator",
)


def _source_digest() -> str:
    """Hex digest of everything that decides what machine code the kernels become."""
    digest = hashlib.sha256()
    try:
        digest.update(metadata.version("cdp-ray-sinks").encode())
    except metadata.PackageNotFoundError:
        digest.update(b"source tree")
    sources = [
        *sorted(Path(__file__).parent.glob("*.py")),
        PACKAGE_DIRECTORY / "batch" / "enums.py",
    ]
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    features = llvm.get_host_cpu_features()
    parts = (
        numba.__version__,
        np.__version__,
        platform.python_version(),
        platform.machine(),
        llvm.get_host_cpu_name(),
        ",".join(sorted(n for n, on in features.items() if on)),
    )
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:16]


def _usable(directory: Path) -> bool:
    """True if kernels can be kept in `directory`, which is created, or already are there."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=directory).close()
        has_room = shutil.disk_usage(directory).free >= FREE_BYTES_MIN
    except OSError:
        has_room = False
    # Numba would fail the call that compiles if it could not save what it compiled.
    return has_room or (directory / _MARKER).is_file()


def _own_temporary_directory() -> Path:
    """A directory in the temporary directory that nobody else can write; created."""
    path = Path(tempfile.gettempdir()) / f"cdp-ray-sinks-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not (found.st_mode & 0o077)
        ):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="cdp-ray-sinks-"))


def choose_cache_directory(environment: dict[str, str]) -> Path:
    """The kernels' own directory under the first parent that can be used; created.

    Raises ConfigError if `CDP_KERNEL_CACHE` is set but can't be used: a place that was
    asked for is not silently replaced.
    """
    name = f"kernels-{_source_digest()}"
    wanted = environment.get(CACHE_VARIABLE, "")
    if wanted:
        chosen = Path(wanted).expanduser().absolute() / name
        if not _usable(chosen):
            raise ConfigError(f"{CACHE_VARIABLE}={wanted}: no kernels there and not writable")
        return chosen
    base = environment.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):  # no home directory
        user = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
        chosen = user / "cdp_ray_sinks" / name
        if _usable(chosen):
            return chosen
    chosen = _own_temporary_directory() / name
    chosen.mkdir(parents=True, exist_ok=True, mode=0o700)
    return chosen


CACHE_DIRECTORY: Final = choose_cache_directory(dict(os.environ))
"""Where this process keeps and finds its kernels."""


class KernelCacheLocator:
    """Tells numba where to cache the functions of this package, and of no other.

    Implements numba's cache locator protocol; numba finds it by name, see `_install`.
    """

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file = py_file
        inside = Path(py_file).resolve().relative_to(PACKAGE_DIRECTORY)
        line = py_func.__code__.co_firstlineno
        self._disambiguator = "-".join([*inside.parent.parts, str(line)])

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> KernelCacheLocator | None:
        """A locator for a function of this package, None for any other."""
        if not Path(py_file).resolve().is_relative_to(PACKAGE_DIRECTORY):
            return None
        return cls(py_func, py_file)

    def ensure_cache_path(self) -> None:
        """Create the directory again if it was removed under us."""
        CACHE_DIRECTORY.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get_cache_path(self) -> str:
        """The directory that all kernels share."""
        return str(CACHE_DIRECTORY)

    def get_source_stamp(self) -> str:
        """Digest of the function's own source file; the directory stands for the rest."""
        return hashlib.sha256(Path(self._py_file).read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        """What tells functions of one name in one file name apart."""
        return self._disambiguator


def _install() -> None:
    """Make numba ask our locator first; other packages' functions are cached as before."""
    settings: Any = numba.config
    ours = f"{__name__}.{KernelCacheLocator.__name__}"
    if not hasattr(settings, "CACHE_LOCATOR_CLASSES"):  # numba < 0.62
        settings.CACHE_DIR = str(CACHE_DIRECTORY)
        return
    known = [name for name in _NUMBA_LOCATORS if hasattr(caching, name)]
    theirs = settings.CACHE_LOCATOR_CLASSES or ",".join(known)
    if ours not in theirs:
        settings.CACHE_LOCATOR_CLASSES = f"{ours},{theirs}"


_install()


def is_warm(contents: str) -> bool:
    """True if `mark_warm` was called with the same `contents` on this directory."""
    try:
        return (CACHE_DIRECTORY / _MARKER).read_text() == contents
    except OSError:
        return False


def mark_warm(contents: str) -> None:
    """Remember that every kernel of `contents` has been compiled into the directory.

    Also removes the directories of other versions beyond DIRECTORIES_MAX, longest unused
    first; a process that still uses one of them compiles again what it has not loaded.
    """
    with contextlib.suppress(OSError):  # a read-only cache is already marked
        (CACHE_DIRECTORY / _MARKER).write_text(contents)
        os.utime(CACHE_DIRECTORY)
        found = [path for path in CACHE_DIRECTORY.parent.glob("kernels-*") if path.is_dir()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[DIRECTORIES_MAX:]:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def one_compiler() -> Iterator[None]:
    """Hold the directory's lock, so that processes of one node don't all compile at once.

    After LOCK_WAIT_S it goes on without: compiling twice is a waste, not an error.
    """
    try:
        descriptor = os.open(CACHE_DIRECTORY / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # read-only: nothing will be written, so nothing to guard
        yield
        return
    try:
        for _ in range(10 * LOCK_WAIT_S):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory as a read-only array.

    Numba compiles a kernel anew for read-only arrays, and what lies in shared memory is
    read-only: every input array of a kernel passes through here, so one version serves.
    """
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view
