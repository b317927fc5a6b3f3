"""Sees that the key file has changed, and reads it again while the source goes on."""

from __future__ import annotations

import contextlib
import os
import threading

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.placeholders import exposure_of
from cdp_ray_sinks.sources.api_keys import ApiKeys, Signature, signature_of


class KeyFileWatch:
    """Looks at the file every `check_ms`, in a thread of its own while it is entered.

    A change counts once two looks find the same file, so that one that is being written is
    not read. A file that is broken or gone leaves the keys as they are, and is the
    `problem` until it is mended.
    """

    def __init__(self, keys: ApiKeys, check_ms: int) -> None:
        self._keys = keys
        self._check_ms = check_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-keys", daemon=True)
        self._read = self._seen = keys.signature
        self._exposure = exposure_of(keys.path)
        self._error = ""
        self.reloads = 0
        self.reload_errors = 0

    def __enter__(self) -> KeyFileWatch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(1)

    @property
    def problem(self) -> str:
        """What is wrong with the file, one sentence; empty while all is well."""
        return self._error or self._exposure

    def look(self) -> None:
        """One look; reads the file if it changed and then stayed for one look."""
        signature: Signature = ()
        with contextlib.suppress(OSError):
            signature = signature_of(os.stat(self._keys.path))  # noqa: PTH116 - as `open` does
        is_settled, self._seen = signature == self._seen, signature
        if signature == self._read or not is_settled:
            return
        self._exposure = exposure_of(self._keys.path)
        try:
            self._keys.reload()
        except ConfigError as error:
            self._read = signature
            self.reload_errors += 1
            self._error = f"{error}; the {len(self._keys)} keys from before stay in force"
            return
        self._read = self._keys.signature
        self.reloads += 1
        self._error = ""

    def _run(self) -> None:
        while not self._stop.wait(self._check_ms / 1000):
            self.look()
