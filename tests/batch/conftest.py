"""What the tests of messages share."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def oracle() -> Any:
    """Builds and reads messages by the flatbuffers library: see message_oracle.py."""
    path = Path(__file__).with_name("message_oracle.py")
    spec = spec_from_file_location("message_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Oracle()
