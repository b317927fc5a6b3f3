"""The style as tests: what a reader of this code may rely on."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdp_ray_sinks
from cdp_ray_sinks import exports
from cdp_ray_sinks.sinks.registry import SINKS
from cdp_ray_sinks.sources.registry import SOURCES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cdp_ray_sinks"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
COLUMNS_MAX = 100
FILE_BYTES_MAX = 200_000

BANNED_FILES = {"util", "utils", "common", "helper", "helpers", "manager", "core", "misc"}
BANNED_WORDS = {
    "blackhole": "null",
    "bulk": "batch",
    "dispatcher": "router",
    "dlq": "dead_letter",
    "inflight": "in_flight",
    "micro_batch": "batch",
    "num_": "…_count",
    "outstanding": "in_flight",
    "rollover": "rotation",
    "tenant": "workspace",
    "throttling": "backpressure",
    "watermark": "checkpoint",
}
"""Words that mean the same as one of ours, and ours."""

TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".fbs", ".sql", ".json", ".txt", ""}
MACHINE_PATH = re.compile(r"/(?:work|root|home)/[a-z]")
NEIGHBOUR = "../" + "shared"
UNFINISHED = re.compile(r"\b(?:" + "|".join(["FIX" + "ME", "XX" + "X", "TO" + "DO"]) + r")\b")


def python_files(folder: Path = PACKAGE) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return [path for path in found if "generated" not in path.parts]


def repository_files() -> Iterator[Path]:
    """Every text file that belongs to the project, wherever it lies."""
    folders = ["cdp_ray_sinks", "tests", "examples", "cluster", ".ci"]
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            is_text = path.is_file() and path.suffix in TEXT_SUFFIXES
            if is_text and "__pycache__" not in path.parts and "generated" not in path.parts:
                yield path
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in {".md", ".toml", ".yaml"})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_fit_on_a_screen() -> None:
    """No function is longer than 70 lines."""
    long = [
        f"{name_of(path)}: {function.name} has {lines} lines"
        for path in python_files()
        for function in functions(ast.parse(path.read_text()))
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    """No module of the package is longer than 400 lines."""
    long = [
        f"{name_of(path)} has {lines} lines"
        for path in python_files()
        if (lines := path.read_text().count("\n")) > FILE_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_lines_are_narrow() -> None:
    """No line of code is wider than 100 columns."""
    wide = [
        f"{name_of(path)}:{number}"
        for path in [
            *python_files(),
            *python_files(ROOT / "tests"),
            *python_files(ROOT / "examples"),
        ]
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > COLUMNS_MAX
    ]
    assert not wide, "\n".join(wide)


def test_init_files_hold_only_imports() -> None:
    """An `__init__.py` is a docstring, imports and `__all__`; never code."""

    def is_allowed(node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return all(is_allowed(inner) for inner in [*node.body, *node.orelse])
        if isinstance(node, ast.Assign):
            return [ast.unparse(target) for target in node.targets] == ["__all__"]
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)

    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in PACKAGE.rglob("__init__.py")
        if "generated" not in path.parts
        for node in ast.parse(path.read_text()).body
        if not is_allowed(node)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without `__init__.py` would be left out of the installed package."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    missing = [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing, "\n".join(sorted(missing))


def test_no_file_is_a_drawer() -> None:
    """Files are named after what is in them."""
    drawers = [name_of(path) for path in python_files() if path.stem in BANNED_FILES]
    assert not drawers, "\n".join(drawers)


def test_one_word_for_one_thing() -> None:
    """No name uses a word for which the glossary has another."""
    wrong = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or getattr(node, "arg", None)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            if not isinstance(name, str) or name == "num_cpus":  # Ray's own word
                continue
            line = getattr(node, "lineno", 0)
            for word, ours in BANNED_WORDS.items():
                if re.search(rf"(?:^|_){word}", name.lower()):
                    wrong.append(f"{name_of(path)}:{line}: {name}: say {ours}")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_marked_as_unfinished() -> None:
    """What is to be done stands in an issue, not in the code."""
    marks = [
        f"{name_of(path)}:{number}"
        for path in repository_files()
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if UNFINISHED.search(line)
    ]
    assert not marks, "\n".join(marks)


def test_no_file_knows_a_machine() -> None:
    """No path of one machine anywhere; only `.ci/run` may look for captures beside the project."""
    marks = [
        f"{name_of(path)}:{number}"
        for path in repository_files()
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if MACHINE_PATH.search(line) or (NEIGHBOUR in line and path.parent.name != ".ci")
    ]
    assert not marks, "\n".join(marks)
    assert (ROOT / ".ci" / "run").read_text().count(NEIGHBOUR + "/") <= 2


def test_no_file_is_large() -> None:
    """Golden files and all else stay small."""
    large = [name_of(path) for path in repository_files() if path.stat().st_size > FILE_BYTES_MAX]
    assert not large, "\n".join(large)


def test_a_broad_except_gives_its_reason() -> None:
    """`except Exception` has a comment on its line that says why."""
    silent = []
    for path in python_files():
        lines = path.read_text().split("\n")
        for node in ast.walk(ast.parse("\n".join(lines))):
            is_broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            )
            if not is_broad or _raises_again(node):
                continue
            comment = lines[node.lineno - 1].partition("#")[2]
            reason = re.sub(r"noqa:?\s*[A-Z0-9, ]*", "", comment).strip(" -")
            if len(reason) < 10:
                silent.append(f"{name_of(path)}:{node.lineno}")
    assert not silent, "\n".join(silent)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether the handler ends by raising what it caught: it hides nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_every_public_name_has_a_docstring() -> None:
    """Modules, classes, functions and methods without an underscore say what they do."""
    silent = []
    for path in python_files():
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) and path.stat().st_size:
            silent.append(f"{name_of(path)}:1")
        silent += [f"{name_of(path)}:{line}: {name}" for line, name in _undocumented(tree)]
    assert not silent, "\n".join(silent)


def _undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[int, str]]:
    for node in scope.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if node.name.startswith("_") or "overload" in decorators:
                continue
            if not ast.get_docstring(node):
                yield node.lineno, node.name
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(node)


@pytest.mark.parametrize("sink_type", SINKS)
def test_a_sink_has_its_module_its_test_and_its_row(sink_type: str) -> None:
    """A registered sink is built, tested, told of in the README, and kept to itself."""
    module = SINKS[sink_type].split(":")[0]
    name = module.rsplit(".", 1)[1]
    assert (PACKAGE / "sinks" / f"{name}.py").exists() or (PACKAGE / "sinks" / name).is_dir()
    assert list((ROOT / "tests" / "sinks").glob(f"test_{name}*.py"))
    assert f"| `{sink_type}` |" in (ROOT / "README.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    kept_apart = [c["modules"] for c in contracts["contracts"] if c["type"] == "independence"]
    assert module in kept_apart[0]


@pytest.mark.parametrize("source_type", SOURCES)
def test_a_source_has_its_module_its_test_and_its_row(source_type: str) -> None:
    """A registered source is built, tested and told of in the README."""
    name = SOURCES[source_type].split(":")[0].rsplit(".", 1)[1]
    assert (PACKAGE / "sources" / f"{name}.py").exists()
    assert list((ROOT / "tests" / "sources").glob(f"test_{name}*.py"))
    assert f"| `{source_type}` |" in (ROOT / "README.md").read_text()


def test_public_names_are_sorted_and_there() -> None:
    """`__all__` is what `exports` can load, and each of them loads and is documented."""
    names = [name for group in exports.MODULES.values() for name in group]
    assert cdp_ray_sinks.__all__ == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(cdp_ray_sinks, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        exports.load_public("no_such_name")


def test_the_readme_shows_every_public_class() -> None:
    """Each public sink, source and reader is named in the README."""
    text = (ROOT / "README.md").read_text()
    missing = [name for name in cdp_ray_sinks.__all__ if name not in text]
    assert not missing, "\n".join(missing)
