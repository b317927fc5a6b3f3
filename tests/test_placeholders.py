"""Placeholders travel as written and are resolved where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placeholders import FILE_BYTES_MAX, anchored, resolve, resolved
from cdp_ray_sinks.sinks.base import SinkConfig
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig


class PlaceConfig(SinkConfig):
    type: Literal["place"] = "place"
    path: Path
    level: Literal["low", "high"] | str = "low"
    batch_count: int = 1


def test_variables_and_files_are_put_in_place(tmp_path: Path) -> None:
    """Several placeholders in one text, the file's last line end left out."""
    (tmp_path / "secret").write_text("s3cret\n")
    text = f"${{USER}}:${{file:{tmp_path}/secret}}@host"
    assert resolve(text, {"USER": "me"}) == "me:s3cret@host"


def test_text_without_placeholders_stays_as_it_is() -> None:
    """A dollar sign alone means nothing."""
    assert resolve("$5 and {x} and $NAME", {}) == "$5 and {x} and $NAME"


def test_what_is_put_in_is_not_resolved_again() -> None:
    """A value that looks like a placeholder stays text."""
    assert resolve("${A}", {"A": "${B}", "B": "no"}) == "${B}"


@pytest.mark.parametrize("text", ["${}", "${A B}", "${1}", "${MISSING}", "${file:/no/such}"])
def test_what_can_not_be_resolved_is_named(text: str) -> None:
    """The error repeats the placeholder."""
    with pytest.raises(ConfigError) as caught:
        resolve(text, {})
    assert text in str(caught.value)


def test_a_secret_file_is_bounded_and_text(tmp_path: Path) -> None:
    """Too many bytes and bytes that are no text are refused without showing them."""
    path = tmp_path / "secret"
    path.write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than"):
        resolve(f"${{file:{path}}}", {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        resolve(f"${{file:{path}}}", {})


def test_a_config_is_resolved_and_checked_again() -> None:
    """Paths and texts change, the rest stays; one without placeholders is the same object."""
    config = PlaceConfig(path=Path("${BASE}/x"), level="${LEVEL}", batch_count=3)
    done = resolved(config, {"BASE": "/data", "LEVEL": "high"}, "sinks.a")
    assert done == PlaceConfig(path=Path("/data/x"), level="high", batch_count=3)
    assert resolved(done, {}, "sinks.a") is done


def test_a_path_must_be_absolute_once_resolved() -> None:
    """An actor has no working directory that means anything."""
    with pytest.raises(ConfigError, match=r"sinks.a.path = '\$\{BASE\}/x'.*absolute"):
        resolved(PlaceConfig(path=Path("${BASE}/x")), {"BASE": "data"}, "sinks.a")


def test_an_error_after_resolving_hides_what_was_put_in() -> None:
    """The model refuses the value; the text of the error does not repeat it."""

    class Strict(SinkConfig):
        level: Literal["${LEVEL}", "high"]

    with pytest.raises(ConfigError, match="not shown") as caught:
        resolved(Strict(type="x", level="${LEVEL}"), {"LEVEL": "hunter2"}, "sinks.a")
    assert "hunter2" not in str(caught.value)


def test_anchoring_leaves_absolute_paths_and_leading_placeholders_alone() -> None:
    """Only what is relative as written is put under the folder."""
    folder = Path("/base")

    def put(path: str) -> str:
        return str(anchored(PlaceConfig(path=Path(path)), folder).path)

    assert put("a/b") == "/base/a/b"
    assert put("/a/b") == "/a/b"
    assert put("${BASE}/b") == "${BASE}/b"
    assert put("a/${NODE}") == "/base/a/${NODE}"
    assert put("~/x") == str(Path.home() / "x")


def test_a_path_given_as_text_is_anchored_too() -> None:
    """A field that takes text or a path is a path; one that takes text alone is not."""
    config = DiskBinaryConfig(path="archive")
    assert anchored(config, Path("/base")).path == Path("/base/archive")
    assert anchored(PlaceConfig(path=Path("/a")), Path("/base")).level == "low"
