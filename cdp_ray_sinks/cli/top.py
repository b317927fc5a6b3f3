"""`cdp-sinks top`: a running pipeline, looked at again and again."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TextIO

from cdp_ray_sinks.cli.look import Look, view
from cdp_ray_sinks.cli.output import escaped, print_json, results_apart
from cdp_ray_sinks.cli.running import noted_address, notes_folder, use_auth_token
from cdp_ray_sinks.cli.top_view import drawn
from cdp_ray_sinks.errors import CdpError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

LOOKS: Final = 3
"""Rates are those between the newest look and one so many before it."""
PATIENCE_S: Final = 30.0
PLAIN_COLUMNS: Final = 140
Ask = Callable[[], dict[str, Any]]


class NoAnswerError(CdpError):
    """The cluster does not answer any more."""


class Watch:
    """Asks for the status in a thread of its own, because a lost cluster answers nobody."""

    def __init__(self, ask: Ask, interval_s: float) -> None:
        self._ask = ask
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._looks: deque[Look] = deque(maxlen=LOOKS + 1)
        self._count = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                look, error = Look(time.monotonic(), self._ask()), None
            except Exception as failure:  # noqa: BLE001 - whoever looks is told of it
                look, error = None, failure
            with self._changed:
                if look is not None:
                    self._looks.append(look)
                else:
                    self._looks.clear()
                self._error = error
                self._count += 1
                self._changed.notify_all()
            time.sleep(max(0.05, self._interval_s - (time.monotonic() - began_s)))

    def _has_more(self, count: int) -> bool:
        return self._count > count

    def views(self) -> Iterator[dict[str, Any] | Exception]:
        """What is to be seen after every look, or why nothing is.

        Raises NoAnswerError when nothing comes any more.
        """
        count = 0
        while True:
            with self._changed:
                if not self._changed.wait_for(partial(self._has_more, count), PATIENCE_S):
                    raise NoAnswerError(f"the cluster has not answered for {PATIENCE_S:g} s")
                count, error, looks = self._count, self._error, list(self._looks)
            if error is not None:
                yield error
            else:
                yield view(looks[-1], looks[0] if len(looks) > 1 else None)


def show_top(
    name: str, address: str | None, namespace: str, interval_s: float, once: bool, as_json: bool
) -> int:
    """Show the pipeline until Ctrl-C; with `once` two looks, then 0.

    On a terminal it fills the screen and stays when the pipeline is gone, to wait for the next
    of that name. Elsewhere, and with JSON, look follows look, and it ends with the pipeline.
    """
    use_auth_token(os.environ)
    from cdp_ray_sinks import pipeline

    address = address or noted_address(notes_folder(os.environ), name)
    with results_apart() as results:
        pipeline.status(name, address, namespace)  # what is wrong with the arguments ends it here
        watch = Watch(lambda: pipeline.status(name, address, namespace), interval_s)
        try:
            if results.isatty() and not once and not as_json:
                _fill_screen(watch, results)
            else:
                _print_looks(watch, results, once, as_json)
        except KeyboardInterrupt:
            return 0
    return 0


def _print_looks(watch: Watch, results: TextIO, once: bool, as_json: bool) -> None:
    """One look below the other; those without rates are left out."""
    for found in watch.views():
        if isinstance(found, ConfigError):
            raise found
        if isinstance(found, Exception):
            raise NoAnswerError(_reason(found))
        if found["interval_s"] is None:
            continue
        if as_json:
            print_json(found, results)
        else:
            console = _console(results)
            console.print(drawn(found, console.width))
            if not once:
                console.print()
        if once:
            return


def _fill_screen(watch: Watch, results: TextIO) -> None:
    from rich.text import Text

    console = _console(results)
    answered_s = time.monotonic()
    with _screen(console) as show:
        for found in watch.views():
            is_answer = isinstance(found, ConfigError) or not isinstance(found, Exception)
            answered_s = time.monotonic() if is_answer else answered_s
            if isinstance(found, Exception):
                if time.monotonic() - answered_s > PATIENCE_S:
                    raise NoAnswerError(_reason(found))
                show(Text(escaped(f"{_reason(found)}; waiting, Ctrl-C ends")))
            else:
                show(drawn(found, console.width, console.height - 1))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, CdpError) else f"the cluster does not answer: {lines[0]}"


@contextmanager
def _screen(console: Console) -> Iterator[Callable[[Any], None]]:
    """The whole terminal, given back as it was, whatever happens."""
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda shown: live.update(shown, refresh=True)


def _console(out: TextIO) -> Console:
    from rich.console import Console

    width = None if out.isatty() else PLAIN_COLUMNS
    return Console(file=out, highlight=False, markup=False, width=width, soft_wrap=False)
