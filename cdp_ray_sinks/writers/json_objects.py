"""Payloads of JSON to Python objects, many at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

NO_PAYLOAD = "without a payload"
NOT_JSON = "whose payload is not JSON"
NOT_AN_OBJECT = "whose payload is JSON, but no object"


def parse_objects(payloads: Sequence[bytes | None]) -> list[JsonObject | str]:
    """The object of each payload, or the reason why there is none."""
    return [_parsed(payload) for payload in payloads]


def _parsed(payload: bytes | None) -> JsonObject | str:
    if not payload:
        return NO_PAYLOAD
    try:
        found = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return NOT_JSON
    return found if isinstance(found, dict) else NOT_AN_OBJECT


def text_of(value: Any) -> str:
    """A string as it is, anything else as the JSON text of it."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    # JSON can escape half of a surrogate pair, which no UTF-8 can hold.
    return text.encode("utf-8", "replace").decode()
