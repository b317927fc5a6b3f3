"""Generations on their way: while some are inserted the next is made ready.

Threads, so that the machine decodes and compresses while the server works, and the server has
a second insert while it sorts and writes the first. Each generation begins in the order in
which it was handed in; two at once may end in the other order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.generation_file import Generation
from cdp_ray_sinks.sinks.clickhouse_blocks import Filling

READY_MAX: Final = 2
"""Generations made and not yet begun; more would only take memory."""


class InsertLine:
    """Makes and inserts what it is given, in the background, `at_once` inserts at a time.

    After an error nothing is begun until `settle` is called again.
    """

    def __init__(
        self,
        make: Callable[[Filling], Generation],
        insert: Callable[[Generation], None],
        at_once: int,
    ) -> None:
        self._make = make
        self._insert = insert
        self._changed = threading.Condition()
        self._fillings: deque[Filling] = deque()
        self._ready: deque[Generation] = deque()
        self._under_way: list[Generation] = []
        self._done: list[Generation] = []
        self._error: TransientError | None = None
        self._is_closing = False
        self._threads = [
            threading.Thread(target=work, name=f"clickhouse-{name}", daemon=True)
            for name, work in (("make", self._make_all), *[("insert", self._insert_all)] * at_once)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def submit(self, filling: Filling) -> None:
        """Hand in batches; never waits."""
        with self._changed:
            self._fillings.append(filling)
            self._changed.notify_all()

    @property
    def is_busy(self) -> bool:
        """Whether something is being made or inserted; not while an error is unsettled."""
        with self._changed:
            return self._has_work() and self._error is None

    def _has_work(self) -> bool:
        return bool(self._fillings or self._ready or self._under_way)

    @property
    def has_failed(self) -> bool:
        """Whether it waits for `settle`."""
        with self._changed:
            return self._error is not None

    def take_done(self) -> list[Generation]:
        """The generations inserted since this or `settle` was last called; does not wait."""
        with self._changed:
            done, self._done = self._done, []
            return done

    def settle(self) -> tuple[list[Generation], TransientError | None]:
        """Wait until all is inserted, or something has to wait.

        The generations inserted since the last call, and the reason why others are not.
        """
        with self._changed:
            self._error = None
            self._changed.notify_all()
            while self._has_work() and self._error is None:
                self._changed.wait()
            done, self._done = self._done, []
            return done, self._error

    def close(self) -> None:
        """Stop after what is under way. Safe to call twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _make_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._is_closing
                        or (self._fillings and len(self._ready) < READY_MAX and self._error is None)
                    )
                )
                if self._is_closing:
                    return
                filling = self._fillings[0]
            made = self._tried(partial(self._make, filling))
            if made is not None:
                with self._changed:
                    self._fillings.popleft()
                    self._ready.append(made)
                    self._changed.notify_all()

    def _insert_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closing or (self._ready and self._error is None)
                )
                if self._is_closing:
                    return
                generation = self._ready.popleft()
                self._under_way.append(generation)
                self._changed.notify_all()
            is_done = self._tried(partial(self._inserted, generation)) is not None
            with self._changed:
                self._under_way.remove(generation)
                if is_done:
                    self._done.append(generation)
                else:  # again, before those that came after it
                    self._ready.appendleft(generation)
                self._changed.notify_all()

    def _inserted(self, generation: Generation) -> Generation:
        self._insert(generation)
        return generation

    def _tried(self, step: Callable[[], Generation]) -> Generation | None:
        """What the step gives, or None once its error is noted."""
        try:
            return step()
        except TransientError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a thread that died would be a silent stop
            failure = TransientError(f"{type(error).__name__}: {error}")
        with self._changed:
            self._error = failure
            self._changed.notify_all()
        return None
