"""A sink of one's own: named by its class, checked like ours, held to the same promises."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.config import PipelineConfig, load
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.custom import folder_of
from cdp_ray_sinks.testing import FakeClock, check_sink, numbered_events

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_custom_sink.py"
MODULE = """
from typing import Literal
from pydantic import SecretStr, model_validator
from cdp_ray_sinks import NullConfig, SinkConfig

class Shelf(SinkConfig):
    path: str
    token: SecretStr = SecretStr("")
    boards: int = 3
    def build(self, context): return context

class Named(SinkConfig):
    type: Literal["shelf"] = "shelf"
    def build(self, context): return context

class Odd(Shelf):
    @model_validator(mode="after")
    def _look(self): return {}["nothing"]

class Idle(SinkConfig): pass

class Live:
    def write(self, batch): pass
    def flush(self): pass

class Outer:
    class Inner(Shelf): pass

number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules; what is imported from there is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    (tmp_path / "own_shelf.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("\n\n1 / 0\n")
    (tmp_path / "own_ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "own_needs.py").write_text("import not_there_at_all\n")
    (tmp_path / "own_typo.py").write_text("def (:\n")
    (tmp_path / "own_folder").mkdir()
    (tmp_path / "own_folder" / "07_shelf.py").write_text(MODULE)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("own_"):
            del sys.modules[name]


def sink(**options: Any) -> Any:
    """The checked config of a sink `mine`."""
    return PipelineConfig(sinks={"mine": options}).sinks["mine"]


def test_a_class_of_the_working_directory_is_found(here: Path) -> None:
    """Its own keys are checked, those of every sink are there, its folder is known."""
    found = sink(type="own_shelf:Shelf", path="x", boards=4, on_full="spool")
    assert (found.type, found.boards, found.on_full) == ("own_shelf:Shelf", 4, "spool")
    assert folder_of(found) == here
    packed = sink(type="own_folder.07_shelf:Outer.Inner", path="x")
    assert packed.type == "own_folder.07_shelf:Outer.Inner"
    assert folder_of(packed) == here
    assert type(packed).__qualname__ == "Outer.Inner"


def test_a_config_object_says_its_class_or_its_own_name(here: Path) -> None:
    """Without a type it is known by its class, with one by that."""
    assert sink(type="own_shelf:Named").type == "shelf"
    made = sys.modules["own_shelf"].Shelf(path="x")
    assert made.type == "own_shelf:Shelf"
    assert PipelineConfig(sinks={"mine": made}).sinks["mine"] is made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["sinks.mine.path: missing"]),
        (
            {"path": "x", "boards": "many", "bords": 1},
            [
                "sinks.mine.boards = 'many': ",
                "sinks.mine.bords: unknown key; did you mean 'boards'",
            ],
        ),
        ({"path": "x", "max_in_flight_bytes": 1}, ["sinks.mine.max_in_flight_bytes = 1: "]),
        ({"path": "x", "token": 17}, ["sinks.mine.token = (not shown): "]),
    ],
)
@pytest.mark.usefixtures("here")
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], said: list[str]) -> None:
    """As for a sink of ours: the sink, the key, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        sink(type="own_shelf:Shelf", **options)
    for text in said:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("sink_type", "said"),
    [
        ("own_shelves:Shelf", "no module named 'own_shelves' in {here} nor on Python's path"),
        ("own_folder.shelf:Shelf", "no module named 'own_folder.shelf' in {here} nor on"),
        ("own_shelf:Shelv", "{here}/own_shelf.py has no Shelv"),
        ("own_shelf:Outer.Other", "{here}/own_shelf.py has no Outer.Other"),
        ("own_shelf:number", "number is no class of cdp_ray_sinks.SinkConfig"),
        ("own_shelf:Live", "Live is no class of cdp_ray_sinks.SinkConfig; name the class of its"),
        ("own_shelf:Idle", "Idle has no build() of its own, so it makes no sink"),
        ("own_shelf:Odd", "KeyError: 'nothing'"),
        ("own_broken:Shelf", "importing own_broken: ZeroDivisionError: division by zero ({here}/"),
        ("own_ends:Shelf", "importing own_ends: SystemExit: 3"),
        ("own_needs:Shelf", "importing own_needs: No module named 'not_there_at_all'"),
        ("own_typo:Shelf", "importing own_typo: SyntaxError: "),
        ("own_shelf:", 'write "module:Class", the class of its options'),
        ("../own_shelf:Shelf", 'write "module:Class"'),
    ],
)
def test_a_class_that_is_none_is_told_with_its_place(here: Path, sink_type: str, said: str) -> None:
    """Which sink, which type, what is wrong with it and where it was looked for."""
    file = here / "pipeline.toml"
    file.write_text(f'[sinks.mine]\ntype = "{sink_type}"\npath = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load(file, needs_source=False)
    text = str(caught.value)
    assert text.startswith(f"{file}: sinks.mine"), text
    assert said.format(here=here) in text


def test_only_sinks_are_named_by_a_class(here: Path) -> None:
    """A source is not."""
    with pytest.raises(ConfigError, match=r"sources\.mine\.type .*unknown source type"):
        PipelineConfig(
            sources={"mine": {"type": "own_shelf:Shelf"}}, sinks={"nothing": {"type": "null"}}
        )


def test_the_example_keeps_the_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract suite that ours pass, as its author would run it."""
    monkeypatch.chdir(EXAMPLE.parent.parent)
    folder = tmp_path / "csv"

    def numbers() -> list[int]:
        """Those in the files; a batch that was sent again is still there once."""
        found = []
        for path in folder.glob("*"):
            with path.open(newline="") as file:
                payloads = [row["payload"] for row in csv.DictReader(file)]
            found += [json.loads(payload)["n"] for payload in payloads]
        return found

    config = sink(type="examples.07_custom_sink:CsvConfig", path=folder)
    csv.field_size_limit(2**31)
    check_sink(config, FakeClock(), numbers, numbered_events)
