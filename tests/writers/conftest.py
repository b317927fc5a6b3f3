"""What the tests of formats share."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def oracle() -> Any:
    """Builds and reads messages by the flatbuffers library: see batch/message_oracle.py."""
    path = Path(__file__).parents[1] / "batch" / "message_oracle.py"
    spec = spec_from_file_location("message_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Oracle()
