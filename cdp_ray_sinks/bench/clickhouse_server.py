"""A real ClickHouse server on this machine, out of the chdb wheel, for tests and benchmarks.

The wheel's library holds all of `clickhouse local`, which since version 26 can listen for
HTTP with the server's own code. A child process loads it and calls its entry; see
`clickhouse_entry`. It is no way to run a ClickHouse that is to be kept: an undocumented
inside of one pinned wheel. Not as a real server: ReplicatedMergeTree stays read-only, there is
no ON CLUSTER, no user made by SQL, and the database `default` takes no tables.

    python -m cdp_ray_sinks.bench.clickhouse_server DIRECTORY PORT [CONFIG]
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final

from cdp_ray_sinks.bench.clickhouse_entry import entry_distance, library_path

START_S: Final = 120
_PR_SET_PDEATHSIG: Final = 1
# What keeps the process: a query over stdin, which never ends.
_QUERY: Final = (
    "SYSTEM START LISTEN HTTP; SELECT count() FROM file('/dev/stdin', 'LineAsString') FORMAT Null"
)


class ClickHouseServer:
    """A server of this process: it ends with it. `start` after `kill` has the same port.

    `config` is the text of a configuration file, for users and limits.
    """

    def __init__(self, directory: Path, config: str | None = None) -> None:
        self.directory = directory
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers. Raises RuntimeError with its own words if it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", __name__, str(self.directory / "data"), str(self.port)]
        if self._config is not None:
            path = self.directory / "config.xml"
            # The file names itself as the place where the users are.
            path.write_text(self._config.replace("{config}", str(path)))
            command.append(str(path))
        log = self.directory / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        until = time.monotonic() + START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"ClickHouse did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it answers a ping."""
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=5) as answer:
                return bool(answer.read() == b"Ok.\n")
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash; safe to call twice. What it has acknowledged is in its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def pause(self, is_paused: bool = True) -> None:
        """Stop it where it is (SIGSTOP), or let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Its process; 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    def __enter__(self) -> ClickHouseServer:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run_server(directory: str, port: str, config: str | None = None) -> None:
    """Be the server until stdin closes. The process is not to be used for anything else."""
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    path = library_path()
    distance = entry_distance(path)
    loaded = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
    base = ctypes.cast(loaded.PyInit__chdb, ctypes.c_void_p).value or 0
    entry = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))(
        base + distance
    )
    arguments = ["clickhouse-local", "--path", directory, "--listen_host", "127.0.0.1"]
    arguments += ["--http_port", port, "--query", _QUERY]
    if config is not None:
        arguments += ["--config-file", config]
    texts = [argument.encode() for argument in arguments]
    status = entry(len(texts), (ctypes.c_char_p * (len(texts) + 1))(*texts, None))
    os._exit(status)  # the library's own threads would not let the interpreter end


if __name__ == "__main__":
    run_server(*sys.argv[1:])
