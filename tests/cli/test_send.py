"""`send`: what it takes, what it refuses, and that it never shows a key."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.cli.rates import parse_rate
from cdp_ray_sinks.cli.selecting import make_selection
from cdp_ray_sinks.cli.send import send_paths
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig, synthetic_frames
from cdp_ray_sinks.sources.tcp import TcpConfig
from cdp_ray_sinks.testing import BatchKeeper

KEY = "5eec4e7a5eec4e7a5eec4e7a5eec4e7a"
Captured = pytest.CaptureFixture[str]


class Receiver:
    """A TCP source that knows KEY, and what it took."""

    def __init__(self, folder: Path) -> None:
        keys = folder / "keys.conf"
        keys.write_text(f"{KEY}:9\n")
        self._source = TcpConfig(listen="127.0.0.1:0", api_keys=keys).build(SourceContext("tcp"))
        self._stop = threading.Event()
        self._keeper = BatchKeeper()
        self._thread = threading.Thread(target=self._source.run, args=(self._keeper, self._stop))
        self._thread.start()
        assert self._source.ready.wait(60)
        self.address = self._source.address

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)

    @property
    def counters(self) -> dict[str, int]:
        self.close()
        return self._source.counters()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that is running."""
    receiver = Receiver(tmp_path)
    yield receiver
    receiver.close()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """2,000 events as frames of 10 under KEY."""
    path = tmp_path / "frames.bin"
    config = SyntheticConfig(events=2_000, shape="small")
    with path.open("wb") as file:
        for piece in synthetic_frames(config, bytes.fromhex(KEY), 1_767_225_600_000):
            file.write(piece)
    return path


def test_an_archive_is_sent_under_a_key_of_the_environment(
    synthetic_archive: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """Every event of it is taken; that two workspaces become one is said."""
    monkeypatch.setenv("SEND_KEY", KEY)
    paths = [synthetic_archive]
    assert send_paths(paths, receiver.address, None, "${SEND_KEY}", as_json=True) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert list(report) == ["frames", "events", "bytes", "skipped", "elapsed_s", "taken"]
    assert (report["events"], report["skipped"], report["taken"]) == (10_000, 0, True)
    assert "warning: 2 workspaces go under one key" in err
    counters = receiver.counters
    assert (counters["events"], counters["messages"]) == (10_000, report["frames"])
    assert counters["errors"] == 0


def test_several_paths_and_a_key_in_a_file(
    synthetic_archive: Path, receiver: Receiver, frames: Path, tmp_path: Path, capsys: Captured
) -> None:
    """A segment, part of an archive and a file of frames over one connection."""
    (tmp_path / "key").write_text(KEY + "\n")
    segment = next((synthetic_archive / "2").rglob("*.bin"))
    key = f"${{file:{tmp_path / 'key'}}}"
    assert send_paths([segment, frames, frames], receiver.address, None, key, as_json=False) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "9,000 events" in out
    counters = receiver.counters
    assert (counters["events"], counters["connections_total"]) == (9_000, 1)


def test_filters_choose_what_is_sent(
    synthetic_archive: Path, receiver: Receiver, capsys: Captured
) -> None:
    """Log entries of one workspace: 30 in 100 of the half."""
    selection = make_selection(None, None, "received", [1], ["log"])
    address = receiver.address
    assert (
        send_paths([synthetic_archive], address, None, KEY, as_json=True, selection=selection) == 0
    )
    assert json.loads(capsys.readouterr().out)["events"] == receiver.counters["events"] == 1_500


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (None, "keeps no api keys.*--api-key"),
        (KEY[:-1], "must be 32 hex digits, this has 31"),
        (KEY + "0", "must be 32 hex digits, this has 33"),
        ("z" * 32, "must be 32 hex digits, this has 32"),
        ("0" * 32, "all-zero key"),
        ("${NO_SUCH_KEY}", "--api-key .*no variable NO_SUCH_KEY"),
        ("${file:/no/such/file}", "--api-key .*/no/such/file"),
        (f"${{{KEY}}}", "or a placeholder, not both"),
        (f"{KEY}${{NO_SUCH_KEY}}", "or a placeholder, not both"),
    ],
)
def test_a_wrong_key_is_told_and_not_shown(
    synthetic_archive: Path, key: str | None, named: str, capsys: Captured
) -> None:
    """Before anybody is connected to; no error holds any of it."""
    with pytest.raises(ConfigError, match=named) as caught:
        send_paths([synthetic_archive], "127.0.0.1:1", None, key, as_json=False)
    shown = str(caught.value) + "".join(capsys.readouterr())
    assert KEY[:8] not in shown


def test_a_file_of_frames_has_no_filters(frames: Path) -> None:
    """Nothing in it says when it was received, or by whom."""
    selection = make_selection(None, None, "received", [], ["log"])
    with pytest.raises(ConfigError, match="only archives have filters"):
        send_paths([frames], "127.0.0.1:1", None, KEY, as_json=False, selection=selection)


@pytest.mark.parametrize("to", ["nowhere", ":50000", "*:50000", "host:0", "host:99999"])
def test_a_receiver_needs_a_host_and_a_port(frames: Path, to: str) -> None:
    """The option is named."""
    with pytest.raises(ConfigError, match="--to"):
        send_paths([frames], to, None, None, as_json=False)


@pytest.mark.parametrize(
    ("text", "per_s", "of"),
    [
        ("1000000", 1_000_000, "bytes"),
        ("10MB", 10_000_000, "bytes"),
        ("1.5 kb/s", 1_500, "bytes"),
        ("4MiB", 4 * 1024**2, "bytes"),
        ("1GB/s", 1e9, "bytes"),
        ("50000ev", 50_000, "events"),
        ("50kev", 50_000, "events"),
        ("2M events/s", 2_000_000, "events"),
        ("0.5ev", 0.5, "events"),
    ],
)
def test_rates_are_read_as_people_write_them(text: str, per_s: float, of: str) -> None:
    """Bytes unless they say events; k, M, G are powers of 1000."""
    assert parse_rate(text) == (per_s, of)


@pytest.mark.parametrize("text", ["", "fast", "10x", "10M", "0", "-5", "4Miev", "1e6", "5 MB ev"])
def test_a_rate_that_could_mean_two_things_is_refused(text: str) -> None:
    """The error shows how to write both kinds."""
    with pytest.raises(ConfigError, match="10MB, or events as 50000ev"):
        parse_rate(text)


def test_ctrl_c_tells_what_was_sent(receiver: Receiver, frames: Path) -> None:
    """The code is 130, and the receiver has as many events as the report says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cdp_ray_sinks", "send", str(frames), "--to", receiver.address,
         "--rate", "200ev", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    events = threading.Event()
    for _ in range(600):
        if receiver._source.counters()["events"] >= 50:
            break
        events.wait(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    report: dict[str, Any] = json.loads(out)
    counters = receiver.counters
    assert report["taken"]
    assert 50 <= report["events"] == counters["events"] < 2_000
    assert counters["frames_torn"] == 0


def test_a_receiver_that_is_not_there_is_a_failure(frames: Path) -> None:
    """One line, code 1, nothing on stdout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "cdp_ray_sinks", "send", str(frames), "--to", f"127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}: Connection refused" in done.stderr
