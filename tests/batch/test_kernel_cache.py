"""Kernels are compiled once per machine and version, wherever the package lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.batch.kernels import cache
from cdp_ray_sinks.batch.kernels import decode_events as kernel
from cdp_ray_sinks.errors import ConfigError

PROBE = """
import numpy as np
from cdp_ray_sinks.batch.kernels import cache, tables, utf8
from cdp_ray_sinks.batch.kernels.cache import readonly
text = np.zeros(4, np.uint8)
utf8.is_ascii(readonly(text), 4)
stats = utf8.is_ascii.stats
print(cache.CACHE_DIRECTORY, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def run(
    code: str, place: Path = cache.PACKAGE_DIRECTORY.parent, **variables: str | Path
) -> list[str]:
    """What a fresh process prints that imports the package from `place`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {key: str(value) for key, value in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package that nobody may write, as an installed one is."""
    place = tmp_path / "install"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(cache.PACKAGE_DIRECTORY, place / "cdp_ray_sinks", ignore=ignored)
    for path in [*place.rglob("*"), place]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return place


def test_a_second_process_and_another_install_load_what_the_first_compiled(
    tmp_path: Path, copied: Path
) -> None:
    """The same sources share one cache, from a read-only copy elsewhere too."""
    directory, hits, misses = run(PROBE, CDP_KERNEL_CACHE=tmp_path / "kernels")
    assert Path(directory).parent == tmp_path / "kernels"
    assert (hits, misses) == ("0", "1")
    again = run(PROBE, CDP_KERNEL_CACHE=tmp_path / "kernels")
    assert again == [directory, "1", "0"]
    elsewhere = run(PROBE, copied, CDP_KERNEL_CACHE=tmp_path / "kernels")
    assert elsewhere == [directory, "1", "0"]


def test_changed_sources_have_a_cache_of_their_own(tmp_path: Path, copied: Path) -> None:
    """A change in any kernel file may change what others compiled from it."""
    (directory, *_) = run(PROBE, copied, CDP_KERNEL_CACHE=tmp_path / "kernels")
    changed = copied / "cdp_ray_sinks" / "batch" / "kernels" / "tables.py"
    changed.chmod(0o644)
    changed.write_text(changed.read_text() + "\n# changed\n")
    (other, _, misses) = run(PROBE, copied, CDP_KERNEL_CACHE=tmp_path / "kernels")
    assert other != directory
    assert misses == "1"


def test_the_users_cache_directory_is_used_by_default(tmp_path: Path) -> None:
    """XDG_CACHE_HOME, for this user alone."""
    (directory, *_) = run(PROBE, XDG_CACHE_HOME=tmp_path, CDP_KERNEL_CACHE="")
    assert Path(directory).parent == tmp_path / "cdp_ray_sinks"
    assert Path(directory).stat().st_mode & 0o077 == 0


def test_without_a_home_a_private_temporary_directory_is_used(tmp_path: Path) -> None:
    """Where the user's directory can't be written, nobody else's can put code in ours."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for _ in range(2):
        directory, hits, misses = run(
            PROBE, XDG_CACHE_HOME=blocked, TMPDIR=temporary, CDP_KERNEL_CACHE=""
        )
        assert Path(directory).is_relative_to(temporary)
        assert Path(directory).parent.stat().st_mode & 0o077 == 0
    assert (hits, misses) == ("1", "0")
    Path(directory).parent.chmod(0o777)  # now others could have written there
    (other, *_) = run(PROBE, XDG_CACHE_HOME=blocked, TMPDIR=temporary, CDP_KERNEL_CACHE="")
    assert other != directory


def test_a_cache_that_was_asked_for_and_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """It is not silently replaced by another place."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match=f"CDP_KERNEL_CACHE={blocked}"):
        cache.choose_cache_directory({"CDP_KERNEL_CACHE": str(blocked)})


def test_other_packages_functions_are_cached_where_they_were(tmp_path: Path) -> None:
    """Only this package's functions go into this package's cache."""
    (tmp_path / "theirs.py").write_text(
        "from numba import njit\n@njit(cache=True)\ndef twice(n):\n    return 2 * n\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import cdp_ray_sinks.batch.kernels\n"
        "import theirs\n"
        "theirs.twice(1)\n"
        "print(theirs.twice.stats.cache_path)\n"
    )
    assert run(code, CDP_KERNEL_CACHE=tmp_path / "kernels") == [str(tmp_path / "__pycache__")]


def test_read_only_and_writable_memory_share_one_compiled_kernel() -> None:
    """Shared memory is read-only, a builder's is not: numba would compile for each."""
    from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader

    ones = np.ones(3, np.uint8)
    records, offsets = encode_events(ones, ones, events_per_message=2)
    header = BatchHeader(NO_PRODUCER, 0, 0, 1, 0, 1, "test", 0, 2, 3, len(records), 0)
    for shared in (records, cache.readonly(records), records.copy()):
        decoded = decode_events(Batch(header, shared, cache.readonly(offsets)))
        assert decoded.table.num_rows == 3
        assert decode_events(Batch(header, shared, offsets)).table.num_rows == 3
    assert len(kernel.decode_events.signatures) == 1


@pytest.mark.soak
def test_all_kernels_compile_once_and_load_fast(tmp_path: Path) -> None:
    """The first process says that it compiles, the second only loads; one line, no more."""
    code = (
        "import time\n"
        "from cdp_ray_sinks.batch.warm import compile_kernels, kernels_are_warm\n"
        "print(int(kernels_are_warm()))\n"
        "began = time.monotonic()\n"
        "compile_kernels(lambda text: print(text.replace(' ', '_')))\n"
        "print(int(kernels_are_warm()), time.monotonic() - began)\n"
    )
    assert run(code, CDP_KERNEL_CACHE=tmp_path)[:3] == [
        "0", "compiling_kernels,_first_run_only", "1",
    ]  # fmt: skip
    before, after, seconds = run(code, CDP_KERNEL_CACHE=tmp_path)
    assert (before, after) == ("1", "1")
    assert float(seconds) < 10
