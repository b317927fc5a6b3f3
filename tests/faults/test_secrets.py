"""No secret gets out: what pipelines print, log, keep and hand to Ray is searched for them."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import load, loads
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.placeholders import resolved
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.testing import BatchKeeper

KEY = "5ec2e7c0ffee4badf00ddeadbeef1999"
PASSWORD = "n0b0dy-may-read-th1s-pa55word"
CONFIG = """
[pipeline]
name = "secrets"
state_dir = "state"
[ray]
object_store_bytes = 157286400
[delivery]
window_bytes = 16777216
populate_object_store = false
drain_deadline_s = 5
[sources.clients]
type = "tcp"
listen = "127.0.0.1:0"
api_keys = "${KEY_FILE}"
api_keys_check_ms = 50
[sinks.archive]
type = "disk_binary"
path = "archive"
[sinks.house]
type = "clickhouse"
url = "http://127.0.0.1:1"
username = "writer"
password = "${HOUSE_PASSWORD}"
on_full = "spool"
spool_after_ms = 100
required = false
"""


def forms_of(secret: str) -> list[bytes]:
    """How a secret may be written: as it is, in half, as bytes of its hex, in base64."""
    plain = [secret.encode(), secret.upper().encode(), secret[: len(secret) // 2].encode()]
    if re.fullmatch("[0-9a-f]{32}", secret):
        raw = bytes.fromhex(secret)
        plain += [raw, repr(raw)[2:-1].encode()]
    coded = [base64.b64encode(form).rstrip(b"=")[:-1] for form in (plain[0], plain[-1])]
    return plain + coded


FORMS = [form for secret in (KEY, PASSWORD) for form in forms_of(secret)]


def leaks_in(content: bytes, where: str) -> list[str]:
    """Where a secret stands in the bytes."""
    return [f"{where}: {form!r}" for form in FORMS if form in content]


def leaks_below(folder: Path, but: set[Path]) -> list[str]:
    """The same for every file and file name below a folder."""
    found = []
    for path in folder.rglob("*"):
        found += leaks_in(str(path).encode(), "a name")
        if path.is_file() and not path.is_symlink() and path not in but:
            found += leaks_in(path.read_bytes(), str(path))
    return found


class Run:
    """`cdp-sinks run` in a folder of its own, with a Ray whose logs are kept there too."""

    def __init__(self, folder: Path, ray_folder: Path, config: str) -> None:
        self.folder, self.ray_folder = folder, ray_folder
        self.key_file = folder / "keys.conf"
        self.key_file.write_text(f"{KEY}:7:shop\n")
        self.key_file.chmod(0o600)
        (folder / "run.toml").write_text(config)
        self.env = {
            **os.environ,
            "KEY_FILE": str(self.key_file),
            "HOUSE_PASSWORD": PASSWORD,
            "RAY_TMPDIR": str(ray_folder),
        }
        self.said: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the program, in the same place."""
        done = subprocess.run(
            [sys.executable, "-m", "cdp_ray_sinks", *arguments],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        self.said += [done.stdout, done.stderr]
        return done

    def status(self, address: str) -> dict[str, Any]:
        """What `status --json` says of the run."""
        done = self.command("status", "--address", address, "--name", "secrets", "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self) -> str:
        """Run the pipeline; the address of its cluster."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cdp_ray_sinks", "run", "run.toml"],
            cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        return self.wait_for(r"running on (\S+);")[1]

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

    def wait_for(self, pattern: str, timeout_s: float = 120) -> re.Match[str]:
        """What the run says, once it has said it."""
        until = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, "".join(self.said))
            if found:
                return found
            assert time.monotonic() < until, "".join(self.said)
            time.sleep(0.05)

    def leaks(self) -> list[str]:
        """Where a secret is that should not be."""
        said = leaks_in("".join(self.said).encode(), "what was printed")
        return (
            said + leaks_below(self.folder, {self.key_file}) + leaks_below(self.ray_folder, set())
        )


@pytest.fixture
def run_of(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    """Makes runs; the folder of Ray has a short name because sockets lie in it."""
    ray_folder = Path(tempfile.mkdtemp(prefix="cs"))
    made: list[Run] = []

    def make(config: str = CONFIG) -> Run:
        made.append(Run(tmp_path, ray_folder, config))
        return made[-1]

    yield make
    for run in made:
        if run.process is not None and run.process.poll() is None:
            run.process.terminate()
            run.process.wait(60)
    shutil.rmtree(ray_folder, ignore_errors=True)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """Without this the other tests would prove nothing."""
    for number, form in enumerate(FORMS):
        (tmp_path / str(number)).write_bytes(b"before" + form + b"after")
        assert leaks_below(tmp_path, set())
        assert not leaks_below(tmp_path, {tmp_path / str(number)})
        (tmp_path / str(number)).unlink()


def test_a_run_that_takes_fails_reloads_and_crashes_leaks_nothing(
    run_of: Callable[..., Run],
) -> None:
    """Events under the key, a sink that can't connect, a broken key file, a killed source."""
    run = run_of()
    address = run.start()
    status = json.loads(
        run.command("status", "--address", address, "--name", "secrets", "--json").stdout
    )
    (clients,) = [r for name, r in status["reports"].items() if name.endswith("/clients")]
    port = clients["counters"]["port"]
    made = run.folder / "made.bin"
    made.write_bytes(made_records())
    sent = run.command(
        "send", "made.bin", "--to", f"127.0.0.1:{port}", "--api-key", "${file:key.txt}"
    )
    assert sent.returncode != 0  # there is no such file; the error names it
    (run.folder / "key.txt").write_text(KEY + "\n")
    sent = run.command(
        "send", "made.bin", "--to", f"127.0.0.1:{port}", "--api-key", "${file:key.txt}", "--json"
    )
    assert sent.returncode == 0, sent.stderr
    (run.folder / "key.txt").unlink()
    run.key_file.write_text(f"{KEY}:7:shop\n{KEY}:8\n{KEY[:-1]}:9\n")
    run.wait_for("line 2: the same key as in line 1")
    time.sleep(1.5)
    status = json.loads(
        run.command("status", "--address", address, "--name", "secrets", "--json").stdout
    )
    assert "line 3" in json.dumps(status)
    for arguments in specs_of(address, run.env):
        run.said.append(arguments)
    (source,) = [a for a in status["actors"] if a["kind"] == "source"]
    os.kill(source["pid"], signal.SIGABRT)
    assert run.process is not None
    assert run.process.wait(120) != 0
    events = sum(b.header.event_count for _, b in read_batches([run.folder / "archive"], fail))
    assert events == 2000
    assert (run.folder / "state").is_dir()
    assert [*run.ray_folder.rglob("worker*")], "no log of Ray was searched"
    assert not run.leaks()


def fail(problem: object) -> None:
    """What is not to be heard."""
    raise AssertionError(problem)


def made_records() -> bytes:
    """2000 events as they lie in an archive."""
    keeper = BatchKeeper()
    config = SyntheticConfig(events=2000, batch_events=500)
    config.build(SourceContext("made")).run(keeper, threading.Event())
    return b"".join(batch.records.tobytes() for batch in keeper.batches)


def specs_of(address: str, env: dict[str, str]) -> list[str]:
    """What Ray tells of the cluster's actors, jobs and nodes, and the command lines."""
    program = (
        "import sys, ray, logging\n"
        "ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)\n"
        "from ray._private.state import actors, jobs, state\n"
        "print(actors(), jobs(), ray.nodes(), ray.util.list_named_actors(True))\n"
        "client = ray._private.worker.global_worker.gcs_client\n"
        "print(client.internal_kv_keys(b'', namespace=None))\n"
        "for space in (None, b'fun', b'job', b'session'):\n"
        "    for key in client.internal_kv_keys(b'', namespace=space):\n"
        "        print(key, client.internal_kv_get(key, namespace=space))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, address],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [
        path.read_bytes().decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.parent.name != str(os.getpid()) and path.exists()
    ]
    return [done.stdout, done.stderr, *lines]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('password = "${HOUSE_PASSWORD}"', 'password = ["${HOUSE_PASSWORD}", "' + PASSWORD + '"]'),
        ('url = "http://127.0.0.1:1"', f'url = "http://writer:{PASSWORD}@127.0.0.1:1"'),
        ('url = "http://127.0.0.1:1"', f'url = "http://127.0.0.1:1?password={PASSWORD}"'),
        ('url = "http://127.0.0.1:1"', f'url = "http://w:{PASSWORD}/x@127.0.0.1:1"'),
        ('username = "writer"', f'username = "writer"\npasword = "{PASSWORD}"'),
        ('password = "${HOUSE_PASSWORD}"', 'password = "${file:nowhere}${HOUSE_PASSWORD}"'),
        ('url = "http://127.0.0.1:1"', 'url = "${HOUSE_PASSWORD}"'),
    ],
)
def test_a_wrong_configuration_is_refused_without_showing_a_secret(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused when it is read, or where it is resolved; the key is named, the secret is not."""
    monkeypatch.setenv("HOUSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("KEY_FILE", "keys.conf")

    def resolve_house() -> None:
        config = loads(CONFIG.replace(before, after))
        resolved(config.sinks["house"], os.environ, "sinks.house")

    assert before in CONFIG
    with pytest.raises(ConfigError) as caught:
        resolve_house()
    assert not leaks_in(str(caught.value).encode(), "the error")
    assert not leaks_in(repr(caught.value.__cause__).encode(), "its cause")


def test_a_run_with_a_broken_key_file_leaks_nothing(run_of: Callable[..., Run]) -> None:
    """It does not start, says the line, and neither output nor Ray's logs have the key."""
    run = run_of()
    run.key_file.write_text(f"{KEY}:7\n{KEY[:-1]}:8\n{KEY}:0\n")
    done = run.command("run", "run.toml")
    assert done.returncode == 2, done.stderr
    assert "line 2" in done.stderr
    assert not run.leaks()


def test_a_configuration_travels_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickled, as actors get it, shown, and as JSON; a secret written out is warned of."""
    monkeypatch.setenv("HOUSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("KEY_FILE", str(tmp_path / "keys.conf"))
    (tmp_path / "keys.conf").write_text(f"{KEY}:7\n")
    (tmp_path / "run.toml").write_text(CONFIG)
    config = load(tmp_path / "run.toml")
    shown = [repr(config), str(config), config.model_dump_json(), pickle.dumps(config)]
    assert not any(leaks_in(s.encode() if isinstance(s, str) else s, "config") for s in shown)
    assert not [warning for warning in config.warnings() if "written out" in warning]
    written = loads(CONFIG.replace("${HOUSE_PASSWORD}", PASSWORD))
    assert not leaks_in(f"{written!r} {written.model_dump_json()}".encode(), "config")
    (warning,) = [warning for warning in written.warnings() if "written out" in warning]
    assert warning.startswith("sinks.house.password: ")
    assert not leaks_in(warning.encode(), "the warning")
    keys: Any = ApiKeys.load(tmp_path / "keys.conf")
    assert not leaks_in(repr(keys).encode(), "repr")
