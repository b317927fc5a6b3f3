"""The key file: what is taken, what is refused, and that no key is ever shown."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.api_keys import ApiKeys

KEY = "00112233445566778899aabbccddeeff"
OTHER = "ffeeddccbbaa99887766554433221100"


def load(path: Path, text: str | bytes) -> ApiKeys:
    file = path / "apikeys.conf"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return ApiKeys.load(file)


def test_comments_blank_lines_names_and_cases_are_taken(tmp_path: Path) -> None:
    """Names may hold colons; several keys may lead to one workspace."""
    keys = load(
        tmp_path,
        f"\ufeff# production\r\n\r\n {KEY.upper()} : 4294967295 : shop: north \n{OTHER}:7\n",
    )
    assert len(keys) == 2
    assert keys.workspace_names == {4294967295: "shop: north"}
    assert sorted(keys.key_table[:, 2][keys.key_table[:, 2] > 0]) == [7, 4294967295]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (KEY, "expected hexkey:workspace"),
        (f"{KEY[:-1]}:1", "32 hex digits, this one has 31"),
        (f"{KEY[:-1]}g:1", "32 hex digits"),
        (f"{KEY[:15]} {KEY[16:]}:1", "32 hex digits"),
        (f"{'0' * 32}:1", "all-zero"),
        (f"{KEY}:0", "workspace 0"),
        (f"{KEY}:-1", "from 1 to 4294967295"),
        (f"{KEY}:4294967296", "from 1 to 4294967295"),
        (f"{KEY}:\u0661", "from 1 to 4294967295"),
        (f"{KEY}:", "from 1 to 4294967295"),
        (f"{KEY}:one", "from 1 to 4294967295"),
        (f"{OTHER.upper()}:9", "the same key as in line 1"),
    ],
)
def test_a_bad_line_is_named_without_its_key(tmp_path: Path, line: str, reason: str) -> None:
    """File, line and reason are in the error; not one part of a key is."""
    with pytest.raises(ConfigError, match=rf"apikeys.conf: line 3: .*{reason}") as caught:
        load(tmp_path, f"{OTHER}:1\n# comment\n{line}\n")
    text = str(caught.value).lower()
    assert KEY[:8] not in text
    assert OTHER[:8] not in text


def test_every_bad_line_is_listed(tmp_path: Path) -> None:
    """All of them at once, up to ten, and how many more there are."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "\n".join(["nonsense"] * 15))
    assert "line 1:" in str(caught.value)
    assert "line 10:" in str(caught.value)
    assert "line 11:" not in str(caught.value)
    assert "and 5 more" in str(caught.value)


def test_a_file_without_keys_or_without_leave_is_an_error(tmp_path: Path) -> None:
    """Missing, a directory, and empty are each said."""
    with pytest.raises(ConfigError, match="No such file"):
        ApiKeys.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="directory"):
        ApiKeys.load(tmp_path)
    with pytest.raises(ConfigError, match="no api key in it"):
        load(tmp_path, "# nothing\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_keys_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    """Nothing else is ever raised, whatever is in the file."""
    with contextlib.suppress(ConfigError):
        assert len(load(tmp_path, content)) > 0


def test_reload_replaces_or_keeps(tmp_path: Path) -> None:
    """A good file takes the place of the old keys, a bad one changes nothing."""
    keys = load(tmp_path, f"{KEY}:1\n")
    before = keys.key_table
    file = tmp_path / "apikeys.conf"
    file.write_text("broken\n")
    with pytest.raises(ConfigError):
        keys.reload()
    assert keys.key_table is before
    file.unlink()
    with pytest.raises(ConfigError):
        keys.reload()
    assert len(keys) == 1
    file.write_text(f"{KEY}:1\n{OTHER}:2:two\n")
    keys.reload()
    assert len(keys) == 2
    assert np.count_nonzero(before[:, 2]) == 1
    assert keys.workspace_names == {2: "two"}


def test_keys_are_not_in_a_repr(tmp_path: Path) -> None:
    """What ends up in a log is the file and the count."""
    shown = repr(load(tmp_path, f"{KEY}:1\n"))
    assert "1 keys" in shown
    assert KEY not in shown
