"""What the commands print: JSON or text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from cdp_ray_sinks.batch.safe_text import escaped as escaped

if TYPE_CHECKING:
    from rich.console import Console


def to_json(value: object) -> str:
    """One line of strict JSON in ASCII; floats that JSON lacks become their names as text."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def print_json(value: object, out: TextIO | None = None) -> None:
    """The one JSON value of a command, on stdout or on `out`."""
    out = out or sys.stdout
    out.write(to_json(value) + "\n")
    out.flush()


@contextmanager
def results_apart() -> Iterator[TextIO]:
    """What stdout was; from here on whatever else prints, prints to stderr.

    Ray prints what it notices, such as a lost worker, on the driver's stdout, from threads
    of its own and at any time. So stdout stays turned away until the process ends.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as results:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield results


def say(text: str) -> None:
    """A line for the person, on stderr, control characters escaped."""
    sys.stderr.write(escaped(text) + "\n")
    sys.stderr.flush()


def say_error(text: str) -> None:
    """Each line of an error's text, on stderr."""
    for line in text.split("\n"):
        say(f"error: {line}")


class Complaints:
    """Says the first few of what may be very many things, and counts all."""

    def __init__(self, what: str, shown_max: int = 20) -> None:
        self.count = 0
        self._what = what
        self._shown_max = shown_max

    def tell(self, text: object) -> None:
        """One more."""
        self.count += 1
        if self.count <= self._shown_max:
            say(f"{self._what}: {text}")

    def tell_rest(self) -> None:
        """How many were not said."""
        if self.count > self._shown_max:
            say(f"{self._what}: and {count_text(self.count - self._shown_max)} more")


def wants_colour() -> bool:
    """Whether stdout is a terminal that should get colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def stderr_console() -> Console:
    """For progress, which shows on a terminal only."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def bytes_text(count: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.95:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def count_text(count: float) -> str:
    """A number of things for people, with thousands apart."""
    return f"{count:,.0f}"
