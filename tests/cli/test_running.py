"""A running pipeline is found by its name, and a token is used where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_ray_sinks.cli.running import noted, noted_address, use_auth_token


def test_an_address_is_noted_while_the_pipeline_runs(tmp_path: Path) -> None:
    """Under its name, and gone afterwards."""
    with noted(tmp_path / "running", "main", "10.0.0.1:6379"):
        assert noted_address(tmp_path / "running", "main") == "10.0.0.1:6379"
        assert noted_address(tmp_path / "running", "other") is None
    assert noted_address(tmp_path / "running", "main") is None


@pytest.mark.parametrize(
    "note", ["", "{}", "[]", '{"pid": "x", "address": "a"}', '{"pid": 999999999, "address": "a"}']
)
def test_a_note_left_by_a_kill_is_not_believed(tmp_path: Path, note: str) -> None:
    """Neither one of a process that is gone, nor one that makes no sense."""
    (tmp_path / "main.json").write_text(note)
    assert noted_address(tmp_path, "main") is None


def test_a_folder_that_can_not_be_written_is_no_harm(tmp_path: Path) -> None:
    """The pipeline runs all the same."""
    (tmp_path / "file").write_text("")
    with noted(tmp_path / "file" / "running", "main", "a"):
        assert noted_address(tmp_path / "file" / "running", "main") is None


def test_a_token_is_used_unless_the_environment_decides(tmp_path: Path) -> None:
    """A token in the environment or in a file turns it on; an explicit mode stays."""
    token = tmp_path / "token"
    token.write_text(json.dumps("x"))
    environ = {"RAY_AUTH_TOKEN_PATH": str(token)}
    use_auth_token(environ)
    assert environ["RAY_AUTH_MODE"] == "token"
    environ = {"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"}
    use_auth_token(environ)
    assert environ["RAY_AUTH_MODE"] == "disabled"
    environ = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "absent")}
    use_auth_token(environ)
    assert "RAY_AUTH_MODE" not in environ
