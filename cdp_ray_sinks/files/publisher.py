"""The thread that turns committed journal segments into published files, for all of a lane.

First come first served: of a segment that is open one group of rows, a sealed one to its end,
so that few files are being made at a time. What fails is tried again from its begin, later:
all of it is in the journal.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import FencedError, TransientError
from cdp_ray_sinks.files.file_system import error_text
from cdp_ray_sinks.files.publication import Publication, Published
from cdp_ray_sinks.files.segment import Totals

RETRY_MS_MIN: Final = 500
RETRY_MS_MAX: Final = 30_000
STALLED_MS: Final = 60_000


@dataclass(slots=True)
class PublisherCounters:
    """What a publisher has done, and how much it has before it."""

    files_published: int = 0
    rows_published: int = 0
    published_bytes: int = 0
    publication_failures: int = 0
    found_published: int = 0


class Publisher:
    """One background thread. All methods may be called by any thread."""

    def __init__(self, clock: Clock, backlog_bytes_max: int) -> None:
        self.counters = PublisherCounters()
        self._clock = clock
        self._backlog_bytes_max = backlog_bytes_max
        self._changed = threading.Condition()
        self._due: OrderedDict[Publication, int] = OrderedDict()
        """Those with something to do, and the bytes that wait in them."""
        self._failing: dict[Publication, str] = {}
        self._backlog_bytes = 0
        self._steps = 0
        self._ending = False
        self._thread: threading.Thread | None = None

    @property
    def backlog_bytes(self) -> int:
        """Journalled bytes that wait to be made rows of."""
        return self._backlog_bytes

    @property
    def problem(self) -> str | None:
        """What keeps a segment from being published at the moment, None if nothing does."""
        with self._changed:
            return next(iter(self._failing.values()), None)

    def problem_of(self, publication: Publication) -> str | None:
        """What keeps that segment from being published at the moment."""
        with self._changed:
            return self._failing.get(publication)

    def note(self, publication: Publication, confirmed: Totals) -> None:
        """So much of a segment is committed."""
        with self._changed:
            publication.note(confirmed)
            self._offer(publication)

    def seal(self, publication: Publication) -> None:
        """A segment is sealed."""
        with self._changed:
            publication.seal()
            self._offer(publication)

    def drop(self, publications: Sequence[Publication]) -> None:
        """Publish these no more; waits for the step that is under way."""
        with self._changed:
            for publication in publications:
                publication.is_dropped = True
                self._forget(publication)
            self._changed.wait_for(lambda: not any(p.is_busy for p in publications))
        for publication in publications:
            publication.start_again()

    def wait_for_room(self) -> None:
        """Wait while the backlog is above its bound and gets smaller.

        Raises TransientError if publication fails, or does nothing for a minute.
        """
        with self._changed:
            steps, since_ms = self._steps, self._clock.monotonic_ms()
            while self._backlog_bytes > self._backlog_bytes_max:
                stalled_ms = self._clock.monotonic_ms() - since_ms
                reason = next(iter(self._failing.values()), None)
                if reason is not None or stalled_ms > STALLED_MS:
                    raise TransientError(
                        f"{self._backlog_bytes} bytes of the journal wait to be published, "
                        f"{self._backlog_bytes_max} may: {reason or 'publishing stalls'}"
                    )
                self._changed.wait(0.1)
                if steps != self._steps:
                    steps, since_ms = self._steps, self._clock.monotonic_ms()

    def join(self, publications: Sequence[Publication]) -> None:
        """Wait until each of the sealed ones is published, or has failed once more."""
        with self._changed:
            left = {p: p.failure_count for p in publications if p.is_sealed}
            for publication in left:
                publication.retry_at_ms = 0
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: all(
                    p.is_done or p.is_dropped or p.failure_count > count
                    for p, count in left.items()
                )
            )

    def close(self) -> None:
        """End the thread after the step under way. Safe to call twice."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _offer(self, publication: Publication) -> None:
        waiting = publication.pending_bytes if publication.is_due else None
        if waiting is None:
            self._forget(publication)
            return
        self._backlog_bytes += waiting - self._due.get(publication, 0)
        self._due[publication] = waiting
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _forget(self, publication: Publication) -> None:
        self._backlog_bytes -= self._due.pop(publication, 0)
        self._failing.pop(publication, None)

    # -- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                publication = self._next()
                if publication is None:
                    return
                publication.is_busy = True
                known, is_sealed = publication.known, publication.is_sealed
            published, error = self._step(publication, known, is_sealed=is_sealed)
            with self._changed:
                publication.is_busy = False
                self._steps += 1
                self._after(publication, published, error)
                self._changed.notify_all()

    def _next(self) -> Publication | None:
        """The next one with something to do; waits for it. None when it is time to end."""
        while not self._ending:
            now_ms = self._clock.monotonic_ms()
            wait_ms = RETRY_MS_MAX
            for publication in self._due:
                if publication.retry_at_ms <= now_ms:
                    if not publication.is_sealed:
                        self._due.move_to_end(publication)
                    return publication
                wait_ms = min(wait_ms, publication.retry_at_ms - now_ms)
            self._changed.wait(wait_ms / 1000)
        return None

    def _step(
        self, publication: Publication, known: Totals, *, is_sealed: bool
    ) -> tuple[Published | None, Exception | None]:
        try:
            return publication.step(known, is_sealed=is_sealed), None
        except Exception as error:  # noqa: BLE001 - one segment must not keep the others back
            publication.start_again()
            return None, error

    def _after(
        self, publication: Publication, published: Published | None, error: Exception | None
    ) -> None:
        if publication.is_dropped:
            return
        if isinstance(error, FencedError):
            publication.is_dropped = True
            self._forget(publication)
        elif error is not None:
            text = error_text(error) if isinstance(error, OSError) else str(error)
            delay_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(publication.failure_count, 16))
            publication.retry_at_ms = self._clock.monotonic_ms() + delay_ms
            publication.failure_count += 1
            self.counters.publication_failures += 1
            self._forget(publication)
            self._offer(publication)
            self._failing[publication] = f"can't publish {publication.path}: {text}"
        else:
            publication.retry_at_ms = 0
            self._failing.pop(publication, None)
            if published is not None:
                publication.is_done = True
                self._count(published)
            self._offer(publication)

    def _count(self, published: Published) -> None:
        self.counters.found_published += published.was_there
        if published.path is not None and not published.was_there:
            self.counters.files_published += 1
            self.counters.rows_published += published.rows
            self.counters.published_bytes += published.written_bytes
