"""`cdp-sinks deadletters`: what was refused is told, shown, and sent again once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.cli.deadletters import list_dead_letters, show_dead_letters, sink_of
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.config import load
from cdp_ray_sinks.delivery.dead_letters import DeadLetterArchive
from cdp_ray_sinks.errors import ConfigError, TerminalError
from cdp_ray_sinks.testing import numbered_batch, numbers_in

CONFIG = """
[pipeline]
name = "dead"
state_dir = "state"
[ray]
object_store_bytes = 134_217_728
[delivery]
window_bytes = 16_777_216
[sources.events]
type = "synthetic"
events = 1
[sinks.archive]
type = "disk_binary"
path = "archive"
[sinks.other]
type = "null"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline's file, and five batches that two of its sinks refused."""
    (tmp_path / "pipeline.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    refuse(tmp_path, "archive", range(3), "no such column: n")
    refuse(tmp_path, "archive", range(3, 4), "too long")
    refuse(tmp_path, "other-spool", range(4, 5), "too odd")
    return tmp_path


def refuse(folder: Path, sink: str, numbers: range, reason: str) -> None:
    letters = DeadLetterArchive(folder / "state/dead_letters", sink, SystemClock())
    for number in numbers:
        letters.put(numbered_batch(number, 7, 2000), None, TerminalError(reason))
    letters.close()


def replay(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdp_ray_sinks", "deadletters", "replay", "pipeline.toml"]
    return subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip


def test_list_counts_by_sink_and_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commonest reason first; also as JSON."""
    assert list_dead_letters(folder / "pipeline.toml", None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("archive: 4 messages, 20")
    assert lines[1].split() == ["3", "TerminalError:", "no", "such", "column:", "n"]
    assert lines[3].startswith("other-spool: 1 messages")
    assert list_dead_letters(folder / "pipeline.toml", "other", as_json=True) == 0
    (other,) = json.loads(capsys.readouterr().out)
    assert other["reasons"] == {"TerminalError: too odd": 1}


def test_a_torn_line_of_reasons_hides_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a crash while it was written leaves it."""
    with (folder / "state/dead_letters/archive/reasons.jsonl").open("a") as reasons:
        reasons.write('{"sink": "arch')
    assert list_dead_letters(folder / "pipeline.toml", "archive", as_json=False) == 0
    out, err = capsys.readouterr()
    assert "archive: 4 messages" in out
    assert "line 5 is not JSON" in err


def test_show_prints_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `cat` does; what does not decode is named, and the code says so."""
    letters = DeadLetterArchive(folder / "state/dead_letters", "other", SystemClock())
    letters.put(synthetic_batches(20, "small", 20)[0], (1,), TerminalError("odd"))
    letters.close()
    assert show_dead_letters(folder / "pipeline.toml", "other", None, as_json=True) == 1
    out, err = capsys.readouterr()
    shown = [json.loads(line) for line in out.splitlines()]
    assert [event["payload"]["n"] for event in shown] == list(range(10, 20))
    assert "workspace 7: message 0" in err
    assert show_dead_letters(folder / "pipeline.toml", "other", 3, as_json=False) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_sink_that_is_not_there_is_told(folder: Path) -> None:
    """Instead of an empty list."""
    with pytest.raises(ConfigError, match="no such sink"):
        list_dead_letters(folder / "pipeline.toml", "archiv", as_json=False)


def test_without_dead_letters_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is no failure."""
    (tmp_path / "pipeline.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    assert list_dead_letters(tmp_path / "pipeline.toml", None, as_json=False) == 0
    assert capsys.readouterr().out == "no dead letters\n"


def test_a_replay_lands_them_once_however_often_it_is_tried(folder: Path) -> None:
    """A try that ended before it could say so is made again, under the same ids."""
    first = replay(folder, "--sink", "archive")
    assert (first.returncode, first.stdout) == (0, "archive: 4 durable\n"), first.stderr
    assert landed(folder) == [0, 1, 2, 3]
    base = folder / "state/dead_letters"
    assert not (base / "archive").exists()
    (done,) = (base / ".replayed").iterdir()
    done.rename(base / ".replaying/archive")
    refuse(folder, "archive", range(9, 10), "a new one")
    again = replay(folder, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == {"archive": {"durable": 4}, "other-spool": {"durable": 1}}
    assert landed(folder) == [0, 1, 2, 3]
    assert (base / "archive").exists(), "what was refused since is for the next replay"


def landed(folder: Path) -> list[int]:
    """The running numbers in the archive."""
    return sorted(numbers_in(folder / "archive"))


def test_an_archive_is_of_the_sink_whose_lane_or_spool_made_it(folder: Path) -> None:
    """A lane among several adds its number or node, which may look like a suffix."""
    config = load(folder / "pipeline.toml")
    for name in ("archive", "archive@1", "archive@node-spool", "archive-spool", "archive-refused"):
        assert sink_of(config, name) == "archive"
    assert sink_of(config, "archive2@1") == "archive2@1"
