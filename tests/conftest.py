"""What every test has: a quiet Ray, no deadlines for compilers, the captured bytes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer

# Before anything imports ray; processes that the tests start take these over.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
# A test that waits for metrics need not wait ten seconds.
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")
# Without .pyc files every worker process would compile all of Ray anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A first call of a kernel may compile it.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n` the tests of the shared cluster stay in one process, those of a file too."""
    for item in items:
        is_clustered = "cluster" in getattr(item, "fixturenames", ())
        group = "cluster" if is_clustered else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of captured client bytes that CDP_CAPTURES names; skips without it."""
    folder = os.environ.get("CDP_CAPTURES")
    if not folder:
        pytest.skip("CDP_CAPTURES names no folder of captured client bytes")
    return Path(folder)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A real ClickHouse server of this test session; each test makes a database of its own."""
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def lab_of(tmp_path: Path) -> Iterator[Callable[[ClickHouseServer], Any]]:
    """Makes a database on a server, and what a test does with it: see clickhouse_lab.py."""
    made = []

    def make(server: ClickHouseServer) -> Any:
        made.append(_beside("clickhouse_lab").Lab(server, tmp_path))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.fixture
def lab(clickhouse: ClickHouseServer, lab_of: Callable[[ClickHouseServer], Any]) -> Any:
    """The same on the server of this test session."""
    return lab_of(clickhouse)


@pytest.fixture(scope="session")
def collectors() -> Any:
    """What a forwarder may send to, and readers of what came: see collector_lab.py."""
    return _beside("collector_lab")


@pytest.fixture(scope="session")
def maker() -> Any:
    """Makes messages, batches and archives by hand: the `Maker` of archive_maker.py."""
    return _beside("archive_maker").Maker()


@pytest.fixture(scope="session")
def oracle() -> Any:
    """Builds and reads messages by the flatbuffers library: the `Oracle` of message_oracle.py."""
    return _beside("message_oracle").Oracle()


@pytest.fixture(scope="session")
def captured_rows() -> Any:
    """What the captured bytes are as rows: the `CapturedRows` of captured_rows.py."""
    return _beside("captured_rows").CapturedRows()


@pytest.fixture(scope="session")
def line_parser() -> Any:
    """Reads lines of text back: the `LineParser` of line_parser.py."""
    return _beside("line_parser").LineParser()


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A private cluster of this test session."""
    import ray

    with tempfile.TemporaryDirectory(prefix="cdp-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=400 * 1024 * 1024,
            include_dashboard=False,
            log_to_driver=False,
            namespace="cdp_ray_sinks",
            _temp_dir=temp,
        )
        yield
        ray.shutdown()


@pytest.fixture
def failing_disk() -> Any:
    """A disk that fails where a test says so: the `FailingFileSystem` of failing_disk.py."""
    return _beside("failing_disk").FailingFileSystem()


@pytest.fixture
def unsynced_disk() -> Any:
    """Makes a disk that forgets what was not synced: the `UnsyncedDisk` of failing_disk.py."""
    return _beside("failing_disk").UnsyncedDisk


@pytest.fixture(scope="session")
def crashing_disk() -> Any:
    """Makes a disk that ends the process: the `CrashingFileSystem` of failing_disk.py."""
    return _beside("failing_disk").CrashingFileSystem


def _beside(name: str) -> Any:
    # Tests are no package, so a file beside them is not there to be imported.
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
