"""The command line as a person meets it: exit codes, errors, and what start-up loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def cli(
    *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


def test_help_names_every_command() -> None:
    """Without arguments and with --help alike."""
    done = cli("--help")
    assert done.returncode == 0
    for command in ("run", "validate", "cat", "scan", "verify", "status", "send", "bench"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["runn"],
        ["run"],
        ["run", "absent.toml"],
        ["validate", "absent.toml"],
        ["cat", "absent"],
        ["scan", "absent"],
        ["verify", "absent"],
        ["scan", "absent", "--check-synthetic", "-1"],
        ["send", "absent", "--to", "nowhere"],
    ],
)
def test_wrong_usage_is_exit_code_2_without_a_traceback(arguments: list[str]) -> None:
    """The reason stands on stderr, nothing on stdout."""
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_reading_commands_do_not_load_ray() -> None:
    """A check of a configuration loads neither Ray nor numba."""
    code = (
        "import sys, cdp_ray_sinks.cli.main, cdp_ray_sinks.cli.validate\n"
        "heavy = {'ray', 'numba', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_validate_says_what_there_is(tmp_path: Path) -> None:
    """A good file names its parts; warnings go to stderr and change no exit code."""
    path = tmp_path / "good.toml"
    path.write_text(
        '[sources.gen]\ntype = "synthetic"\n[sinks.a]\ntype = "null"\n[sinks.b]\ntype = "null"\n'
        '[routing]\ndefault = ["a"]\n'
    )
    done = cli("validate", path)
    assert done.returncode == 0
    assert "gen (synthetic)" in done.stdout
    assert "sinks.b: no rule sends anything there" in done.stderr


def test_validate_as_json_tells_errors_on_stdout(tmp_path: Path) -> None:
    """A program gets the same lines as a person, and the same exit code."""
    path = tmp_path / "bad.toml"
    path.write_text("[sinks.a]\ntype = 'nul'\n")
    done = cli("validate", path, "--json")
    assert done.returncode == 2
    assert '"ok": false' in done.stdout
    assert "did you mean 'null'" in done.stdout


def test_no_command_brings_ray_before_it_has_said_which_token_to_use() -> None:
    """Ray reads that once, when it is imported; a cluster started afterwards would refuse us."""
    modules = ", ".join(
        f"cdp_ray_sinks.cli.{name}" for name in ("main", "chaos", "deadletters", "run", "status")
    )
    code = f"import sys, {modules}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
