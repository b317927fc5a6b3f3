"""What the tests of guards share: the same check with a guard in its place and taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.files.archive_reading import read_batches

PATIENCE_S = 90.0
PATIENCE_WITHOUT_S = 1.5
Scenario = Callable[[Path], set[str]]
TakeOut = Callable[[pytest.MonkeyPatch], object]


class Guards:
    """Plays a fault twice, and says what is broken of what was promised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.patience_s = PATIENCE_S
        """How long a scenario waits for what the guard brings about."""

    def show(self, scenario: Scenario, take_out: TakeOut, seen: str) -> None:
        """With the guard nothing is broken; without it `seen` is, at least."""
        with_guard = self._folder / "with"
        with_guard.mkdir()
        assert scenario(with_guard) == set()
        without = self._folder / "without"
        without.mkdir()
        self.patience_s = PATIENCE_WITHOUT_S
        with pytest.MonkeyPatch.context() as patch:
            take_out(patch)
            assert seen in scenario(without)

    def broken(self, acked: Iterable[int], there: Sequence[int]) -> set[str]:
        """What a reader misses who finds `there`, in this order, and was told of `acked`."""
        found = set()
        if set(acked) - set(there):
            found.add("acknowledged and not there")
        if len(there) != len(set(there)):
            found.add("twice")
        if list(dict.fromkeys(there)) != sorted(set(there)):
            found.add("out of order")
        return found

    def stored(self, base: Path) -> tuple[list[int], list[str]]:
        """The sequences of an archive's batches as they stand there, and what is damaged."""
        damage: list[str] = []
        found = read_batches([base], lambda problem: damage.append(str(problem)))
        return [batch.header.sequence for _, batch in found], damage


@pytest.fixture(scope="session")
def one_process() -> Any:
    """Producer, router and lanes in one process: the module `one_process.py`."""
    spec = spec_from_file_location("one_process", Path(__file__).with_name("one_process.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def guards(tmp_path: Path) -> Any:
    """Shows what a guard is for: see `Guards`."""
    return Guards(tmp_path)
