"""What a write is known by, so that the same one again adds nothing twice."""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.ray_data.row_batches import RowMapping

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_OWN_ID: Final = re.compile(r"([0-9]{13})-[0-9a-f]{8}")


def new_id(received_at_ms: int | None) -> tuple[str, int]:
    """An id that nothing else has, which tells the time when rows are received, and that time.

    The time is now unless given.
    """
    at_ms = time.time_ns() // 1_000_000 if received_at_ms is None else received_at_ms
    return f"{at_ms}-{secrets.token_hex(4)}", at_ms


def time_of(name: str, own_id: str, received_at_ms: int | None, mapping: RowMapping) -> int | None:
    """When rows under that id are received, which must be the same each time; None: rows tell.

    `name` is the argument that the id was given as. Raises ConfigError.
    """
    if not _ID.fullmatch(own_id):
        raise ConfigError(f"{name} = {own_id!r}: 1-100 letters, digits or any of _ . -")
    own = _OWN_ID.fullmatch(own_id)
    if received_at_ms is None and own is not None:
        return int(own[1])
    if received_at_ms is None and "received_at_ms" not in mapping.columns:
        raise ConfigError(
            f"{name} = {own_id!r}: give received_at_ms=… with it, or map a column to it: a "
            "second run must put the same rows into the same hour"
        )
    return received_at_ms
