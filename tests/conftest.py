"""What every test has: a quiet Ray, no deadlines for compilers, the captured bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports ray; processes that the tests start take these over.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
# Without .pyc files every worker process would compile all of Ray anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A first call of a kernel may compile it.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of captured client bytes that CDP_CAPTURES names; skips without it."""
    folder = os.environ.get("CDP_CAPTURES")
    if not folder:
        pytest.skip("CDP_CAPTURES names no folder of captured client bytes")
    return Path(folder)
