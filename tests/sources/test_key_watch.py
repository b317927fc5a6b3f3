"""The key file is read again when it has changed, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.key_watch import KeyFileWatch

ONE, TWO = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with one key."""
    path = tmp_path / "keys"
    path.write_text(f"{ONE}:1\n")
    return path


def watch_of(file: Path) -> tuple[ApiKeys, KeyFileWatch]:
    keys = ApiKeys.load(file)
    return keys, KeyFileWatch(keys, 1000)


def test_a_change_counts_when_two_looks_agree(file: Path) -> None:
    """Nothing is read while the file still changes, nor when it did not."""
    keys, watch = watch_of(file)
    watch.look()
    assert watch.reloads == 0
    for lines in range(1, 4):
        file.write_text("".join(f"{n:032x}:{n}\n" for n in range(1, lines + 1)))
        watch.look()
        assert (watch.reloads, len(keys)) == (0, 1)
    watch.look()
    assert (watch.reloads, len(keys), watch.problem) == (1, 3, "")
    watch.look()
    watch.look()
    assert watch.reloads == 1


def test_a_broken_or_missing_file_keeps_the_keys_and_is_told(file: Path) -> None:
    """The problem names the file, the line and that the old keys hold; never a key."""
    keys, watch = watch_of(file)
    table = keys.key_table
    file.write_text(f"{TWO}:2\n{TWO[:-1]}:3\n")
    for _ in range(4):
        watch.look()
    assert watch.reload_errors == 1
    assert "line 2" in watch.problem
    assert "the 1 keys from before stay in force" in watch.problem
    assert TWO[:8] not in watch.problem
    file.unlink()
    for _ in range(4):
        watch.look()
    assert "No such file" in watch.problem
    assert (watch.reload_errors, keys.key_table is table) == (2, True)
    file.write_text(f"{TWO}:2\n")
    for _ in range(2):
        watch.look()
    assert (watch.problem, watch.reloads, len(keys)) == ("", 1, 1)


def test_a_file_put_in_its_place_is_seen_with_the_same_size_and_time(file: Path) -> None:
    """A rename over the file, as editors and secret mounts do, through a link too."""
    link = file.with_name("link")
    link.symlink_to(file)
    keys, watch = watch_of(link)
    other = file.with_name("other")
    other.write_text(f"{TWO}:2\n")
    found = file.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(file)
    table = keys.key_table
    for _ in range(2):
        watch.look()
    assert watch.reloads == 1
    assert keys.key_table is not table


def test_a_change_between_load_and_the_first_look_is_seen(file: Path) -> None:
    """What the watch starts from is the file that was read, not the one it finds."""
    keys = ApiKeys.load(file)
    file.write_text(f"{ONE}:1\n{TWO}:2\n")
    watch = KeyFileWatch(keys, 1000)
    for _ in range(2):
        watch.look()
    assert len(keys) == 2


def test_a_file_that_others_may_read_is_a_problem(file: Path) -> None:
    """Only if they can get to it; the mode alone is enough for a second look."""
    _, watch = watch_of(file)
    file.chmod(0o644)
    for _ in range(2):
        watch.look()
    is_reachable = all(folder.stat().st_mode & 0o001 for folder in file.parents)
    assert ("chmod 600" in watch.problem) == is_reachable
    file.chmod(0o600)
    for _ in range(2):
        watch.look()
    assert watch.problem == ""
